"""Programs as ``.onnx`` files."""

from snn2chip.emit.onnx.write import write_onnx

__all__ = ["write_onnx"]
