"""What has to be run together: cycles of the network, and everything else node by node."""

from __future__ import annotations

from dataclasses import dataclass

from snn2chip.ir.cycles import components
from snn2chip.ir.graph import Node
from snn2chip.ir.program import Program


@dataclass(frozen=True)
class Component:
    """Nodes that are run together: one node over all steps, or a cycle of the network step by step."""

    nodes: tuple[Node, ...]
    stepped: bool


def components_of(program: Program) -> tuple[Component, ...]:
    """Strongly connected components in order of execution."""
    order = {name: i for i, name in enumerate(program.nodes)}
    sources = {node.name: [e.source for e in node.inputs] for node in program}
    found = []
    for names in components(sources):
        nodes = tuple(program[name] for name in sorted(names, key=order.__getitem__))
        stepped = len(nodes) > 1 or any(e.source == nodes[0].name for e in nodes[0].inputs)
        found.append(Component(nodes, stepped))
    return tuple(found)
