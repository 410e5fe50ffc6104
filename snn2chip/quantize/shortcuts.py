"""Sums that several populations read, as membrane shortcuts hand them on: each population gets synapses of its own.

The chip has no sum outside a neuron. The network stays what it is; what it takes more of is synapses.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Add, Conv, Layer, Linear, MaxPool, Neuron
from snn2chip.passes.base import VIEWS, is_sum
from snn2chip.quantize.pools import host_pools

# What a population can have of its own.
_COPIED = (Linear, Conv, MaxPool, Add, *VIEWS)


def with_own_synapses(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The graph in which every synapse feeds one population, and what was stored more than once, for people.

    Maxima of sums, too, are taken for one population. A sum or a synapse that anything but populations, sums and max
    pooling reads is left as it is.
    """
    on_host = host_pools(graph)
    shared = [node.name for node in graph if isinstance(node.layer, Add) and node.name in on_host]
    graph = _sums_at_readers(_copied(graph, shared, (Neuron, MaxPool, Add))[0])
    return _copied(graph, list(graph.nodes), (Neuron, MaxPool))


def _copied(graph: Graph, names: Sequence[str], among: tuple[type[Layer], ...]) -> tuple[Graph, tuple[str, ...]]:
    """The graph in which each of these sums has one reader, a copy for each beyond the first, and the synapses copied.

    Args:
        among: what may read them, beside sums that max pooling reads.
    """
    notes: list[str] = []
    for name in reversed(names):
        readers = graph.consumers(name)
        if len(readers) < 2 or not isinstance(graph[name].layer, _COPIED) or not is_sum(graph, Edge(name)):
            continue
        on_host = host_pools(graph)
        if not all(isinstance(reader.layer, among) or reader.name in on_host for reader in readers):
            continue
        nodes = dict(graph.nodes)
        for reader in readers[1:]:
            wanted = f"{name}.into.{_population_behind(graph, reader)}"
            numbered = (f"{wanted}#{i}" for i in itertools.count(2))
            free = next(new for new in itertools.chain([wanted], numbered) if new not in nodes)
            copy = dataclasses.replace(nodes[name], name=free)
            nodes[copy.name] = copy
            nodes[reader.name] = _reading(nodes[reader.name], name, (Edge(copy.name),))
        graph = graph.with_nodes(nodes.values())
        if isinstance(graph[name].layer, Linear | Conv):
            named = ", ".join(_population_behind(graph, reader) for reader in readers)
            notes.append(f"{name}: stored {len(readers)} times, once for each population it feeds ({named})")
    return graph, tuple(reversed(notes))


def _population_behind(graph: Graph, reader: Node) -> str:
    """The population, or the output, that a sum reaches by this reader; what is on the way has one reader."""
    while not isinstance(reader.layer, Neuron) and (after := graph.consumers(reader.name)):
        reader = after[0]
    return reader.name


def _sums_at_readers(graph: Graph) -> Graph:
    """Sums of synapses whose every reader can sum by itself, moved there; sums of spikes stay where they are."""
    nodes = dict(graph.nodes)
    for name in reversed([node.name for node in graph if isinstance(node.layer, Add)]):
        readers = [node for node in nodes.values() if any(edge.source == name for edge in node.inputs)]
        if any(edge.recurrent for edge in graph[name].inputs):
            continue
        if readers and _sums(graph, name) and all(isinstance(reader.layer, Neuron | Add) for reader in readers):
            summed = nodes.pop(name).inputs
            nodes |= {reader.name: _reading(reader, name, summed) for reader in readers}
    return graph.with_nodes(nodes.values())


def _sums(graph: Graph, name: str) -> bool:
    """Whether a node's output is the sum of a synapse, added to others at most."""
    node = graph[name]
    if isinstance(node.layer, Add):
        return any(_sums(graph, edge.source) for edge in node.inputs if not edge.recurrent)
    return isinstance(node.layer, Linear | Conv)


def _reading(reader: Node, name: str, instead: tuple[Edge, ...]) -> Node:
    """The node reading ``instead`` wherever it read ``name``, as late as it did."""
    edges = []
    for edge in reader.inputs:
        late = [Edge(new.source, new.delay + edge.delay, new.recurrent or edge.recurrent, new.port) for new in instead]
        edges += late if edge.source == name else [edge]
    return dataclasses.replace(reader, inputs=tuple(edges))
