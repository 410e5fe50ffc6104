"""Layers behind a sum of synapses go in front of it, where they can become part of the synapses: the chip has no sum
but a neuron's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Add, BatchNorm, Conv, Layer, Linear, MaxPool, Pool, Scale
from snn2chip.passes.base import LocalPass, Rewrite, is_sum, rewired


@dataclass(frozen=True, eq=False)
class Distribute(LocalPass):
    """f(a + b) + c = (f(a) + c) + f(b) for batch norm, pooling, factors, linear layers and convolutions.

    Sums of spikes alone stay: a synapse reads them as they are.
    """

    name: ClassVar[str] = "distribute"
    kinds = (BatchNorm, Linear, Conv, Scale, Pool)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        (edge,) = node.inputs
        total, offset_free = graph[edge.source], _without_offset(node.layer)
        if not isinstance(total.layer, Add) or edge.delay or offset_free is None or not is_sum(graph, edge):
            return None
        branches = [
            dataclasses.replace(node, name=f"{node.name}.{i}", layer=offset_free if i else node.layer, inputs=(before,))
            for i, before in enumerate(_summands(graph, edge))
        ]
        changed: dict[str, Node | None] = {b.name: b for b in branches}
        changed[node.name] = dataclasses.replace(node, layer=Add(), inputs=tuple(Edge(b.name) for b in branches))
        return rewired(graph, changed), changed

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`; sums that nothing reads any more are removed."""
        graph, touched = super().apply(graph)
        while unread := [n.name for n in graph if isinstance(n.layer, Add) and not graph.consumers(n.name)]:
            graph = rewired(graph, dict.fromkeys(unread))
            touched += tuple(unread)
        return graph, touched


def _summands(graph: Graph, edge: Edge) -> list[Edge]:
    """What is added up on an edge, sums of sums written out."""
    node = graph[edge.source]
    if edge.delay or not isinstance(node.layer, Add) or not is_sum(graph, edge):
        return [edge]
    return [summand for before in node.inputs for summand in _summands(graph, before)]


def _without_offset(layer: Layer) -> Layer | None:
    """The linear part of a layer; None where it has none."""
    if isinstance(layer, BatchNorm):
        return dataclasses.replace(layer, bias=np.zeros_like(layer.bias), mean=np.zeros_like(layer.mean))
    if isinstance(layer, Linear | Conv):
        return dataclasses.replace(layer, bias=None)
    return None if isinstance(layer, MaxPool) else layer
