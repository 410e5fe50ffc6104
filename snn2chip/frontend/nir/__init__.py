"""NIR files: graphs of other tools, and the programs snn2chip wrote."""

from snn2chip.frontend.nir.read import read_graph, read_program

__all__ = ["read_graph", "read_program"]
