"""Small compiled loops over bytes and integer-valued floats that neither numpy nor torch has: pooling and counting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numpy import floor, int32

from snn2chip.simulate.fast import compiled


@functools.cache
def pool_kernel() -> Callable[..., None]:
    """``pool(x [B,H,W,C], out [B,h,w,C], kernel h, w, stride h, w, padding h, w, largest)``: maximum, else sum."""
    return compiled.from_function(_pool)


@functools.cache
def count_kernel() -> Callable[..., None]:
    """``count(x [B,P,C], places [K], weights [K], out [B])``: nonzero values at these places, times their weights."""
    return compiled.from_function(_count)


@functools.cache
def join_kernel() -> Callable[..., None]:
    """``join(y [I,R,J,C], places [I,J], bias [C], row [C], out [R,C])``: bias + Σ places[i,j]·y[i,:,j,:] in float64."""
    return compiled.from_function(_join)


@functools.cache
def rescale_kernel() -> Callable[..., None]:
    """``rescale(x [M], half, factor, out [M])``: ⌊(x + half)·factor⌋ in float64; factor is a power of two."""
    return compiled.from_function(_rescale)


def _pool(x: Any, out: Any, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, largest: bool) -> None:
    batch, height, width, channels = x.shape
    for b in range(batch):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                to = out[b, i, j]
                first = True
                for y in range(max(i * sh - ph, 0), min(i * sh - ph + kh, height)):
                    for z in range(max(j * sw - pw, 0), min(j * sw - pw + kw, width)):
                        source = x[b, y, z]
                        if first:
                            for c in range(channels):
                                to[c] = source[c]
                            first = False
                        elif largest:
                            for c in range(channels):
                                to[c] = max(to[c], source[c])
                        else:
                            for c in range(channels):
                                to[c] += source[c]


def _join(y: Any, places: Any, bias: Any, row: Any, out: Any) -> None:
    for r in range(len(out)):
        for c in range(len(row)):
            row[c] = bias[c]
        for i in range(places.shape[0]):
            for j in range(places.shape[1]):
                digits, place = y[i, r, j], places[i, j]
                for c in range(len(row)):
                    row[c] += place * digits[c]
        to = out[r]
        for c in range(len(row)):
            to[c] = row[c]


def _rescale(x: Any, half: float, factor: float, out: Any) -> None:
    for i in range(len(x)):
        out[i] = floor((x[i] + half) * factor)


def _count(x: Any, places: Any, weights: Any, out: Any) -> None:
    for b in range(len(x)):
        total = 0
        for k in range(len(places)):
            row = x[b, places[k]]
            # Wider counters would fill a vector register with fewer values than a row has.
            found = int32(0)
            for c in range(len(row)):
                found = int32(found + int32(row[c] != 0))
            total += found * weights[k]
        out[b] = total
