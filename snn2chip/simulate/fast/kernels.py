"""Small compiled loops over bytes and integer-valued floats that neither numpy nor torch has: pooling and counting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from snn2chip.simulate.fast import compiled


@functools.cache
def pool_kernel() -> Callable[..., None]:
    """``pool(x [B,H,W,C], out [B,h,w,C], kernel h, w, stride h, w, padding h, w, largest)``: maximum, else sum."""
    return compiled.jit(_pool)


@functools.cache
def count_kernel() -> Callable[..., None]:
    """``count(x [B,P,C], weight [P] int64, out [B] int64)``: nonzero values of each row, times their place's weight."""
    return compiled.jit(_count)


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


def _count(x: Any, weight: Any, out: Any) -> None:
    rows, places, channels = x.shape
    for b in range(rows):
        total = 0
        for p in range(places):
            found = 0
            for c in range(channels):
                found += x[b, p, c] != 0
            total += found * weight[p]
        out[b] = total
