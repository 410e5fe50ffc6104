"""How a network read from a file ends: its read-out over time and its Output, both on the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node


def with_readout(nodes: Iterable[Node], edge: Edge, how: Any, output: str = "output") -> list[Node]:
    """The nodes, a Readout of ``edge`` (unless ``how`` is "none"), and an Output.

    Args:
        output: name of the Output; where a node has it already, it is told apart by "network".
    """
    every = list(nodes)
    taken = {node.name for node in every}
    if how != "none":
        name = _free("readout", taken)
        every.append(Node(name, L.Readout(how), (edge,), placement="host"))
        edge = Edge(name)
    return [*every, Node(_free(output, taken), L.Output(), (edge,), placement="host")]


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else f"network {name}"
