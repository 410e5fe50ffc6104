"""Linear layers as sparse integer matrices, and integers as sums of weights that a Loihi synapse holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Shape, windows
from snn2chip.simulate.ops import NumpyOps, apply

SignMode = Literal["MIXED", "EXCITATORY", "INHIBITORY"]


@dataclass(frozen=True)
class Matrix:
    """A sparse matrix [rows, columns] between row-major flattened tensors; entries may have a delay in steps.

    No (row, column, delay) occurs twice, and no weight is zero.
    """

    rows: Array
    columns: Array
    weights: Array
    delays: Array
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, rows: Array, columns: Array, weights: Array, shape: tuple[int, int], delays: Array | None = None
    ) -> Matrix:
        """Entries of any shape that broadcast against each other; equal places are summed, zeros dropped."""
        delays = np.zeros((), dtype=np.int64) if delays is None else delays
        r, c, w, d = (a.ravel() for a in np.broadcast_arrays(rows, columns, weights, delays))
        place, inverse = np.unique((d * shape[0] + r) * shape[1] + c, return_inverse=True)
        total = np.zeros(len(place), dtype=np.int64)
        np.add.at(total, inverse, w)
        place, total = place[total != 0], total[total != 0]
        row = place // shape[1]
        return cls(row % shape[0], place % shape[1], total, row // shape[0], shape)

    @classmethod
    def identity(cls, size: int) -> Matrix:
        """The unit matrix."""
        index = np.arange(size)
        return cls(index, index, np.ones(size, dtype=np.int64), np.zeros(size, dtype=np.int64), (size, size))

    def after(self, first: Matrix) -> Matrix:
        """The product ``self @ first``; delays add up."""
        order = np.argsort(first.rows, kind="stable")
        count = np.bincount(first.rows, minlength=first.shape[0])
        start = np.concatenate([[0], np.cumsum(count)])
        repeats = count[self.columns]
        mine = np.repeat(np.arange(len(self.rows)), repeats)
        within = np.arange(len(mine)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        theirs = order[start[self.columns[mine]] + within]
        return Matrix.of(
            self.rows[mine],
            first.columns[theirs],
            self.weights[mine] * first.weights[theirs],
            (self.shape[0], first.shape[1]),
            self.delays[mine] + first.delays[theirs],
        )

    def reordered(self, rows: Array, columns: Array) -> Matrix:
        """The same map between tensors whose element i is kept at place ``rows[i]`` and ``columns[i]``."""
        return Matrix.of(rows[self.rows], columns[self.columns], self.weights, self.shape, self.delays)

    def layers(self) -> list[Matrix]:
        """Summands in which no (row, column) occurs twice, as one synapse process needs them."""
        _, inverse, count = np.unique(self.rows * self.shape[1] + self.columns, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        return [self._part(rank == i) for i in range(int(count.max(initial=1)))]

    def _part(self, kept: Array) -> Matrix:
        return Matrix(self.rows[kept], self.columns[kept], self.weights[kept], self.delays[kept], self.shape)

    def dense(self, entries: Array) -> Array:
        """``entries`` at their places in a full matrix of zeros."""
        full = np.zeros(self.shape, dtype=np.int64)
        full[self.rows, self.columns] = entries
        return full

    def reach(self, low: int, high: int) -> tuple[int, int]:
        """Smallest and largest sum any row can give for inputs in [low, high]."""
        least = np.zeros(self.shape[0], dtype=np.int64)
        most = np.zeros(self.shape[0], dtype=np.int64)
        np.add.at(least, self.rows, np.minimum(self.weights * low, self.weights * high))
        np.add.at(most, self.rows, np.maximum(self.weights * low, self.weights * high))
        return int(least.min(initial=0)), int(most.max(initial=0))


def matrix_of(layer: L.Layer, inputs: tuple[Shape, ...], position: int = 0) -> Matrix | None:
    """The matrix from the input at ``position`` to the layer's output, or None where the layer is not linear.

    Args:
        layer: an integer layer without bias.
        inputs: shapes of all its inputs.
        position: which of them.
    """
    for cls in type(layer).__mro__:
        if cls in _MATRICES:
            return _MATRICES[cls](layer, inputs, position)
    return None


def mantissas(weights: Array, exponent: int) -> list[tuple[Array, int, SignMode]]:
    """``weights`` as a sum of synapses (mantissa, exponent, sign mode) that Lava keeps as they are.

    With mixed signs Lava clips the mantissa to [-256, 255] and floors it to even (``utils/weightutils.py``
    truncate_weights). One synapse suffices for every weight quantized for Loihi; odd or wide ones take several.

    Args:
        weights: of any shape.
        exponent: the exponent to use where it is possible, as the Program's format states it.
    """
    for wanted in (exponent, 0, -1):
        mantissa = weights << -wanted if wanted < 0 else weights >> wanted
        exact = bool((_shifted(mantissa, wanted) == weights).all())
        if not exact:
            continue
        low, high = int(mantissa.min(initial=0)), int(mantissa.max(initial=0))
        if not (mantissa & 1).any() and low >= -256 and high <= 254:
            return [(mantissa, wanted, "MIXED")]
        if low >= 0 and high <= 255:
            return [(mantissa, wanted, "EXCITATORY")]
        if high <= 0 and low >= -255:
            return [(mantissa, wanted, "INHIBITORY")]
    # The leading eight bits first; what is left is smaller by their weight.
    width = int(np.abs(weights).max()).bit_length() - 8
    top = (weights >> (width + 1)) << 1
    return [(top, width, "MIXED"), *mantissas(weights - (top << width), exponent)]


def _shifted(mantissa: Array, exponent: int) -> Array:
    return mantissa << exponent if exponent >= 0 else mantissa >> -exponent


def _linear(layer: L.Linear, inputs: tuple[Shape, ...], position: int) -> Matrix:
    (shape,) = inputs
    out, width = layer.weight.shape
    blocks = math.prod(shape[:-1])
    block, o, i = np.ogrid[:blocks, :out, :width]
    delays = None if layer.delay is None else layer.delay[None]
    return Matrix.of(block * out + o, block * width + i, layer.weight[None], (blocks * out, blocks * width), delays)


def _windowed(weight: Array, inputs: tuple[Shape, ...], layer: Any, sizes: Shape, dilation: tuple[int, ...]) -> Matrix:
    """Weights (C_out, C_in/groups, *kernel) slid over the input; groups follow from the numbers of channels."""
    (shape,) = inputs
    c_out, per_group = weight.shape[:2]
    axes = len(sizes)
    group = np.arange(c_out) // (c_out // (shape[0] // per_group))
    channel = group[:, None] * per_group + np.arange(per_group)
    column: Array = channel.reshape(c_out, per_group, *(1,) * (2 * axes))
    inside: Array = np.ones((1,) * column.ndim, dtype=bool)
    for axis, (n, k, s, p, d, out) in enumerate(
        zip(shape[1:], weight.shape[2:], layer.stride, layer.padding, dilation, sizes, strict=True)
    ):
        at = np.arange(k)[:, None] * d + np.arange(out)[None, :] * s - p
        spread = [1] * column.ndim
        spread[2 + axis], spread[2 + axes + axis] = k, out
        at = at.reshape(spread)
        column = column * n + at
        inside = inside & (at >= 0) & (at < n)
    row = np.arange(c_out * math.prod(sizes)).reshape(c_out, *(1,) * (axes + 1), *sizes)
    spread_weight = weight.reshape(*weight.shape, *(1,) * axes)
    kept = np.broadcast_to(inside, np.broadcast_shapes(column.shape, row.shape))
    r, c, w = (np.broadcast_to(a, kept.shape)[kept] for a in (row, column, spread_weight))
    return Matrix.of(r, c, w, (c_out * math.prod(sizes), math.prod(shape)))


def _conv(layer: L.Conv, inputs: tuple[Shape, ...], position: int) -> Matrix:
    sizes = windows(inputs[0][1:], layer.kernel, layer.stride, layer.padding, layer.dilation)
    return _windowed(layer.weight, inputs, layer, sizes, layer.dilation)


def _sum_pool(layer: L.SumPool, inputs: tuple[Shape, ...], position: int) -> Matrix:
    ones = np.ones((inputs[0][0], 1, *layer.kernel), dtype=np.int64)
    return _windowed(ones, inputs, layer, layer.output_shape(*inputs)[1:], (1,) * len(layer.kernel))


def _scale(layer: L.Scale, inputs: tuple[Shape, ...], position: int) -> Matrix:
    index = np.arange(math.prod(inputs[0]))
    return Matrix.of(index, index, np.broadcast_to(layer.scale, inputs[0]).ravel(), (len(index), len(index)))


def _moved(layer: L.Layer, inputs: tuple[Shape, ...], position: int) -> Matrix:
    """Layers that only move elements: run them on the elements' own numbers, counted from one."""
    size = math.prod(inputs[position])
    numbered = [np.zeros((1, *shape), dtype=np.int64) for shape in inputs]
    numbered[position] = np.arange(1, size + 1).reshape(1, *inputs[position])
    origin = apply(layer, numbered, NumpyOps()).ravel()
    rows = np.flatnonzero(origin)
    return Matrix.of(rows, origin[rows] - 1, np.ones((), dtype=np.int64), (len(origin), size))


def _unmoved(layer: L.Layer, inputs: tuple[Shape, ...], position: int) -> Matrix:
    return Matrix.identity(math.prod(inputs[position]))


_MATRICES: dict[type[L.Layer], Callable[[Any, tuple[Shape, ...], int], Matrix]] = {
    L.Linear: _linear,
    L.Conv: _conv,
    L.SumPool: _sum_pool,
    L.Scale: _scale,
    L.Flatten: _moved,
    L.Reshape: _moved,
    L.Permute: _moved,
    L.Gather: _moved,
    L.Concat: _moved,
    L.Add: _unmoved,
    L.Delay: _unmoved,
}
