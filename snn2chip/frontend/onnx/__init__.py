"""Models in ONNX: the neurons are found in the arithmetic, and proved."""

from snn2chip.frontend.onnx.read import read_graph

__all__ = ["read_graph"]
