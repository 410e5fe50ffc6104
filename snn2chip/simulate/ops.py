"""The arithmetic of every stateless layer, once, over a small set of tensor operations.

:class:`NumpyOps` serves integers (exactly) and floats without torch; ``torch_ops.TorchOps`` serves floats with the same
kernels the model was trained with. :func:`apply` is the one place that says what a layer computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, windows


class Ops(Protocol):
    """Tensor operations on a batch [N, ...]."""

    def where(self, condition: Any, a: Any, b: Any) -> Any: ...
    def full_like(self, x: Any, value: float) -> Any: ...
    def const(self, value: Array, like: Any) -> Any: ...
    def linear(self, x: Any, weight: Array, bias: Array | None) -> Any: ...
    def conv(self, x: Any, layer: L.Conv) -> Any: ...
    def pool(self, x: Any, layer: L.Pool, how: str) -> Any: ...
    def batch_norm(self, x: Any, layer: L.BatchNorm) -> Any: ...
    def matmul(self, a: Any, b: Any) -> Any: ...
    def permute(self, x: Any, dims: tuple[int, ...]) -> Any: ...
    def concat(self, xs: list[Any], axis: int) -> Any: ...
    def gather(self, x: Any, index: Array) -> Any: ...


def apply(layer: L.Layer, xs: list[Any], ops: Ops) -> Any:
    """The output [N, ...] of a stateless layer for inputs [N, ...].

    Raises:
        S2CError: the layer has state (a neuron, a delay) or no arithmetic.
    """
    for cls in type(layer).__mro__:
        if cls in _LAYERS:
            return _LAYERS[cls](layer, xs, ops)
    raise S2CError(f"a {layer.kind} layer cannot be computed by itself", fix="report this: it is a fault of snn2chip")


def _flatten(layer: L.Flatten, xs: list[Any], ops: Ops) -> Any:
    shape = layer.output_shape(tuple(xs[0].shape[1:]))
    return xs[0].reshape(xs[0].shape[0], *shape)


def _product(layer: L.Layer, xs: list[Any], ops: Ops) -> Any:
    return math.prod(xs[1:], start=xs[0])


# One row a layer: (layer, inputs, tensor operations) → output.
_LAYERS: dict[type[L.Layer], Callable[[Any, list[Any], Ops], Any]] = {
    L.Linear: lambda layer, xs, ops: ops.linear(xs[0], layer.weight, layer.bias),
    L.Conv: lambda layer, xs, ops: ops.conv(xs[0], layer),
    L.BatchNorm: lambda layer, xs, ops: ops.batch_norm(xs[0], layer),
    L.AvgPool: lambda layer, xs, ops: ops.pool(xs[0], layer, "mean"),
    L.SumPool: lambda layer, xs, ops: ops.pool(xs[0], layer, "sum"),
    L.MaxPool: lambda layer, xs, ops: ops.pool(xs[0], layer, "max"),
    L.Flatten: _flatten,
    L.Reshape: lambda layer, xs, ops: xs[0].reshape(xs[0].shape[0], *layer.shape),
    L.Permute: lambda layer, xs, ops: ops.permute(xs[0], (0, *(d + 1 for d in layer.dims))),
    L.Add: lambda layer, xs, ops: sum(xs[1:], start=xs[0]),
    L.Mul: _product,
    L.MatMul: lambda layer, xs, ops: ops.matmul(xs[0], xs[1]),
    L.Concat: lambda layer, xs, ops: ops.concat(xs, layer.axis + 1 if layer.axis >= 0 else layer.axis),
    L.Gather: lambda layer, xs, ops: ops.gather(xs[0], layer.index),
    L.Scale: lambda layer, xs, ops: xs[0] * ops.const(layer.scale, xs[0]),
    L.Rescale: lambda layer, xs, ops: (xs[0] + ((1 << layer.shift) >> 1)) >> layer.shift,
    L.Output: lambda layer, xs, ops: xs[0],
}


class NumpyOps:
    """Exact on int64, plain on floats.

    Integer products go through float32 (float64) matrix multiplication where the operands prove that no partial sum can
    reach 2**24 (2**53), and through int64 otherwise: the result is the integer sum either way.
    """

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Elementwise choice."""
        return np.where(condition, a, b)

    def full_like(self, x: Array, value: float) -> Array:
        """A constant of x's shape and dtype."""
        return np.full_like(x, value)

    def const(self, value: Array, like: Array) -> Array:
        """A parameter in the dtype of the data."""
        return np.asarray(value, dtype=like.dtype)

    def integers(self, value: Array, like: Array) -> Array:
        """A parameter as int64."""
        return np.asarray(value, dtype=np.int64)

    def truncated(self, x: Array) -> Array:
        """Rounded toward zero, as int64."""
        return x.astype(np.int64)

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""
        return np.tanh(x)

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """X [N, ..., in], weight (out, in)."""
        y = _matmul(x, weight.T)
        return y if bias is None else y + bias.astype(y.dtype)

    def conv(self, x: Array, layer: L.Conv) -> Array:
        """X [N, C, *space]; a matrix product for each group over the unfolded windows."""
        n, axes = x.shape[0], layer.axes
        out = windows(x.shape[2:], layer.kernel, layer.stride, layer.padding, layer.dilation)
        patches = _patches(x, layer.kernel, layer.stride, layer.padding, layer.dilation, out, 0)
        c_out, width = layer.weight.shape[0], math.prod(layer.weight.shape[1:])
        # [N, C, *out, *kernel] → [groups, N·out, C/groups·kernel]
        patches = patches.reshape(n, layer.groups, -1, *patches.shape[2:])
        order = (1, 0, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes))
        rows = patches.transpose(order).reshape(layer.groups, -1, width)
        weight = layer.weight.reshape(layer.groups, c_out // layer.groups, width)
        y = _matmul(rows, weight.transpose(0, 2, 1)).reshape(layer.groups, n, *out, -1)
        y = np.moveaxis(y, (0, -1), (1, 2)).reshape(n, c_out, *out)
        if layer.spread_bias is not None:
            y = y + layer.spread_bias.astype(y.dtype)
        return np.ascontiguousarray(y)

    def pool(self, x: Array, layer: L.Pool, how: str) -> Array:
        """Windows of x [N, C, *space] reduced by "sum", "mean" or "max"."""
        out = layer.output_shape(x.shape[1:])[1:]
        ones = (1,) * len(layer.kernel)
        lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
        patches = _patches(x, layer.kernel, layer.stride, layer.padding, ones, out, lowest if how == "max" else 0)
        inner = tuple(range(-len(layer.kernel), 0))
        if how == "max":
            return cast(Array, patches.max(axis=inner))
        total: Array = patches.sum(axis=inner, dtype=x.dtype)
        if not isinstance(layer, L.AvgPool):
            return total
        return cast(Array, total / layer.divisors(x.shape[1:]).astype(x.dtype))

    def batch_norm(self, x: Array, layer: L.BatchNorm) -> Array:
        """Per channel on axis 1."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        std = np.sqrt(layer.var + np.asarray(layer.eps, layer.var.dtype)).reshape(shape)
        mean, weight, bias = (a.reshape(shape) for a in (layer.mean, layer.weight, layer.bias))
        return cast(Array, ((x - mean) / std * weight + bias).astype(x.dtype))

    def matmul(self, a: Array, b: Array) -> Array:
        """Product over the last two axes."""
        return _matmul(a, b)

    def permute(self, x: Array, dims: tuple[int, ...]) -> Array:
        """Axes in the order ``dims``, batch included."""
        return x.transpose(dims)

    def concat(self, xs: list[Array], axis: int) -> Array:
        """Joined along ``axis``, batch counted."""
        return np.concatenate(xs, axis=axis)

    def gather(self, x: Array, index: Array) -> Array:
        """The elements of the flattened x; index −1 finds the zero behind them."""
        flat = x.reshape(len(x), -1)
        return np.concatenate([flat, np.zeros_like(flat, shape=(len(x), 1))], axis=1)[:, index]


def _matmul(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return cast(Array, a @ b.astype(a.dtype))
    reach = _magnitude(a) * _magnitude(b) * a.shape[-1]
    for exact, limit in ((np.float32, 2**24), (np.float64, 2**53)):
        if reach < limit:
            return cast(Array, (a.astype(exact) @ b.astype(exact)).astype(np.int64))
    return cast(Array, a.astype(np.int64) @ b.astype(np.int64))


def _magnitude(x: Array) -> int:
    return max(abs(int(x.max())), abs(int(x.min()))) if x.size else 0


def _patches(
    x: Array,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    out: tuple[int, ...],
    fill: float,
) -> Array:
    """Sliding windows [N, C, *out, *kernel] of x, padded with ``fill``, on the far side as far as windows reach."""
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, stride, dilation, kernel, strict=True)]
    pads = [(p, max(p, r - n - p)) for p, r, n in zip(padding, reach, x.shape[2:], strict=True)]
    if any(after or before for before, after in pads):
        x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, x.ndim)))
    outer = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(out, stride, strict=True))
    inner = tuple(slice(None, None, d) for d in dilation)
    return view[(slice(None), slice(None), *outer, *inner)]
