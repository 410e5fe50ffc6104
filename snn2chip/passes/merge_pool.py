"""Merge average and sum pooling into the linear map next to it: a chip has no pooling, but a wider kernel is one."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import (
    Add,
    Array,
    AvgPool,
    Conv,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    Neuron,
    Output,
    Pool,
    Readout,
    Reshape,
    Shape,
    SumPool,
)
from snn2chip.passes.base import LocalPass, Rewrite, only_reader, only_source, rewired, with_layer
from snn2chip.simulate.ops import NumpyOps, apply


@dataclass(frozen=True, eq=False)
class MergePool(LocalPass):
    """Pooling goes into the conv before it, else into the conv or (flatten and) linear layer after it.

    In front of a population, a sum or the read-out it becomes a depthwise convolution with a constant kernel; flattened
    at the end of the network, a linear layer. Where zero padding or left-over rows would change a border, a sum is left
    as it is, a mean refused.
    """

    name: ClassVar[str] = "merge_pool"
    kinds = (AvgPool, SumPool)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        ways = (_into_conv_before, _into_conv_after, _into_linear_after, _into_linear_at_the_end, _into_own_synapse)
        for way in ways:
            rewritten = way(graph, node, cast(Pool, node.layer))
            if rewritten is not None:
                return rewritten
        if isinstance(node.layer, SumPool):
            # Sums of spikes are integers as they are; only a mean needs a weight to divide by.
            return None
        raise _no_way(graph, node)


def _no_way(graph: Graph, node: Node) -> S2CError:
    readers = ", ".join(
        f"{r.name} ({' '.join(filter(None, (r.layer.kind, r.layer.describe())))})" for r in graph.consumers(node.name)
    )
    return S2CError(
        "this pooling cannot become part of a linear map without changing the network",
        where=node.where(),
        why=f"{node.layer.describe()} on {graph.shapes()[node.inputs[0].source]}, read by {readers}: "
        "zero padding or left-over rows at the border would see other values",
        fix="use a pooling whose kernel equals its stride and divides the map, or a strided convolution",
    )


def _into_conv_before(graph: Graph, node: Node, pool: Pool) -> Rewrite | None:
    before = only_source(graph, node)
    if before is None or not isinstance(before.layer, Conv) or any(pool.padding):
        return None
    merged, shapes = conv_then_pool(before.layer, pool), graph.shapes()
    if merged.output_shape(shapes[before.inputs[0].source]) != shapes[node.name]:
        return None
    changed = {before.name: with_layer(before, merged), node.name: None}
    return rewired(graph, changed, {node.name: before.name}), [before.name, node.name]


def _into_conv_after(graph: Graph, node: Node, pool: Pool) -> Rewrite | None:
    after, source, shapes = only_reader(graph, node.name), node.inputs[0].source, graph.shapes()
    if after is None or not isinstance(after.layer, Conv):
        return None
    if not _conv_can_take(pool, after.layer, shapes[source], shapes[node.name]):
        return None
    merged = pool_then_conv(pool, after.layer)
    if merged.output_shape(shapes[source]) != shapes[after.name]:
        return None
    changed = {after.name: with_layer(after, merged), node.name: None}
    return rewired(graph, changed, {node.name: source}), [after.name, node.name]


def _into_linear_after(graph: Graph, node: Node, pool: Pool) -> Rewrite | None:
    after, source, shapes = only_reader(graph, node.name), node.inputs[0].source, graph.shapes()
    if after is not None and isinstance(after.layer, Flatten):
        after = only_reader(graph, after.name)
    if after is None or not isinstance(after.layer, Linear) or after.layer.delay is not None:
        return None
    if len(shapes[after.inputs[0].source]) != 1:
        return None
    weight = after.layer.weight
    rows = weight.reshape(len(weight), *shapes[node.name]).astype(np.float64)
    spread = unpooled(rows, pool, shapes[source]).reshape(len(weight), -1).astype(weight.dtype)
    changed = {after.name: with_layer(after, dataclasses.replace(after.layer, weight=spread)), node.name: None}
    return rewired(graph, changed, {node.name: source}), [after.name, node.name]


def _into_own_synapse(graph: Graph, node: Node, pool: Pool) -> Rewrite | None:
    """What a population, a sum in front of one, or the read-out takes from the pooling, a synapse can give."""
    readers = graph.consumers(node.name)
    if not all(isinstance(reader.layer, Neuron | Add | Readout | Output) for reader in readers):
        return None
    if pool.ceil_mode or not _divides_evenly(pool):
        return None
    channels = graph.shapes()[node.name][0]
    return rewired(graph, {node.name: with_layer(node, as_depthwise(pool, channels))}), [node.name]


def _into_linear_at_the_end(graph: Graph, node: Node, pool: Pool) -> Rewrite | None:
    """Pooling, then a flatten, then no synapse: votes of several neurons per class, or features without a head."""
    after, shapes = only_reader(graph, node.name), graph.shapes()
    if after is None or not isinstance(after.layer, Flatten | Reshape) or len(shapes[after.name]) != 1:
        return None
    if not all(isinstance(reader.layer, Neuron | Readout | Output) for reader in graph.consumers(after.name)):
        return None
    (features,) = shapes[after.name]
    rows = np.eye(features).reshape(features, *shapes[node.name])
    weight = unpooled(rows, pool, shapes[node.inputs[0].source]).reshape(features, -1).astype(np.float32)
    changed: dict[str, Node | None] = {after.name: with_layer(after, Linear(weight)), node.name: None}
    redirect: dict[str, str] = {}
    # Axes that were added for the pooling alone (votes of [N, C] as [N, 1, C]) go with it.
    source = graph[node.inputs[0].source]
    while isinstance(source.layer, Flatten | Reshape) and only_reader(graph, source.name):
        changed[source.name], redirect[source.name] = None, source.inputs[0].source
        source = graph[source.inputs[0].source]
    if len(shapes[source.name]) == 1:
        redirect[node.name] = node.inputs[0].source
    else:
        changed[node.name] = with_layer(node, Flatten())
    return rewired(graph, changed, redirect), [*changed]


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
    if conv.bias is not None and conv.per_place:
        bias = apply(pool, [conv.bias[None].astype(np.float64)], NumpyOps())[0]
    else:
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
    even = pool.kernel == pool.stride and all(
        p * s == n for p, s, n in zip(pooled[1:], pool.stride, shape[1:], strict=True)
    )
    return even or not any(conv.padding)


def pool_then_conv(pool: Pool, conv: Conv) -> Conv:
    """One convolution equal to ``conv(pool(x))``."""
    span = [
        (kc - 1) * d * s + kp for kc, d, s, kp in zip(conv.kernel, conv.dilation, pool.stride, pool.kernel, strict=True)
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
    everything = [np.arange(n) for n in rows.shape[:2]]
    shares = rows / pool.divisors(shape) if isinstance(pool, AvgPool) else rows
    for offset in itertools.product(*map(range, pool.kernel)):
        index, valid = [], []
        for axis, o in enumerate(offset):
            at = np.arange(pooled[axis]) * pool.stride[axis] + o - pool.padding[axis]
            keep = (at >= 0) & (at < shape[axis + 1])
            index.append(at[keep])
            valid.append(np.flatnonzero(keep))
        # One offset of the window reaches every position at most once, so plain addition is safe.
        spread[np.ix_(*everything, *index)] += shares[np.ix_(*everything, *valid)]
    return spread


def as_depthwise(pool: Pool, channels: int) -> Conv:
    """The pooling as a convolution, one group per channel."""
    cls = {1: Conv1d, 2: Conv2d}[len(pool.kernel)]
    weight = np.full((channels, 1, *pool.kernel), _factor(pool), dtype=np.float32)
    return cls(weight, None, pool.stride, pool.padding, groups=channels)
