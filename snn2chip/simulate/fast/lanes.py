"""Spikes side by side: one bit each, five channels to a word, and the steps of many samples in the lanes of registers.

That is the form in which sums are looked up (``lookup.py``). A population's places have a border of silence around
them, as wide as any window reaches, so that no window needs to know where it ends.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import uint16, uint64

from snn2chip.ir.layers import Array, MaxPool, Shape
from snn2chip.simulate.fast import compiled

if TYPE_CHECKING:
    from snn2chip.simulate.fast.lookup import bits, ones

# Channels of a word, lanes of a register, and the channels whose sums are looked up at once.
BITS, REGISTER, OUTPUTS = 5, 32, 4
# Lanes left free between a step and the next of sums: at distances of 4 KiB a first-level cache holds few lines.
GAP = 32
# Samples side by side where there are few; more come in whole registers.
_FEW = (1, 2, 4, 8, 16)
# The share of lanes in use below which sums are sooner multiplied than looked up.
_LEAST_USED = 0.6


@dataclass(frozen=True)
class Lanes:
    """How the steps of some samples lie in the lanes of a word: step after step, in each the samples and room for more.

    Args:
        steps, samples: that there are.
    """

    steps: int
    samples: int

    @property
    def batch(self) -> int:
        """Lanes of a step."""
        return next((few for few in _FEW if self.samples <= few), _up(self.samples, REGISTER))

    @property
    def total(self) -> int:
        """Lanes of a word: whole registers."""
        return _up(self.steps * self.batch, REGISTER)

    @property
    def worthwhile(self) -> bool:
        """Whether enough of the lanes are in use."""
        return self.steps * self.samples >= _LEAST_USED * self.total

    @classmethod
    def full(cls, samples: int) -> int:
        """At most so many samples that no lane of a step is without one."""
        few = max((few for few in _FEW if few <= samples), default=1)
        return samples // REGISTER * REGISTER if samples >= REGISTER else few

    def of_samples(self, values: Array) -> Array:
        """What was found for every lane [total, …], for the steps and samples there are: [steps, samples, …]."""
        steps = self.total // self.batch
        return values.reshape(steps, self.batch, *values.shape[1:])[: self.steps, : self.samples]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Grid:
    """The places of a population, and the silent border around them.

    Args:
        shape: of the population, (C,), (C, W) or (C, H, W).
        before, after: width of the border along both axes.
    """

    shape: Shape
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)

    @property
    def space(self) -> tuple[int, int]:
        """Rows and columns of places."""
        height, width = (1, 1, *self.shape[1:])[-2:]
        return height, width

    @property
    def outer(self) -> tuple[int, int]:
        """Rows and columns with the border."""
        (top, left), (bottom, right), (height, width) = self.before, self.after, self.space
        return top + height + bottom, left + width + right

    @property
    def bytes(self) -> int:
        """Of the words of one lane."""
        return 2 * self.row * math.prod(self.outer)

    @property
    def row(self) -> int:
        """Words of a place."""
        return -(-self.shape[0] // BITS)

    def places(self, rows: Array, columns: Array) -> Array:
        """Places counted along the rows of the whole grid, for every row and column counted inside the border."""
        return ((rows[:, None] + self.before[0]) * self.outer[1] + columns + self.before[1]).ravel()

    @functools.cached_property
    def inner(self) -> Array:
        """The places of the population."""
        height, width = self.space
        return self.places(np.arange(height), np.arange(width))

    def words(self, lanes: Lanes) -> Words:
        """Room for the spikes of all steps; silent on the border, anything inside."""
        words = registers(*self.outer, self.row, lanes.total)
        (top, left), (height, width) = self.before, self.space
        words[:top], words[top + height :] = 0, 0
        words[:, :left], words[:, left + width :] = 0, 0
        return Words(self, lanes, words.reshape(-1, self.row, lanes.total))


@dataclass(frozen=True)
class Words:
    """The spikes of a population: ``bits`` [places of the grid, words, lanes] of 16 bits, five of them in use."""

    grid: Grid
    lanes: Lanes
    bits: Array

    def unpacked(self) -> torch.Tensor:
        """As bytes, [T, N, *shape], channels last in memory."""
        channels, *space = self.grid.shape
        found = np.empty((self.lanes.steps, self.lanes.samples, len(self.grid.inner), channels), np.uint8)
        _kernel(_unpack)(self.bits, self.grid.inner, self.lanes.batch, found)
        return torch.from_numpy(found).reshape(*found.shape[:2], *space, channels).movedim(-1, 2)

    def counted(self, weights: Array) -> Array:
        """The spikes of every step and sample, each times the weight of its place: [places] → [T, N]."""
        everywhere, found = np.zeros(len(self.bits), np.int64), np.zeros(self.lanes.total, np.int64)
        everywhere[self.grid.inner] = weights
        _kernel(_count)(self.bits, everywhere, registers(self.lanes.total), found)
        return self.lanes.of_samples(found)

    def widest(self, pool: MaxPool, grid: Grid) -> Words:
        """Whether anything in a window spikes, at the places of another grid."""
        found = grid.words(self.lanes)
        lead = 2 - len(pool.kernel)
        sizes = ((1,) * lead + pool.kernel, (1,) * lead + pool.stride, (0,) * lead + pool.padding)
        rows, columns = (_bounds(*axis) for axis in zip(self.grid.space, grid.space, *sizes, strict=True))
        top, left = self.grid.before
        _kernel(_widest)(self.bits, rows, columns, top, left, self.grid.outer[1], found.bits, grid.inner)
        return found


def packed(x: torch.Tensor, grid: Grid, lanes: Lanes) -> Words:
    """Spikes [T, N, *shape] (T = 1: the same at every step) as words."""
    words = grid.words(lanes)
    last = x.movedim(2, -1).contiguous().expand(lanes.steps, *(-1,) * (x.dim() - 1))
    rows = last.to(torch.uint8).reshape(lanes.steps, lanes.samples, -1, grid.shape[0]).numpy()
    room = np.zeros(lanes.total, np.uint64), np.zeros(64, np.uint8)
    _kernel(_pack)(rows, grid.inner, lanes.batch, words.bits, *room)
    return words


def registers(*shape: int) -> Array:
    """Memory of 16-bit numbers that begins with a register, as torch gives it."""
    return torch.empty(shape, dtype=torch.int16).numpy().view(np.uint16)


def _bounds(size: int, outputs: int, kernel: int, stride: int, padding: int) -> Array:
    """First and last place of every window, without padding: [outputs, 2]."""
    first = np.arange(outputs) * stride - padding
    return np.stack([np.maximum(first, 0), np.minimum(first + kernel, size)], axis=1)


@functools.cache
def _kernel(function: Callable[..., None]) -> Callable[..., None]:
    return compiled.from_function(function, compiled.importing("snn2chip.simulate.fast.lookup", "bits", "ones"))


def _pack(x: Any, places: Any, batch: int, words: Any, found: Any, rest: Any) -> None:
    """Bytes [T, N, P, C]; ``found`` [lanes] is room for 64 channels, of which 60 fill words; ``rest`` is 64 zeros."""
    steps, samples, count, channels = x.shape
    for p in range(count):
        for c in range(0, channels, 60):
            for t in range(steps):
                for b in range(samples):
                    source = x.ctypes.data + ((t * samples + b) * count + p) * channels + c
                    if c + 64 > channels:
                        for k in range(channels - c):
                            rest[k] = x[t, b, p, c + k]
                        source = rest.ctypes.data
                    found[t * batch + b] = bits(source)
            for w in range(c // 5, min((c + 60) // 5, words.shape[1])):
                to, shift = words[places[p], w], uint64(5 * w - c)
                for j in range(len(found)):
                    to[j] = uint16(found[j] >> shift) & uint16(31)


def _unpack(words: Any, places: Any, batch: int, x: Any) -> None:
    steps, samples, count, channels = x.shape
    for p in range(count):
        source = words[places[p]]
        for t in range(steps):
            for b in range(samples):
                spikes, lane = x[t, b, p], t * batch + b
                for c in range(channels):
                    spikes[c] = source[c // 5, lane] >> (c % 5) & 1


def _count(words: Any, weights: Any, of_place: Any, out: Any) -> None:
    """``out`` [lanes] += spikes times the weight of their place; ``of_place`` [lanes] is room for the spikes of one."""
    places, row, lanes = words.shape
    for p in range(places):
        if weights[p] != 0:
            for j in range(0, lanes, 32):
                source = words.ctypes.data + (p * row * lanes + j) * 2
                ones(source, row, 2 * lanes, of_place.ctypes.data + 2 * j)
            for j in range(lanes):
                out[j] += weights[p] * of_place[j]


def _widest(words: Any, rows: Any, columns: Any, top: int, left: int, width: int, out: Any, places: Any) -> None:
    for i in range(len(rows)):
        for k in range(len(columns)):
            to = out[places[i * len(columns) + k]]
            to[:] = 0
            for y in range(rows[i, 0], rows[i, 1]):
                for z in range(columns[k, 0], columns[k, 1]):
                    source = words[(y + top) * width + z + left]
                    for w in range(source.shape[0]):
                        for j in range(source.shape[1]):
                            to[w, j] |= source[w, j]
