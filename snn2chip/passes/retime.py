"""Delays between layers become one delay behind the last of them: what they feed works that much earlier.

A network whose every layer sends its spikes one step late is, up to that lag at its end, the same network without the
delays. It holds for layers that answer zeros with zeros, and for neurons that an input of zeros leaves at rest; a delay
in front of anything else stays where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from snn2chip.ir.graph import Edge, Graph, Node, in_order
from snn2chip.ir.layers import Add, Concat, Conv, Delay, Flatten, Gather, Linear, Neuron, Permute, Pool, Reshape, Scale
from snn2chip.passes.base import Pass

_ZERO_TO_ZERO = (Add, Concat, Delay, Flatten, Gather, Permute, Pool, Reshape, Scale)


@dataclass(frozen=True, eq=False)
class Retime(Pass):
    """Move delays behind the layers they feed, as far as they go."""

    name: ClassVar[str] = "retime"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        lags = _lags(graph)
        if not any(lags.values()):
            return graph, ()
        steps = {n.name: _wait(lags, n, n.inputs[0]) for n in graph if isinstance(n.layer, Delay)}
        gone = {name for name, left in steps.items() if not left}
        nodes: dict[str, Node] = {}
        for node in graph:
            waits = [] if isinstance(node.layer, Delay) else _forward(graph, node)
            edges = []
            for edge in node.inputs:
                moved = dataclasses.replace(edge, source=_behind(graph, gone, edge.source))
                wait = _wait(lags, node, edge) if edge in waits else 0
                edges.append(_delayed(graph, nodes, moved, wait) if wait else moved)
            layer = Delay(steps[node.name]) if node.name in steps else node.layer
            if node.name not in gone:
                nodes[node.name] = dataclasses.replace(node, layer=layer, inputs=tuple(edges))
        changed = [name for name, lag in lags.items() if lag] + [name for name in nodes if name not in graph.nodes]
        return dataclasses.replace(graph, nodes=in_order(nodes.values())), tuple(changed)

    def earlier(self, graph: Graph) -> Mapping[str, int]:
        """See :meth:`Pass.earlier`."""
        lags = _lags(graph)
        return {node.name: lags[node.name] for node in graph.neurons if lags.get(node.name)}


def _lags(graph: Graph) -> dict[str, int]:
    """By how many steps each layer can work earlier than it does.

    What only moves or weighs spikes works no earlier than its readers take it up, so that a delay that remains stands
    right behind a population, in front of the synapses.
    """
    movable = set() if _top_down(graph) else _movable(graph)
    lags = dict.fromkeys(movable, sum(n.layer.steps for n in graph if isinstance(n.layer, Delay)))
    before: dict[str, int] = {}
    while before != lags:
        before = dict(lags)
        for node in (n for n in graph if n.name in movable):
            own = node.layer.steps if isinstance(node.layer, Delay) else 0
            bounds = [own + lags.get(e.source, 0) for e in _forward(graph, node)]
            if not isinstance(node.layer, Neuron):
                readers = _forward_readers(graph, node)
                bounds += [lags.get(r.name, 0) for r in readers if not isinstance(r.layer, Delay)]
            lags[node.name] = min(lags[node.name], *bounds)
    return lags


def _wait(lags: Mapping[str, int], node: Node, edge: Edge) -> int:
    """Steps by which a layer still has to wait for an input, its own delay included."""
    own = node.layer.steps if isinstance(node.layer, Delay) else 0
    return own + lags.get(edge.source, 0) - lags.get(node.name, 0)


def _delayed(graph: Graph, nodes: dict[str, Node], edge: Edge, steps: int) -> Edge:
    """An edge from a new delay of this many steps behind its source."""
    name = f"{edge.source}.delay{steps}" + (f".{edge.port}" if edge.port != "out" else "")
    before = dataclasses.replace(edge, delay=0)
    nodes[name] = Node(name, Delay(steps), (before,), graph[edge.source].source)
    return dataclasses.replace(edge, source=name, port="out")


def _movable(graph: Graph) -> set[str]:
    """Layers that pass a lag on to their readers, or, as populations, take it up."""
    movable: set[str] = set()
    for node in reversed(list(graph)):
        if isinstance(node.layer, Neuron):
            synapses = [graph[e.source] for e in node.inputs]
            fits = node.layer.model.rests and all(_silent(s) for s in synapses)
        else:
            readers = _forward_readers(graph, node)
            fits = _silent(node) and bool(readers) and all(r.name in movable for r in readers)
        if fits and _forward(graph, node):
            movable.add(node.name)
    return movable


def _top_down(graph: Graph) -> bool:
    """Whether a population hears the spikes of a later one, which then could not work earlier than the other."""
    feeds = [(node, edge) for node in graph.neurons for edge in node.inputs]
    feeds += [(node, e) for node, edge in feeds for e in graph[edge.source].inputs]
    return any(edge.recurrent and edge.source != node.name for node, edge in feeds)


def _silent(node: Node) -> bool:
    """Whether a layer answers zeros with zeros."""
    if isinstance(node.layer, Linear | Conv):
        return node.layer.bias is None or not node.layer.bias.any()
    return isinstance(node.layer, _ZERO_TO_ZERO) or (isinstance(node.layer, Neuron) and node.layer.model.rests)


def _forward(graph: Graph, node: Node) -> list[Edge]:
    """The edges a layer is fed by from before it: neither recurrent, nor from a synapse of its own spikes."""

    def returns(source: Node) -> bool:
        return bool(source.inputs) and all(e.recurrent for e in source.inputs)

    return [edge for edge in node.inputs if not edge.recurrent and not returns(graph[edge.source])]


def _forward_readers(graph: Graph, node: Node) -> list[Node]:
    return [r for r in graph.consumers(node.name) if any(e.source == node.name and not e.recurrent for e in r.inputs)]


def _behind(graph: Graph, gone: Collection[str], name: str) -> str:
    """The layer that feeds a chain of delays that are gone."""
    while name in gone:
        name = graph[name].inputs[0].source
    return name
