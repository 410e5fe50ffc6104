"""What every value of a network of integers can be, proved: intervals, and the power of two all values share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import (
    Add,
    Array,
    Concat,
    Conv,
    Delay,
    Flatten,
    Gather,
    Input,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Neuron,
    Output,
    Permute,
    Readout,
    Rescale,
    Reshape,
    Scale,
    SumPool,
)


@dataclass(frozen=True)
class Range:
    """Whole numbers from ``low`` to ``high``, all multiples of ``step`` (a power of two)."""

    low: int
    high: int
    step: int = 1

    def join(self, *others: Range) -> Range:
        """The smallest range that holds these too."""
        every = (self, *others)
        return Range(min(r.low for r in every), max(r.high for r in every), min(r.step for r in every))

    def within(self, other: Range) -> bool:
        """Whether ``other`` holds all of it."""
        return other.low <= self.low and self.high <= other.high

    @property
    def magnitude(self) -> int:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def mantissa(self) -> int:
        """The largest absolute value counted in steps: what a float's mantissa must hold."""
        return self.magnitude // self.step

    def __str__(self) -> str:
        if self.magnitude >= UNBOUNDED.magnitude:
            return "unbounded"
        return f"{self.low}…{self.high}" + ("" if self.step == 1 else f" by {self.step}")


UNBOUNDED = Range(-(2**63), 2**63 - 1)
SPIKES = Range(0, 1)
_ZERO = Range(0, 0, 1 << 62)


def common_power(array: Array) -> int:
    """The largest power of two that divides every element (1 << 62 for zeros)."""
    bits = int(np.bitwise_or.reduce(array.ravel(), initial=0))
    return bits & -bits if bits else 1 << 62


def magnitude(array: Array) -> int:
    """The largest absolute value of an integer array, 0 for an empty one."""
    return max(abs(int(array.max())), abs(int(array.min()))) if array.size else 0


@dataclass(frozen=True)
class SumRange:
    """What a synapse delivers (``out``), and the largest sum of magnitudes on the way, counted in steps."""

    out: Range
    partial: int


def sum_range(layer: Linear | Conv, x: Range) -> SumRange:
    """For inputs in ``x``, which may also be absent (padding, delays): no partial sum in any order exceeds
    ``partial`` times ``out.step``. Sums that may leave 64 bits are not bounded: integers lose their upper bits there.
    """
    x = x.join(_ZERO)
    largest = magnitude(layer.weight) * layer.weight.size
    if largest >= UNBOUNDED.high or x.magnitude >= UNBOUNDED.high:
        return SumRange(UNBOUNDED, UNBOUNDED.high)
    flat = layer.weight.reshape(len(layer.weight), -1)
    bias = (np.zeros(len(flat), np.int64) if layer.bias is None else layer.bias).reshape(len(flat), -1)
    # Python's integers where products might leave 64 bits.
    kind = np.int64 if 2 * largest * x.magnitude + magnitude(bias) < UNBOUNDED.high else object
    p = np.maximum(flat, 0).sum(axis=1, dtype=np.int64).astype(kind)
    n = flat.sum(axis=1, dtype=np.int64).astype(kind) - p
    b_low, b_high = bias.min(axis=1).astype(kind), bias.max(axis=1).astype(kind)
    step = common_power(layer.weight) * x.step
    if layer.bias is not None:
        step = min(step, common_power(layer.bias))
    out = Range(int((p * x.low + n * x.high + b_low).min()), int((p * x.high + n * x.low + b_high).max()), step)
    partial = int(((p - n) * x.magnitude + np.maximum(np.abs(b_low), np.abs(b_high))).max())
    return SumRange(out, partial // step) if partial < UNBOUNDED.high else SumRange(UNBOUNDED, UNBOUNDED.high)


class NetworkRanges:
    """The ranges of every output of a network of integers, found on demand.

    Args:
        network: a Program; or a Graph, asked for nothing behind its synapses, whose weights are no integers yet.
        data: what enters.
        population: (node, what its summed input can be, None where that is not known yet) → the ranges of its ports.
        like: of another network with the same rule for populations; what the two share is not worked out again.
    """

    def __init__(
        self,
        network: Network,
        data: Range,
        population: Callable[[Node, Callable[[], Range] | None], Mapping[str, Range]],
        like: NetworkRanges | None = None,
    ) -> None:
        self._network, self._data, self._population, self._like = network, data, population, like
        self._shapes = network.shapes()
        self._found: dict[str, Mapping[str, Range]] = {}
        self._open: set[str] = set()

    def of(self, name: str, port: str = "out") -> Range:
        """What the port of a node can be, before any delay."""
        node = self._network[name]
        if name not in self._found:
            if name in self._open:
                # On a cycle: whatever a population is fed, its registers bound what it sends; nothing else is bounded.
                return self._population(node, None)[port] if isinstance(node.layer, Neuron) else UNBOUNDED
            self._open.add(name)
            try:
                self._found[name] = self._ranges(node) if self._like is None else self._as_in(self._like, node)
            finally:
                self._open.discard(name)
        return self._found[name][port]

    def inputs(self, node: Node) -> list[Range]:
        """What arrives on each edge: the source's range, and zero where the edge waits."""
        found = [self.of(edge.source, edge.port) for edge in node.inputs]
        waits = isinstance(node.layer, Delay) or getattr(node.layer, "delay", None) is not None
        return [r.join(_ZERO) if waits or e.delay else r for r, e in zip(found, node.inputs, strict=True)]

    def same_in(self, like: NetworkRanges, node: Node) -> bool:
        """Whether the other network has the same node, for inputs of the same shapes and ranges."""
        if like._network.nodes.get(node.name) != node:
            return False
        here, there = (
            (x.inputs(node), [x._shapes[name] for name in (node.name, *(e.source for e in node.inputs))], x._data)
            for x in (self, like)
        )
        return here == there

    def _as_in(self, like: NetworkRanges, node: Node) -> Mapping[str, Range]:
        if not self.same_in(like, node):
            return self._ranges(node)
        like.of(node.name)
        return like._found[node.name]

    def _ranges(self, node: Node) -> Mapping[str, Range]:
        if isinstance(node.layer, Input):
            return {"out": self._data}
        if isinstance(node.layer, Neuron):
            return self._population(node, lambda: _sum(self.inputs(node)))
        if isinstance(node.layer, MatMul):
            x, y = self.inputs(node)
            return {"out": _bounded(_matmul(x, y, self._shapes[node.inputs[0].source][-1]))}
        rule = next((_RULES[cls] for cls in type(node.layer).__mro__ if cls in _RULES), None)
        out = UNBOUNDED if rule is None else rule(node.layer, self.inputs(node))
        return {"out": _bounded(out)}


def _bounded(x: Range) -> Range:
    """Nothing is said of what may leave 64 bits."""
    return x if x.magnitude < UNBOUNDED.high else UNBOUNDED


def _sum(xs: list[Range]) -> Range:
    return Range(sum(x.low for x in xs), sum(x.high for x in xs), min(x.step for x in xs))


def _same(layer: Any, xs: list[Range]) -> Range:
    return xs[0].join(*xs[1:])


def _product(x: Range, y: Range) -> Range:
    corners = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return Range(min(corners), max(corners), x.step * y.step)


def _matmul(x: Range, y: Range, terms: int) -> Range:
    one = _product(x, y)
    return Range(one.low * terms, one.high * terms, one.step)


def _sum_pool(layer: SumPool, xs: list[Range]) -> Range:
    x, size = xs[0].join(_ZERO), math.prod(layer.kernel)
    return Range(x.low * size, x.high * size, x.step)


def _rescale(layer: Rescale, xs: list[Range]) -> Range:
    half = (1 << layer.shift) >> 1
    return Range((xs[0].low + half) >> layer.shift, (xs[0].high + half) >> layer.shift)


def _gather(layer: Gather, xs: list[Range]) -> Range:
    return xs[0].join(Range(0, 0)) if (layer.index < 0).any() else xs[0]


def _scale(layer: Scale, xs: list[Range]) -> Range:
    return _product(xs[0], Range(int(layer.scale.min()), int(layer.scale.max()), common_power(layer.scale)))


_RULES: dict[type, Callable[[Any, list[Range]], Range]] = {
    Linear: lambda layer, xs: sum_range(layer, xs[0]).out,
    Conv: lambda layer, xs: sum_range(layer, xs[0]).out,
    SumPool: _sum_pool,
    MaxPool: _same,
    Flatten: _same,
    Reshape: _same,
    Permute: _same,
    Gather: _gather,
    Concat: _same,
    Delay: _same,
    Readout: _same,
    Output: _same,
    Add: lambda layer, xs: _sum(xs),
    Mul: lambda layer, xs: _product(xs[0], xs[1]),
    Rescale: _rescale,
    Scale: _scale,
}
