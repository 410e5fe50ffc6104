"""What a pass is, and the tools that rewrites share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import (
    Add,
    BatchNorm,
    Conv,
    Flatten,
    Gather,
    Layer,
    Linear,
    Permute,
    Pool,
    Reshape,
    Scale,
)
from snn2chip.ir.structure import Struct

# Layers that move elements and compute nothing.
VIEWS = (Flatten, Reshape, Permute, Gather)


@dataclass(frozen=True, eq=False)
class Pass(Struct):
    """A rewrite of the Graph; its fields are its options.

    ``exact`` says what it promises: the same function, up to float rounding.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """The rewritten graph, and the names of the nodes it removed, added or altered.

        Raises:
            S2CError: a node cannot be rewritten exactly; the message says which and why.
        """
        raise NotImplementedError

    def earlier(self, graph: Graph) -> Mapping[str, int]:
        """Populations that :meth:`apply` lets work earlier, and by how many steps."""
        return {}

    def __str__(self) -> str:
        given = [(f.name, value) for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default]
        options = [f"{name}={value}" for name, value in given]
        return self.name + (f"{{{';'.join(options)}}}" if options else "")


# The graph, and the names of the nodes that were removed, added or altered.
Rewrite = tuple[Graph, Iterable[str]]


class LocalPass(Pass):
    """A pass that looks at one layer after another, at those of its ``kinds``, in the order of execution."""

    kinds: ClassVar[tuple[type[Layer], ...]]

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """The graph with ``node`` rewritten; None where it stays as it is.

        Raises:
            S2CError: it cannot be rewritten exactly, and must not stay.
        """
        raise NotImplementedError

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        for name in [node.name for node in graph if isinstance(node.layer, self.kinds)]:
            rewritten = self.rewrite(graph, graph[name])
            if rewritten is not None:
                graph, names = rewritten
                touched += names
        return graph, tuple(touched)


def only_reader(graph: Graph, name: str) -> Node | None:
    """The one node that reads ``name``, in the same step and by one edge; None if there are others."""
    readers = graph.consumers(name)
    if len(readers) != 1:
        return None
    edges = [edge for edge in readers[0].inputs if edge.source == name]
    plain = len(edges) == 1 and edges[0].delay == 0 and edges[0].port == "out"
    return readers[0] if plain else None


def only_source(graph: Graph, node: Node) -> Node | None:
    """The node that feeds ``node``, where it is the only one and feeds nothing else."""
    if len(node.inputs) != 1:
        return None
    source = graph[node.inputs[0].source]
    return source if only_reader(graph, source.name) is node else None


def is_sum(graph: Graph, edge: Edge) -> bool:
    """Whether an edge carries what a synapse computes, and no spikes."""
    node = graph[edge.source]
    if isinstance(node.layer, (Add, Scale, Pool, *VIEWS)):
        return any(is_sum(graph, before) for before in node.inputs)
    return isinstance(node.layer, Linear | Conv | BatchNorm)


def with_layer(node: Node, layer: Layer) -> Node:
    """The node with another layer."""
    return dataclasses.replace(node, layer=layer)


def rewired(graph: Graph, changed: dict[str, Node | None], redirect: dict[str, str] | None = None) -> Graph:
    """The graph with nodes replaced (None: removed) and edges from the keys of ``redirect`` taken from its values."""
    redirect = redirect or {}

    def follow(edge: Edge) -> Edge:
        source = edge.source
        while source in redirect:
            source = redirect[source]
        return edge if source == edge.source else dataclasses.replace(edge, source=source)

    nodes = []
    for node in [
        *(changed.get(n.name, n) for n in graph),
        *(n for k, n in changed.items() if k not in graph.nodes),
    ]:
        if node is not None:
            nodes.append(dataclasses.replace(node, inputs=tuple(follow(e) for e in node.inputs)))
    return graph.with_nodes(nodes)
