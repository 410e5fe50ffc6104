"""Small compiled loops over bytes and integer-valued floats that neither numpy nor torch has: pooling and counting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from snn2chip.simulate.fast import compiled


@functools.cache
def pool_kernel() -> Callable[..., None]:
    """``pool(x [B,H,W,C], out [B,h,w,C], kernel h, w, stride h, w, padding h, w, largest)``: maximum, else sum."""
    return compiled.from_function(_pool)


@functools.cache
def count_kernel() -> Callable[..., None]:
    """``count(x [B,P,C], places [K], weights [K], out [B])``: nonzero values at these places, times their weights."""
    return compiled.from_function(_count)


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


def _count(x: Any, places: Any, weights: Any, out: Any) -> None:
    for b in range(len(x)):
        total = 0
        for k in range(len(places)):
            row = x[b, places[k]]
            found = 0
            for c in range(len(row)):
                found += row[c] != 0
            total += found * weights[k]
        out[b] = total
