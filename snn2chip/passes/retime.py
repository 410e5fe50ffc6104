"""Delays between layers become one delay behind the last of them: what they feed works that much earlier.

A network whose every layer sends its spikes one step late is, up to that lag at its end, the same network without the
delays. It holds for layers that answer zeros with zeros, and for neurons that an input of zeros leaves at rest; a delay
in front of anything else stays where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from snn2chip.ir.graph import Edge, Graph, Node, in_order
from snn2chip.ir.layers import Add, Concat, Conv, Delay, Flatten, Linear, Neuron, Permute, Pool, Reshape, Scale
from snn2chip.passes.base import Pass

_ZERO_TO_ZERO = (Add, Concat, Delay, Flatten, Permute, Pool, Reshape, Scale)


@dataclass(frozen=True, eq=False)
class Retime(Pass):
    """Move delays behind the layers they feed, as far as they go."""

    name: ClassVar[str] = "retime"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        lags = _lags(graph)
        moved = [n.name for n in graph if isinstance(n.layer, Delay) and n.name in lags]
        if not moved:
            return graph, ()
        nodes = {n.name: n for n in graph if n.name not in moved}
        added: list[str] = []
        for node in [n for n in graph if n.name in nodes]:
            edges = []
            for edge in node.inputs:
                source, missing = _behind(graph, moved, edge.source), _missing(graph, lags, node, edge)
                if missing and not isinstance(node.layer, Delay):
                    name = f"{source}.delay{missing}" + (f".{edge.port}" if edge.port != "out" else "")
                    before = dataclasses.replace(edge, source=source, delay=0)
                    nodes[name] = Node(name, Delay(missing), (before,), graph[source].source)
                    added.append(name)
                    source, edge = name, dataclasses.replace(edge, port="out")
                edges.append(dataclasses.replace(edge, source=source))
            layer = node.layer
            if isinstance(layer, Delay):
                layer = Delay(layer.steps + _missing(graph, lags, node, node.inputs[0]))
            nodes[node.name] = dataclasses.replace(node, layer=layer, inputs=tuple(edges))
        earlier = [n.name for n in graph.neurons if lags.get(n.name)]
        return dataclasses.replace(graph, nodes=in_order(nodes.values())), (*moved, *earlier, *dict.fromkeys(added))

    def earlier(self, graph: Graph) -> Mapping[str, int]:
        """See :meth:`Pass.earlier`."""
        lags = _lags(graph)
        return {node.name: lags[node.name] for node in graph.neurons if lags.get(node.name)}


def _lags(graph: Graph) -> dict[str, int]:
    """How late the graph computes each layer that could as well work earlier."""
    movable = _movable(graph)
    lags: dict[str, int] = {}
    for node in graph:
        if node.name in movable:
            own = node.layer.steps if isinstance(node.layer, Delay) else 0
            lags[node.name] = own + min(lags.get(e.source, 0) for e in _forward(graph, node))
    return lags


def _movable(graph: Graph) -> set[str]:
    """Layers that pass a lag on to their readers, or, as populations, take it up."""
    movable: set[str] = set()
    for node in reversed(list(graph)):
        if isinstance(node.layer, Neuron):
            synapses = [graph[e.source] for e in node.inputs]
            fits = node.layer.model.rests and all(_silent(s) for s in synapses)
        else:
            readers = [r for r in graph.consumers(node.name) if r in _forward_readers(graph, node)]
            fits = _silent(node) and bool(readers) and all(r.name in movable for r in readers)
        if fits and list(_forward(graph, node)):
            movable.add(node.name)
    return movable


def _silent(node: Node) -> bool:
    """Whether a layer answers zeros with zeros."""
    if isinstance(node.layer, Linear | Conv):
        return node.layer.bias is None or not node.layer.bias.any()
    return isinstance(node.layer, _ZERO_TO_ZERO) or (isinstance(node.layer, Neuron) and node.layer.model.rests)


def _forward(graph: Graph, node: Node) -> Iterator[Edge]:
    """The edges a layer is fed by from before it: neither recurrent, nor from a synapse of its own spikes."""
    for edge in node.inputs:
        if not edge.recurrent and not all(e.recurrent for e in graph[edge.source].inputs or (Edge(""),)):
            yield edge


def _forward_readers(graph: Graph, node: Node) -> list[Node]:
    return [r for r in graph.consumers(node.name) if any(e.source == node.name and not e.recurrent for e in r.inputs)]


def _missing(graph: Graph, lags: Mapping[str, int], node: Node, edge: Edge) -> int:
    """Steps by which an edge's source is too early for ``node`` once both work as early as they can."""
    if edge not in list(_forward(graph, node)):
        return 0
    own = node.layer.steps if isinstance(node.layer, Delay) else 0
    return lags.get(edge.source, 0) - max(0, lags.get(node.name, own) - own)


def _behind(graph: Graph, moved: list[str], name: str) -> str:
    """The layer that feeds a chain of moved delays."""
    while name in moved:
        name = graph[name].inputs[0].source
    return name
