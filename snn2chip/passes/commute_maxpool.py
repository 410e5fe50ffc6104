"""Factors and batch norms behind a max pooling of sums go in front of it, where they become part of the synapses.

For a gain g ≥ 0 and an offset o, ``g · max(x) + o = max(g · x + o)``. A negative gain turns the order around, so that
only its magnitude can go in front; its sign stays behind the maximum, as a synapse of weight −1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Array, BatchNorm, Layer, MaxPool, Scale, Shape
from snn2chip.passes.absorb import per_feature
from snn2chip.passes.base import Pass, is_sum, only_reader, rewired
from snn2chip.passes.fold_batchnorm import per_channel


@dataclass(frozen=True, eq=False)
class CommuteMaxPool(Pass):
    """g · max(x) + o = sign(g) · max(|g| · x) + o, per channel; without a negative g the offset goes in front, too.

    Pooling of spikes stays as it is: lower_maxpool makes a population of it.
    """

    name: ClassVar[str] = "commute_maxpool"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        # The last of several poolings first: what goes in front of it is behind the one before.
        for name in reversed([node.name for node in graph if isinstance(node.layer, MaxPool)]):
            chain = _gains_behind(graph, graph[name]) if is_sum(graph, graph[name].inputs[0]) else []
            if chain:
                graph = _swapped(graph, graph[name], chain)
                touched += [name, *(node.name for node in chain)]
        return graph, tuple(dict.fromkeys(touched))


def _gains_behind(graph: Graph, pool: Node) -> list[Node]:
    """The batch norms and factors, one per channel, that a pooling goes through, the first one first."""
    chain, shape = [], graph.shapes()[pool.name]
    reader = only_reader(graph, pool.name)
    while reader is not None and _affine(reader.layer, shape) is not None:
        chain.append(reader)
        reader = only_reader(graph, reader.name)
    return chain


def _affine(layer: Layer, shape: Shape) -> tuple[Array, Array] | None:
    """The gain and offset of every channel, float64; None for layers that are not one of each per channel."""
    if isinstance(layer, BatchNorm):
        return layer.affine()
    gain = per_feature(layer.scale, shape) if isinstance(layer, Scale) else None
    return None if gain is None else (gain, np.zeros(shape[0]))


def _swapped(graph: Graph, pool: Node, chain: list[Node]) -> Graph:
    """The graph in which gains and offsets behind a pooling are in front of it, as far as they can be."""
    shape, last = graph.shapes()[pool.name], chain[-1]
    gain, offset = np.ones(shape[0]), np.zeros(shape[0])
    for factor, shift in filter(None, (_affine(node.layer, shape) for node in chain)):
        gain, offset = gain * factor, offset * factor + shift
    keeps_order = bool((gain >= 0).all())
    norm = _norm(np.abs(gain), offset if keeps_order else np.zeros_like(offset))
    front = Node(f"{last.name}.gain", norm, pool.inputs, last.source)
    changed: dict[str, Node | None] = {node.name: None for node in chain}
    changed |= {front.name: front, pool.name: dataclasses.replace(pool, inputs=(Edge(front.name),))}
    if keeps_order:
        return rewired(graph, changed, {last.name: pool.name})
    sign = per_channel(np.where(gain < 0, -1.0, 1.0), offset, shape, np.dtype(np.float32))
    changed[last.name] = Node(last.name, sign, (Edge(pool.name),), last.source)
    return rewired(graph, changed)


def _norm(gain: Array, offset: Array) -> BatchNorm:
    """The batch norm that multiplies every channel by its gain and adds its offset."""
    gain, offset = gain.astype(np.float32), offset.astype(np.float32)
    return BatchNorm(gain, offset, np.zeros_like(gain), np.ones_like(gain), eps=0.0)
