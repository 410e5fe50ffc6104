"""Merge average and sum pooling into the linear map next to it: a chip has no pooling, but a wider kernel is one."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Array, AvgPool, Conv, Conv1d, Conv2d, Flatten, Linear, Neuron, Pool, Shape, SumPool
from snn2chip.passes.base import Pass, only_reader, only_source, rewired, with_layer


@dataclass(frozen=True, eq=False)
class MergePool(Pass):
    """Pooling goes into the conv before it, else into the conv or (flatten and) linear layer after it.

    Between two populations it becomes a depthwise convolution with a constant kernel. Where zero padding or left-over
    rows would change a border, it is refused.
    """

    name: ClassVar[str] = "merge_pool"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        for name in [node.name for node in graph if isinstance(node.layer, AvgPool | SumPool)]:
            graph, names = _merge_one(graph, graph[name])
            touched += names
        return graph, tuple(touched)


def _merge_one(graph: Graph, node: Node) -> tuple[Graph, list[str]]:
    pool, shapes = node.layer, graph.shapes()
    assert isinstance(pool, Pool)
    source, reader = node.inputs[0].source, only_reader(graph, node.name)
    shape, pooled = shapes[source], shapes[node.name]

    before = only_source(graph, node)
    if before is not None and isinstance(before.layer, Conv) and not any(pool.padding):
        merged = conv_then_pool(before.layer, pool)
        if merged.output_shape(shapes[before.inputs[0].source]) == pooled:
            return rewired(graph, {before.name: with_layer(before, merged), node.name: None}, {node.name: before.name}), [
                before.name,
                node.name,
            ]
    if reader is not None and isinstance(reader.layer, Conv) and _conv_can_take(pool, reader.layer, shape, pooled):
        merged = pool_then_conv(pool, reader.layer)
        if merged.output_shape(shape) == shapes[reader.name]:
            return rewired(graph, {reader.name: with_layer(reader, merged), node.name: None}, {node.name: source}), [
                reader.name,
                node.name,
            ]
    linear = reader
    if reader is not None and isinstance(reader.layer, Flatten):
        linear = only_reader(graph, reader.name)
    if linear is not None and reader is not None and isinstance(linear.layer, Linear) and linear.layer.delay is None:
        if len(shapes[linear.inputs[0].source]) == 1:
            weight = linear.layer.weight
            rows = weight.reshape(len(weight), *pooled).astype(np.float64)
            spread = unpooled(rows, pool, shape).reshape(len(weight), -1).astype(weight.dtype)
            merged_linear = with_layer(linear, dataclasses.replace(linear.layer, weight=spread))
            return rewired(graph, {linear.name: merged_linear, node.name: None}, {node.name: source}), [linear.name, node.name]
    if all(isinstance(reader.layer, Neuron) for reader in graph.consumers(node.name)) and not pool.ceil_mode:
        if _divides_evenly(pool):
            return rewired(graph, {node.name: with_layer(node, as_depthwise(pool, shape[0]))}), [node.name]
    raise S2CError(
        "this pooling cannot become part of a linear map without changing the network",
        where=node.where(),
        why=f"{pool.describe()} on {shape} with {reader.layer.describe() if reader else 'several readers'} after it: "
        "zero padding or left-over rows at the border would see other values",
        fix="use a pooling whose kernel equals its stride and divides the map, or a strided convolution",
    )


def _divides_evenly(pool: Pool) -> bool:
    """Whether every window of the pooling divides by the same number."""
    return isinstance(pool, SumPool) or not any(pool.padding) or getattr(pool, "count_include_pad", True)


def _factor(pool: Pool) -> float:
    return 1.0 if isinstance(pool, SumPool) else 1.0 / float(np.prod(pool.kernel))


def conv_then_pool(conv: Conv, pool: Pool) -> Conv:
    """One convolution equal to ``pool(conv(x))``, for a pooling without padding."""
    span = [
        (kp - 1) * s + (kc - 1) * d + 1
        for kp, s, kc, d in zip(pool.kernel, conv.stride, conv.kernel, conv.dilation, strict=True)
    ]
    weight = np.zeros((*conv.weight.shape[:2], *span))
    for offset in itertools.product(*map(range, pool.kernel)):
        starts = [o * s for o, s in zip(offset, conv.stride, strict=True)]
        stops = [b + (k - 1) * d + 1 for b, k, d in zip(starts, conv.kernel, conv.dilation, strict=True)]
        where = tuple(slice(a, b, d) for a, b, d in zip(starts, stops, conv.dilation, strict=True))
        weight[(slice(None), slice(None), *where)] += conv.weight
    factor = _factor(pool)
    # A sum over the window also sums the bias as often.
    bias = None if conv.bias is None else conv.bias * (factor * float(np.prod(pool.kernel)))
    return dataclasses.replace(
        conv,
        weight=(weight * factor).astype(conv.weight.dtype),
        bias=None if bias is None else bias.astype(conv.weight.dtype),
        stride=tuple(a * b for a, b in zip(conv.stride, pool.stride, strict=True)),
        dilation=(1,) * conv.axes,
    )


def _conv_can_take(pool: Pool, conv: Conv, shape: Shape, pooled: Shape) -> bool:
    if any(pool.padding) or pool.ceil_mode:
        return False
    even = pool.kernel == pool.stride and all(p * s == n for p, s, n in zip(pooled[1:], pool.stride, shape[1:], strict=True))
    return even or not any(conv.padding)


def pool_then_conv(pool: Pool, conv: Conv) -> Conv:
    """One convolution equal to ``conv(pool(x))``."""
    span = [
        (kc - 1) * d * s + kp
        for kc, d, s, kp in zip(conv.kernel, conv.dilation, pool.stride, pool.kernel, strict=True)
    ]
    weight = np.zeros((*conv.weight.shape[:2], *span))
    for offset in itertools.product(*map(range, pool.kernel)):
        steps = [d * s for d, s in zip(conv.dilation, pool.stride, strict=True)]
        stops = [o + (k - 1) * step + 1 for o, k, step in zip(offset, conv.kernel, steps, strict=True)]
        where = tuple(slice(a, b, step) for a, b, step in zip(offset, stops, steps, strict=True))
        weight[(slice(None), slice(None), *where)] += conv.weight
    return dataclasses.replace(
        conv,
        weight=(weight * _factor(pool)).astype(conv.weight.dtype),
        stride=tuple(a * b for a, b in zip(conv.stride, pool.stride, strict=True)),
        padding=tuple(a * b for a, b in zip(conv.padding, pool.stride, strict=True)),
        dilation=(1,) * conv.axes,
    )


def unpooled(rows: Array, pool: Pool, shape: Shape) -> Array:
    """Weights on the pooled map [out, *pooled] as weights on the map itself [out, *shape] (the pooling's adjoint)."""
    pooled = rows.shape[2:]
    spread = np.zeros((rows.shape[0], *shape))
    shares = rows / pool.divisors(shape) if isinstance(pool, AvgPool) else rows
    for offset in itertools.product(*map(range, pool.kernel)):
        index, valid = [], []
        for axis, o in enumerate(offset):
            at = np.arange(pooled[axis]) * pool.stride[axis] + o - pool.padding[axis]
            keep = (at >= 0) & (at < shape[axis + 1])
            index.append(at[keep])
            valid.append(np.flatnonzero(keep))
        target = (slice(None), slice(None), *np.ix_(*index))
        np.add.at(spread, target, shares[(slice(None), slice(None), *np.ix_(*valid))])
    return spread


def as_depthwise(pool: Pool, channels: int) -> Conv:
    """The pooling as a convolution, one group per channel."""
    cls = {1: Conv1d, 2: Conv2d}[len(pool.kernel)]
    weight = np.full((channels, 1, *pool.kernel), _factor(pool), dtype=np.float32)
    return cls(weight, None, pool.stride, pool.padding, groups=channels)
