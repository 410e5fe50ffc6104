"""Small rewrites that bring a graph into the form quantization takes: sums into dendrites, constants into weights,
zeros into padding, parts of maps into maps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Node, parameters
from snn2chip.ir.layers import Add, Array, BatchNorm, Conv, Gather, Linear, Neuron, Reshape, Scale, Shape
from snn2chip.passes.base import LocalPass, Rewrite, only_reader, only_source, rewired, with_layer
from snn2chip.passes.fold_batchnorm import scaled_output


@dataclass(frozen=True, eq=False)
class AbsorbAdd(LocalPass):
    """A sum that only one population reads becomes several inputs of that population."""

    name: ClassVar[str] = "absorb_add"
    kinds = (Add,)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        reader = only_reader(graph, node.name)
        if reader is None or not isinstance(reader.layer, Neuron | Add):
            return None
        inputs = tuple(e for edge in reader.inputs for e in (node.inputs if edge.source == node.name else (edge,)))
        merged = dataclasses.replace(reader, inputs=inputs)
        return rewired(graph, {node.name: None, reader.name: merged}), (node.name, reader.name)


@dataclass(frozen=True, eq=False)
class AbsorbScale(LocalPass):
    """A constant factor goes into the linear map before it or after it, where it is one per feature or one for all."""

    name: ClassVar[str] = "absorb_scale"
    kinds = (Scale,)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        merged = _absorbed(graph, node, graph.shapes()[node.name])
        if merged is None:
            return None
        changed = {merged.name: merged, node.name: None}
        return rewired(graph, changed, {node.name: node.inputs[0].source}), (node.name, merged.name)


@dataclass(frozen=True, eq=False)
class AbsorbPad(LocalPass):
    """Zeros around an image, as many on either side, become the padding of the one convolution that reads it."""

    name: ClassVar[str] = "absorb_pad"
    kinds = (Gather,)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        conv = only_reader(graph, node.name)
        widths = _even_padding(node, graph.shapes()[node.inputs[0].source])
        if widths is None or conv is None or not isinstance(conv.layer, Conv):
            return None
        padding = tuple(a + b for a, b in zip(conv.layer.padding, widths, strict=True))
        layer = dataclasses.replace(conv.layer, padding=padding)
        merged = dataclasses.replace(conv, layer=layer, inputs=node.inputs)
        return rewired(graph, {conv.name: merged, node.name: None}), (node.name, conv.name)


@dataclass(frozen=True, eq=False)
class AbsorbPart(LocalPass):
    """Some features of a linear map are a map of their own, with those rows of weights; behind a batch norm too."""

    name: ClassVar[str] = "absorb_part"
    kinds = (Gather,)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        chain, parts = _part_of_a_map(graph, node)
        if not parts:
            return None
        # What is left of the part is a view of it.
        view = with_layer(node, Reshape(node.layer.output_shape(graph.shapes()[chain[0].name])))
        view = dataclasses.replace(view, inputs=(Edge(parts[0].name),))
        graph = rewired(graph, {view.name: view, **{part.name: part for part in parts}})
        for link in chain:
            if not graph.consumers(link.name):
                graph = rewired(graph, {link.name: None})
        return graph, [link.name for link in (*chain, *parts, view)]

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`; a map of which several parts are taken is named once."""
        graph, touched = super().apply(graph)
        return graph, tuple(dict.fromkeys(touched))


def _part_of_a_map(graph: Graph, cut: Node) -> tuple[list[Node], list[Node]]:
    """The batch norms and the map whose features a layer takes, and the same with these features alone."""
    assert isinstance(cut.layer, Gather)
    chain: list[Node] = []
    parts: list[Node] = []
    edge, shapes = cut.inputs[0], graph.shapes()
    while edge == Edge(edge.source):
        node = graph[edge.source]
        rows = _features(cut.layer.index, shapes[node.name], -1 if isinstance(node.layer, Linear) else 0)
        map_of_all = isinstance(node.layer, Linear | Conv) and getattr(node.layer, "groups", 1) == 1
        if rows is None or not (map_of_all or isinstance(node.layer, BatchNorm)):
            break
        # Every array of these layers has one row per feature.
        taken = {name: array[rows] for name, array in parameters(node.layer).items()}
        chain.append(node)
        parts.append(
            dataclasses.replace(node, name=f"{node.name}[{cut.name}]", layer=dataclasses.replace(node.layer, **taken))
        )
        if map_of_all:
            fed = [dataclasses.replace(a, inputs=(Edge(b.name),)) for a, b in pairwise(parts)]
            return chain, [*fed, parts[-1]]
        edge = node.inputs[0]
    return [], []


def _features(index: Array, shape: Shape, axis: int) -> Array | None:
    """The features along ``axis``, 0 or −1, whose elements these are, each once and in order; None for others."""
    rest = shape[1:] if axis == 0 else shape[:-1]
    if index.size % math.prod(rest):
        return None
    every = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axis, 0)
    taken = np.moveaxis(index.reshape((-1, *rest) if axis == 0 else (*rest, -1)), axis, 0)
    firsts = every.reshape(len(every), -1)[:, 0]
    rows = np.searchsorted(firsts, taken.reshape(len(taken), -1)[:, 0])
    within = len(np.unique(rows)) == len(rows) and rows.max(initial=0) < len(every)
    return rows if within and np.array_equal(every[rows], taken) else None


def _even_padding(node: Node, shape: Shape) -> Shape | None:
    """The zeros on either side of each spatial axis, if that is all the layer adds."""
    assert isinstance(node.layer, Gather)
    index = node.layer.index
    more = [n - m for n, m in zip(index.shape, shape, strict=False)]
    if index.ndim != len(shape) or index.ndim < 2 or more[0] or any(n < 0 or n % 2 for n in more):
        return None
    around = [(n // 2, n // 2) for n in more]
    padded = np.pad(np.arange(math.prod(shape)).reshape(shape), around, constant_values=-1)
    return tuple(n // 2 for n in more[1:]) if np.array_equal(index, padded) else None


def _absorbed(graph: Graph, node: Node, shape: Shape) -> Node | None:
    assert isinstance(node.layer, Scale)
    factors = per_feature(node.layer.scale, shape)
    if factors is None:
        return None
    before, after = only_source(graph, node), only_reader(graph, node.name)
    uniform = len(set(factors)) == 1
    if before is not None and isinstance(before.layer, Linear | Conv):
        layer, features = before.layer, before.layer.weight.shape[0]
        if isinstance(layer, Conv) or len(shape) == 1 or uniform:
            factor = np.full(features, factors[0]) if uniform else factors
            scaled = scaled_output(layer, factor, np.zeros(features))
            return with_layer(before, scaled if layer.bias is not None else dataclasses.replace(scaled, bias=None))
    if after is not None and isinstance(after.layer, Linear | Conv) and uniform:
        weight = (after.layer.weight.astype(np.float64) * factors[0]).astype(after.layer.weight.dtype)
        return with_layer(after, dataclasses.replace(after.layer, weight=weight))
    return None


def per_feature(scale: Array, shape: Shape) -> Array | None:
    """The factors along axis 0, or None where they vary along another axis."""
    full = np.broadcast_to(scale, shape).reshape(shape[0], -1).astype(np.float64)
    return full[:, 0] if (full == full[:, :1]).all() else None
