"""Two linear maps in a row become one: the chip has no sum between two synapses but a neuron's."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Array, Conv, Linear, Shape
from snn2chip.passes.base import LocalPass, Rewrite, only_reader, rewired, with_layer
from snn2chip.simulate.counting import fan_out
from snn2chip.simulate.ops import NumpyOps, apply

# A 7×7 depthwise and a pointwise convolution, a common pair, have up to 49 times as many synapses as one convolution.
GROWTH = 64.0


@dataclass(frozen=True, eq=False)
class FuseLinear(LocalPass):
    """W₂(W₁x + b₁) + b₂ = (W₂W₁)x + (W₂b₁ + b₂), for linear layers and for convolutions.

    A convolution pads the map in between with zeros. Where the first layer would have given other values there, the
    pair stays: its windows have to end at the border, as a pointwise layer's do, those of a pooling that divides the
    map, or a fully padded layer's. Its bias then counts inside the border only, so that the bias of the pair differs
    from place to place. A first layer that others read, too, stays for them. What is left as it is, :func:`obstacle`
    explains. The pair has the name of its second layer; where that only scales and shifts channels, as a
    norm does, of its first.

    Args:
        growth: pairs stay apart whose product has more than this many times their synapses.
    """

    name: ClassVar[str] = "fuse_linear"
    kinds = (Linear, Conv)
    growth: float = GROWTH

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        before = graph[node.inputs[0].source]
        first, second = before.layer, node.layer
        if not (isinstance(first, Linear | Conv) and isinstance(second, Linear | Conv)):
            return None
        if obstacle(graph, before, node, self.growth) is not None:
            return None
        one = product(first, second, graph.shapes()[before.name])
        alone = only_reader(graph, before.name) is node
        if alone and _as_a_norm(second):
            changed: dict[str, Node | None] = {before.name: with_layer(before, one), node.name: None}
            return rewired(graph, changed, {node.name: before.name}), changed
        fused = dataclasses.replace(node, layer=one, inputs=before.inputs)
        changed = {before.name: None} if alone else {}
        changed[node.name] = fused
        return rewired(graph, changed), changed


def _as_a_norm(layer: Linear | Conv) -> bool:
    """Whether the layer does no more than a factor and constants for every channel do."""
    one_each = isinstance(layer, Conv) and layer.weight.size == layer.groups
    return one_each and set(layer.stride) == {1} and not any(layer.padding)  # type: ignore[union-attr]


def obstacle(graph: Graph, before: Node, after: Node, growth: float = GROWTH) -> str | None:
    """Why two synaptic layers in a row cannot become one; None if they can."""
    if after.inputs != (Edge(before.name),):
        return f"{after.name} reads {before.name} through another layer or late"
    first, second, shapes = before.layer, after.layer, graph.shapes()
    entry, middle = shapes[before.inputs[0].source], shapes[before.name]
    if isinstance(first, Linear) and isinstance(second, Linear):
        if first.delay is not None or second.delay is not None:
            return "their synapses have delays"
    elif not (isinstance(first, Conv) and type(first) is type(second)):
        return f"a {first.kind} and a {second.kind} layer have no product of either kind"
    elif any(second.padding) and _reaches_in(first, entry, middle):
        return f"{after.name} pads the border with zeros, where {before.name} would give other values"
    one = _outline(first, second)
    if one.output_shape(entry) != shapes[after.name]:
        return "one window over both would be moved past the edge"
    apart = int(fan_out(first, entry).sum()) + int(fan_out(second, middle).sum())
    together = int(fan_out(one, entry).sum())
    if together > growth * apart:
        return f"one layer would have {together} synapses in place of {apart} (fuse_linear{{growth={growth:g}}})"
    return None


def _reaches_in(first: Conv, entry: Shape, middle: Shape) -> bool:
    """Whether a window of the first layer that begins beyond its map would still see some of the input."""
    before = any(
        (k - 1) * d >= s + p
        for k, d, s, p in zip(first.kernel, first.dilation, first.stride, first.padding, strict=True)
    )
    behind = any(m * s - p < n for m, n, s, p in zip(middle[1:], entry[1:], first.stride, first.padding, strict=True))
    return before or behind


def product(first: Linear | Conv, second: Linear | Conv, middle: Shape) -> Linear | Conv:
    """The one layer equal to ``second(first(x))``, computed in float64; ``middle``: the shape in between."""
    weight, bias = second.weight.astype(np.float64), _carried(first, second, middle)
    dtype, outline = second.weight.dtype, _outline(first, second)
    whole = _convolved(first, second) if isinstance(first, Conv) and isinstance(second, Conv) else weight @ first.weight
    return dataclasses.replace(outline, weight=whole.astype(dtype), bias=None if bias is None else bias.astype(dtype))


def _carried(first: Linear | Conv, second: Linear | Conv, middle: Shape) -> Array | None:
    """What ``second(first(x))`` is for x = 0, float64: per feature, or per place where padding cuts windows off."""
    if first.bias is None:
        return None if second.bias is None else second.bias.astype(np.float64)
    weight, own = second.weight.astype(np.float64), first.bias.astype(np.float64)
    if not isinstance(first, Conv) or not isinstance(second, Conv):
        bias: Array = weight @ own
    elif any(second.padding) or first.per_place or second.per_place:
        assert first.spread_bias is not None
        spread = np.broadcast_to(first.spread_bias.astype(np.float64), middle)
        bias = apply(dataclasses.replace(second, weight=weight), [spread[None]], NumpyOps())[0]
        per_channel = bias.reshape(len(bias), -1)
        return per_channel[:, 0] if (per_channel == per_channel[:, :1]).all() else bias
    else:
        groups = weight.reshape(second.groups, -1, *weight.shape[1:]).sum(axis=tuple(range(3, weight.ndim + 1)))
        bias = np.einsum("gom,gm->go", groups, own.reshape(second.groups, -1)).ravel()
    return bias if second.bias is None else second.bias.astype(np.float64) + bias


def _outline(first: Linear | Conv, second: Linear | Conv) -> Linear | Conv:
    """The product with all but its numbers; its weights take no memory."""
    if not (isinstance(first, Conv) and isinstance(second, Conv)):
        return Linear(np.broadcast_to(np.float32(0), (len(second.weight), first.weight.shape[1])))
    groups = math.gcd(first.groups, second.groups)
    span = [
        (k2 - 1) * d2 * s1 + (k1 - 1) * d1 + 1
        for k2, d2, s1, k1, d1 in zip(
            second.kernel, second.dilation, first.stride, first.kernel, first.dilation, strict=True
        )
    ]
    return dataclasses.replace(
        first,
        weight=np.broadcast_to(
            np.float32(0), (len(second.weight), first.weight.shape[1] * first.groups // groups, *span)
        ),
        bias=None,
        stride=tuple(a * b for a, b in zip(first.stride, second.stride, strict=True)),
        padding=tuple(p + q * s for p, q, s in zip(first.padding, second.padding, first.stride, strict=True)),
        dilation=(1,) * first.axes,
        groups=groups,
    )


def _convolved(first: Conv, second: Conv) -> Array:
    """Weights of the product, float64; both layers are block diagonal in as many blocks as divide both their groups."""
    outline = _outline(first, second)
    blocks = math.gcd(first.groups, second.groups)
    total = np.zeros(outline.weight.shape).reshape(blocks, -1, *outline.weight.shape[1:])
    inner = first.weight.astype(np.float64).reshape(blocks, first.groups // blocks, -1, *first.weight.shape[1:])
    outer = second.weight.astype(np.float64).reshape(blocks, -1, *second.weight.shape[1:])
    steps = [d * s for d, s in zip(second.dilation, first.stride, strict=True)]
    for block in range(blocks):
        dense = _ungrouped(outer[block], second.groups // blocks)
        grouped = dense.reshape(len(dense), *inner.shape[1:3], *second.kernel)
        for offset in itertools.product(*map(range, second.kernel)):
            at: Any = (slice(None), slice(None), slice(None), *offset)
            reached = np.einsum("ogm,gmc...->ogc...", grouped[at], inner[block])
            where: Any = tuple(
                slice(o * step, o * step + (k - 1) * d + 1, d)
                for o, step, k, d in zip(offset, steps, first.kernel, first.dilation, strict=True)
            )
            target = total[block][(slice(None), slice(None), *where)]
            target += reached.reshape(target.shape)
    return total.reshape(outline.weight.shape)


def _ungrouped(weight: Array, groups: int) -> Array:
    """Weights of a grouped convolution with the zeros between its groups written out."""
    out, width = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], groups * width, *weight.shape[2:]))
    for g in range(groups):
        dense[g * out : (g + 1) * out, g * width : (g + 1) * width] = weight[g * out : (g + 1) * out]
    return dense
