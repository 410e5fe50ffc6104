"""Element ids: every element of every recorded tensor knows which graph node, step, sample and position it is.

A tensor of ids is moved about exactly as the data was (view, permute, stack, indexing, in any layout: [T, N, …],
[N, T, …], [T·N, …], one tensor per step). Where an operation computes, the ids are read back: :func:`rows` finds the
axes
that hold time and batch, and the pattern of one sample at one step, which is all a graph knows.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Shape

STATIC = -1
CONSTANT = -1


@dataclass(eq=False)
class Signal:
    """A value the graph computes: the output ``port`` of node ``name``, ``shape`` per sample and step.

    Args:
        timed: it differs from step to step; else it is the same at every step.
        port: a :data:`snn2chip.ir.graph.Port`, or a state that a neuron module keeps to itself.
        late: it was computed in an earlier step; it stands for the edge that brings it.
        over_time: for what was combined over time, {signal: coefficient per step}, or the signal whose maximum it is.
    """

    name: str
    shape: Shape
    timed: bool
    port: str = "out"
    late: bool = False
    over_time: dict[Signal, tuple[float, ...]] | Signal | None = None
    base: int = field(default=0, init=False)
    index: int = field(default=0, init=False)

    @property
    def size(self) -> int:
        """Elements per sample and step."""
        return math.prod(self.shape)


class Elements:
    """Hands out and reads back the ids of one recording with ``steps`` time steps and ``batch`` samples."""

    def __init__(self, steps: int, batch: int) -> None:
        self.steps, self.batch = steps, batch
        self.signals: list[Signal] = []
        self._bases: list[int] = []
        self._next = 0

    def add(self, signal: Signal) -> Signal:
        """Give a signal its range of ids."""
        signal.base, signal.index = self._next, len(self.signals)
        self.signals.append(signal)
        self._bases.append(self._next)
        self._next += signal.size * self.batch * (self.steps if signal.timed else 1)
        return signal

    def ids(self, signal: Signal, t: Tensor, n: Tensor) -> Tensor:
        """Ids [rows, *shape] of a signal at steps ``t`` [rows] and samples ``n`` [rows]."""
        slot = t.clamp(min=0) if signal.timed else torch.zeros_like(t)
        start = signal.base + (slot * self.batch + n) * signal.size
        return (start[:, None] + torch.arange(signal.size)).reshape(len(t), *signal.shape)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For every id: index of its signal, step (STATIC where it has none), sample, position."""
        low, high = (int(v) for v in torch.aminmax(ids))
        first, last = (bisect.bisect_right(self._bases, v) - 1 for v in (low, high))
        if first == last:
            signal = self.signals[first]
            row = (ids - signal.base).div(signal.size, rounding_mode="floor")
            position = ids - signal.base - row * signal.size
            step = row.div(self.batch, rounding_mode="floor")
            t = step if signal.timed else torch.full_like(row, STATIC)
            return torch.full_like(ids, first), t, row - step * self.batch, position
        which = torch.searchsorted(torch.tensor(self._bases), ids.contiguous(), right=True) - 1
        offset = ids - torch.tensor(self._bases)[which]
        sizes = torch.tensor([s.size for s in self.signals])[which]
        row, position = offset // sizes, offset % sizes
        timed = torch.tensor([s.timed for s in self.signals])[which]
        return which, torch.where(timed, row // self.batch, STATIC), row % self.batch, position

    def whole(self, ids: Tensor) -> Whole | None:
        """What :meth:`read` says, at once, where ids are values of one signal as they were handed out; else None."""
        first = int(ids[(0,) * ids.ndim])
        signal = self.signals[bisect.bisect_right(self._bases, first) - 1] if first >= 0 else None
        axes = range(ids.ndim + 1)
        axis = next((a for a in axes if signal and math.prod(ids.shape[a:]) == signal.size), None)
        if signal is None or axis is None:
            return None
        values = ids.reshape(*ids.shape[:axis], signal.size)
        start = values[..., :1]
        row = (start - signal.base).div(signal.size, rounding_mode="floor")
        count = self.batch * (self.steps if signal.timed else 1)
        handed_out = bool(((row * signal.size + signal.base == start) & (row >= 0) & (row < count)).all())
        if not handed_out or not bool((values == start + torch.arange(signal.size)).all()):
            return None
        row = row.reshape(*ids.shape[:axis], *(1,) * (ids.ndim - axis))
        step = row.div(self.batch, rounding_mode="floor")
        t = step if signal.timed else torch.full_like(row, STATIC)
        position = torch.arange(signal.size).reshape(*(1,) * axis, *ids.shape[axis:])
        return Whole(axis, torch.full_like(position, signal.index), t, row - step * self.batch, position)


class Whole(NamedTuple):
    """Values of one signal: what :meth:`Elements.read` returns, broadcasting, and the first axis of their features."""

    axis: int
    which: Tensor
    t: Tensor
    n: Tensor
    position: Tensor


@dataclass
class Pattern:
    """One sample at one step of a tensor: for every element the index of its signal and the position in it."""

    which: Tensor
    position: Tensor

    @property
    def shape(self) -> Shape:
        """Features only: neither batch nor time."""
        return tuple(self.position.shape)

    def part(self, axis: int, span: slice) -> Pattern:
        """Some elements along one axis."""
        at = (*(slice(None),) * axis, span)
        return Pattern(self.which[at], self.position[at])


@dataclass
class Rows:
    """Tensors of one shape taken apart into rows: every row is one sample at one step.

    Args:
        patterns: what a row holds, one per tensor, [*lead, *tail]; axes of one element are kept where they follow the
        batch.
        t, n: step and sample of every row.
    """

    patterns: list[Pattern]
    t: Tensor
    n: Tensor
    _pieces: Shape
    _order: list[int]
    _batch_axes: int
    _shape: Shape

    @property
    def lead(self) -> Shape:
        """The features of a row before the axes the operation works on."""
        return tuple(self._pieces[axis] for axis in self._order[self._batch_axes :])

    def arrange(self, x: Tensor) -> Tensor:
        """``x`` in the layout of the tensors → [rows, *lead, *tail]."""
        tail = tuple(x.shape[len(self._shape) :])
        n_pieces = len(self._pieces)
        spread = x.reshape(*self._pieces, *tail).permute(*self._order, *range(n_pieces, n_pieces + len(tail)))
        return spread.reshape(len(self.t), *self.lead, *tail)

    def put_back(self, rows: Tensor) -> Tensor:
        """[rows, *lead, *tail] → the layout the tensors had, with any tail."""
        tail = tuple(rows.shape[1 + len(self.lead) :])
        spread = rows.reshape(*(self._pieces[axis] for axis in self._order), *tail)
        back = [self._order.index(axis) for axis in range(len(self._order))]
        spread = spread.permute(*back, *range(len(back), len(back) + len(tail)))
        return spread.reshape(*self._shape, *tail)


class TimesDifferError(S2CError):
    """Tensors of different steps meet in one operation."""


def rows(elements: Elements, tensors: list[Tensor], k: int, where: str) -> Rows:
    """Take id tensors of one shape apart for an operation that is pointwise in all but the last ``k`` axes.

    Raises:
        TimesDifferError: they hold different steps.
        S2CError: elements of different steps or samples are mixed where the operation needs one.
    """
    whole = [elements.whole(ids) for ids in tensors]
    together = len({None if values is None else values.axis for values in whole}) == 1 and whole[0] is not None
    if not together and any(bool((ids < 0).any()) for ids in tensors):
        raise partly_constant(where)
    read = [values[1:] for values in whole if values] if together else [elements.read(ids) for ids in tensors]
    t = torch.stack([r[1] for r in read]).amax(0)
    n = read[0][2]
    if any(bool(((r[1] != t) & (r[1] != STATIC)).any()) for r in read):
        raise TimesDifferError("values of different time steps meet in one operation", where=where)
    if any(bool((r[2] != n).any()) for r in read):
        raise _mixed("samples of the batch", where, tensors[0])
    when = t * elements.batch + n
    places = [which * (1 << 40) + position for which, _, _, position in read]
    shape = tensors[0].shape
    lead = len(shape) - k
    pieces: list[int] = []
    is_batch: list[bool] = []
    timed = bool((t != STATIC).all())
    for axis in range(lead):
        for size, kind in _pieces(shape[axis], when, places, axis):
            pieces.append(size)
            # An axis along which nothing varies is a feature where a batch axis came before it. Without a step of their
            # own, values may be repeated for every step there instead.
            feature = any(is_batch) and (timed or size == 1) if kind == "idle" else kind == "feature"
            is_batch.append(not feature)
    order = [a for a, b in enumerate(is_batch) if b] + [a for a, b in enumerate(is_batch) if not b]
    count = math.prod(pieces[a] for a in order[: sum(is_batch)])
    blank = torch.empty(count, dtype=torch.int64)
    found = Rows([], blank, blank, tuple(pieces), order, sum(is_batch), tuple(shape[:lead]))
    if together:
        # One row says where its elements come from, one element where its row does.
        rowwise, within = order[: sum(is_batch)], [*order[sum(is_batch) :], *range(lead, len(shape))]
        found.t, found.n = (_along(x.expand(shape), rowwise).flatten() for x in (t, n))
        for which, _, _, position in read:
            found.patterns.append(Pattern(*(_along(x.expand(shape), within) for x in (which, position))))
        return found
    for which, _, _, position in read:
        which, position = found.arrange(which), found.arrange(position)
        if bool((which != which[:1]).any()) or bool((position != position[:1]).any()):
            raise _mixed("places", where, tensors[0])
        found.patterns.append(Pattern(which[0], position[0]))
    steps, samples = (found.arrange(x).reshape(count, -1) for x in (t, n))
    found.t, found.n = steps.amax(1), samples[:, 0]
    if bool(((steps != found.t[:, None]) & (steps != STATIC)).any()):
        raise _mixed("time steps", where, tensors[0])
    if bool((samples != found.n[:, None]).any()):
        raise _mixed("samples of the batch", where, tensors[0])
    return found


def partly_constant(where: str) -> S2CError:
    """What is said of a tensor whose ids are partly :data:`CONSTANT`."""
    return S2CError(
        "constants and computed values are mixed in one tensor",
        where=where,
        why="a graph has no layer that pads with, or writes into, a constant tensor",
        fix="use the padding of the convolution or pooling layer, or torch.stack or torch.cat; where a record over "
        "time begins with a start value, select what follows: output=lambda out: out[:, 1:]",
    )


def _mixed(what: str, where: str, ids: Tensor) -> S2CError:
    return S2CError(
        f"an operation mixes {what}",
        where=where,
        why=f"a graph computes one step of one sample at a time; this tensor {tuple(ids.shape)} does not split so",
        fix="if the example's time axis was not found, name it: trace(..., input_time_axis=0, 1 or None)",
    )


_Kind = Literal["batch", "feature", "idle"]


def _along(x: Tensor, axes: list[int]) -> Tensor:
    """The axes ``axes`` of a tensor, in that order, at the first index of all others."""
    at = tuple(slice(None) if axis in axes else 0 for axis in range(x.ndim))
    left = sorted(axes)
    return x[at].permute([left.index(axis) for axis in axes]).contiguous()


def _pieces(size: int, when: Tensor, places: list[Tensor], axis: int) -> list[tuple[int, _Kind]]:
    """An axis as (size, what varies) pieces, outermost first: one axis may hold batch and feature, flattened."""
    kind = _kind(when, places, axis)
    if kind is not None:
        return [(size, kind)]
    for inner in (d for d in range(2, size) if size % d == 0):
        parts = [x.reshape(*x.shape[:axis], size // inner, inner, *x.shape[axis + 1 :]) for x in (when, *places)]
        outer_kind, inner_kind = (_kind(parts[0], parts[1:], axis + i) for i in (0, 1))
        if outer_kind is not None and inner_kind is not None:
            return [(size // inner, outer_kind), (inner, inner_kind)]
    return [(size, "batch")]


def _kind(when: Tensor, places: list[Tensor], axis: int) -> _Kind | None:
    """What varies along an axis: step and sample, the place, nothing, or (None) both."""
    batch = bool((when != when.narrow(axis, 0, 1)).any())
    feature = any(bool((place != place.narrow(axis, 0, 1)).any()) for place in places)
    if batch and feature:
        return None
    return "batch" if batch else "feature" if feature else "idle"
