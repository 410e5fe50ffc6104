"""Spikes as words: one bit each, five channels to a word, as sums are looked up (``lookup.py``)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import uint16, uint64

from snn2chip.ir.layers import Array, MaxPool
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.fused.lanes import Grid, Lanes

if TYPE_CHECKING:
    from snn2chip.simulate.fast.fused.lookup import bits, ones, spread


@dataclass(frozen=True)
class Words:
    """The spikes of a population: ``bits`` [places of the grid, words, lanes] of 16 bits, five of them in use."""

    grid: Grid
    lanes: Lanes
    bits: Array

    @classmethod
    def room(cls, grid: Grid, lanes: Lanes) -> Words:
        """For the spikes of all steps; silent on the border, anything inside."""
        words = registers(*grid.outer, grid.row, lanes.total)
        (top, left), (height, width) = grid.before, grid.space
        words[:top], words[top + height :] = 0, 0
        words[:, :left], words[:, left + width :] = 0, 0
        return cls(grid, lanes, words.reshape(-1, grid.row, lanes.total))

    def unpacked(self) -> torch.Tensor:
        """As bytes, [T, N, *shape], channels last in memory."""
        channels, *space = self.grid.shape
        found = np.empty((self.lanes.steps, self.lanes.samples, len(self.grid.inner), channels), np.uint8)
        room = np.empty((16, self.lanes.total), np.uint64)
        _kernel(_unpack)(self.bits, self.grid.inner, self.lanes.batch, found, room)
        return torch.from_numpy(found).reshape(*found.shape[:2], *space, channels).movedim(-1, 2)

    def counted(self, weights: Array | int) -> Array:
        """The spikes of every step and sample, each times the weight of its place, [places] or one: [T, N]."""
        everywhere, found = np.zeros(len(self.bits), np.int64), np.zeros(self.lanes.total, np.int64)
        everywhere[self.grid.inner] = weights
        _kernel(_count)(self.bits, everywhere, registers(self.lanes.total), found)
        return self.lanes.of_samples(found)

    def widest(self, pool: MaxPool, grid: Grid) -> Words:
        """Whether anything in a window spikes, at the places of another grid."""
        found = Words.room(grid, self.lanes)
        lead = 2 - len(pool.kernel)
        sizes = ((1,) * lead + pool.kernel, (1,) * lead + pool.stride, (0,) * lead + pool.padding)
        rows, columns = (_bounds(*axis) for axis in zip(self.grid.space, grid.space, *sizes, strict=True))
        top, left = self.grid.before
        _kernel(_widest)(self.bits, rows, columns, top, left, self.grid.outer[1], found.bits, grid.inner)
        return found


def packed(x: torch.Tensor, grid: Grid, lanes: Lanes) -> Words:
    """Spikes [T, N, *shape] as words."""
    words = Words.room(grid, lanes)
    rows = x.movedim(2, -1).contiguous().to(torch.uint8).reshape(lanes.steps, lanes.samples, -1, grid.shape[0]).numpy()
    room = np.zeros((16, lanes.total), np.uint64), np.zeros(64, np.uint8)
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
    return compiled.from_function(
        function, compiled.importing("snn2chip.simulate.fast.fused.lookup", "bits", "ones", "spread")
    )


def _pack(x: Any, places: Any, batch: int, words: Any, found: Any, rest: Any) -> None:
    """Bytes [T, N, P, C], 16 places at a time: samples lie so far apart that caches hold few of them side by side.

    ``found`` [16, lanes] is room for 64 channels, of which 60 fill words; ``rest`` for the last 64 bytes.
    """
    steps, samples, count, channels = x.shape
    for first in range(0, count, 16):
        n = min(16, count - first)
        for c in range(0, channels, 60):
            start = max(0, min(c, channels - 64))
            own = uint64(0xFFFFFFFFFFFFFFFF) >> uint64(max(0, 64 - channels))
            for t in range(steps):
                for b in range(samples):
                    for p in range(n):
                        offset = ((t * samples + b) * count + first + p) * channels + start
                        source = x.ctypes.data + offset
                        if offset + 64 > x.size:
                            for k in range(channels - start):
                                rest[k] = x[t, b, first + p, start + k]
                            source = rest.ctypes.data
                        found[p, t * batch + b] = bits(source) & own
            for p in range(n):
                for w in range(c // 5, min((c + 60) // 5, words.shape[1])):
                    to, shift = words[places[first + p], w], uint64(5 * w - start)
                    for j in range(len(to)):
                        to[j] = uint16(found[p, j] >> shift) & uint16(31)


def _unpack(words: Any, places: Any, batch: int, x: Any, found: Any) -> None:
    """The same way back; ``found`` [16, lanes] is room for 64 channels.

    64 bytes are written at once. Where a place has fewer, they reach into the next places of the sample, written later.
    """
    steps, samples, count, channels = x.shape
    for first in range(0, count, 16):
        n = min(16, count - first)
        for c in range(0, channels, 60):
            start = max(0, min(c, channels - 64))
            for p in range(n):
                found[p, :] = 0
                for w in range(start // 5, min((start + 68) // 5, words.shape[1])):
                    source, shift = words[places[first + p], w], 5 * w - start
                    for j in range(found.shape[1]):
                        if shift >= 0:
                            found[p, j] |= uint64(source[j]) << uint64(shift)
                        else:
                            found[p, j] |= uint64(source[j]) >> uint64(-shift)
            for t in range(steps):
                for b in range(samples):
                    for p in range(n):
                        own = found[p, t * batch + b]
                        if channels >= 64 or (count - first - p) * channels >= 64:
                            spread(own, x.ctypes.data + ((t * samples + b) * count + first + p) * channels + start)
                        else:
                            for k in range(channels):
                                x[t, b, first + p, k] = own >> uint64(k) & uint64(1)


def _count(words: Any, weights: Any, of_place: Any, out: Any) -> None:
    """``out`` [lanes] += spikes times the weight of their place; ``of_place`` [lanes] is room for the spikes of one."""
    places, row, lanes = words.shape
    for p in range(places):
        if weights[p] != 0:
            for first in range(0, row, 13107):  # as many words as 16 bits can count the spikes of
                for j in range(0, lanes, 32):
                    source = words.ctypes.data + ((p * row + first) * lanes + j) * 2
                    ones(source, min(13107, row - first), 2 * lanes, of_place.ctypes.data + 2 * j)
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
