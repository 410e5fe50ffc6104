"""What has to be run together: cycles of the network, and everything else node by node."""

from __future__ import annotations

from dataclasses import dataclass

from snn2chip.ir.graph import Node
from snn2chip.ir.program import Program


@dataclass(frozen=True)
class Component:
    """Nodes that are run together: one node over all steps, or a cycle of the network step by step."""

    nodes: tuple[Node, ...]
    stepped: bool


def components_of(program: Program) -> tuple[Component, ...]:
    """Strongly connected components in order of execution (Tarjan 1972, iterative)."""
    order = {name: i for i, name in enumerate(program.nodes)}
    sources = {node.name: [e.source for e in node.inputs] for node in program}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for root in program.nodes:
        work = [(root, iter(sources[root]))] if root not in index else []
        if work:
            index[root] = low[root] = len(index)
            stack.append(root)
        while work:
            name, rest = work[-1]
            for source in rest:
                if source not in index:
                    index[source] = low[source] = len(index)
                    stack.append(source)
                    work.append((source, iter(sources[source])))
                    break
                if source in stack:
                    low[name] = min(low[name], index[source])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    cut = stack.index(name)
                    found.append(stack[cut:])
                    del stack[cut:]
    components = []
    for names in found:
        nodes = tuple(program[name] for name in sorted(names, key=order.__getitem__))
        stepped = len(nodes) > 1 or any(e.source == nodes[0].name for e in nodes[0].inputs)
        components.append(Component(nodes, stepped))
    return tuple(components)
