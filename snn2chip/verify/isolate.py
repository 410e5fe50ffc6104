"""Cut a network at a population: what comes after it, and one population with the synapses before it.

Both serve to say which layer a difference comes from. The tail answers "what if only the layers up to here
were fixed point"; the part answers "how well does this layer alone reproduce the float spikes, given the
float network's own spikes as its input".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TypeVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Network, Node, in_order
from snn2chip.ir.layers import Input, Neuron, Output
from snn2chip.ir.program import Format, Program

AnyNetwork = TypeVar("AnyNetwork", bound=Network)

_INPUT, _OUTPUT = "input of the cut", "output of the cut"


def tail(graph: Graph, population: str) -> Graph | None:
    """The graph from the spikes of ``population`` [N, T, ...] on; None where something else leads past it."""
    kept: dict[str, Node] = {}
    pending = [graph.output.name]
    while pending:
        node = graph[pending.pop()]
        if isinstance(node.layer, Input):
            return None
        if node.name in kept:
            continue
        kept[node.name] = node
        for edge in node.inputs:
            if edge.source != population:
                pending.append(edge.source)
            elif edge.port != "out":
                return None
    if population in kept:
        return None
    return _cut(graph, list(kept.values()), population)


def part(program: Program, population: str, between: Collection[str] = ()) -> tuple[Program, str] | None:
    """``population`` with what lies between it and the one population (or input) before it, and that one's name.

    Args:
        between: populations to pass by on the way back: the float network has none there, such as the one that a
            max pool became.

    None where it has several sources, or one that sends anything but spikes.
    """
    kept = {population: program[population]}
    pending = list(program[population].inputs)
    sources: set[str] = set()
    while pending:
        edge = pending.pop()
        if edge.source == population:
            continue
        if edge.port != "out":
            return None
        node = program[edge.source]
        if isinstance(node.layer, Neuron | Input) and node.name not in between:
            sources.add(node.name)
        elif node.name not in kept:
            kept[node.name] = node
            pending += node.inputs
    if len(sources) != 1:
        return None
    (source,) = sources
    node = program[source]
    if isinstance(node.layer, Neuron) and not fires(node):
        return None
    nodes = [*kept.values(), Node(_OUTPUT, Output(), (Edge(population),))]
    if isinstance(node.layer, Input):
        cut = dataclasses.replace(program, nodes=in_order([node, *nodes]), output_scale=np.asarray(1.0))
        return cut, source
    signed = isinstance(node.layer, Neuron) and node.layer.model.spikes[0] < 0
    formats = {**program.formats, _INPUT: Format(1 + signed, signed, 1.0, overflow="error")}
    cut = dataclasses.replace(_cut(program, nodes, source), formats=formats, output_scale=np.asarray(1.0))
    return cut, source


def fires(node: Node) -> bool:
    """Whether the population sends spikes; an integrator sends its membrane."""
    return not node.layer.kind.endswith("LI")


def _cut(network: AnyNetwork, nodes: list[Node], source: str) -> AnyNetwork:
    """A network of ``nodes`` in which the spikes of ``source`` are the data."""

    def entering(node: Node) -> Node:
        edges = (dataclasses.replace(e, source=_INPUT) if e.source == source else e for e in node.inputs)
        return dataclasses.replace(node, inputs=tuple(edges))

    entrance = Node(_INPUT, Input(network.shapes()[source]))
    ordered = in_order([entrance, *map(entering, nodes)])
    return dataclasses.replace(network, nodes=ordered, coding="steps")
