"""Fixed-point arithmetic of digital neuromorphic cores, as pure functions on integers.

Written with ``+ - * >> << where`` and comparisons only, so that the same lines serve as the numpy reference, as the
body of an emitted Lava process, and as the source of a compiled kernel. This file is copied into emitted projects as it
stands: it imports numpy and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def shift_right(x: Any, bits: int, rounding: str) -> Any:
    """``x / 2**bits`` rounded toward zero ("zero", Lava ``proc/lif/models.py``) or down ("floor")."""
    return np.where(x < 0, -(-x >> bits), x >> bits) if rounding == "zero" else x >> bits


def fit(x: Any, bits: int, overflow: str) -> Any:
    """``x`` brought into a signed register of ``bits`` bits.

    "wrap": two's complement. "wrap_once": one correction by 2**bits into (-2**(bits-1), 2**(bits-1)], all that Lava's
    model applies (``AbstractPyLifModelFixed.subthr_dynamics``). "saturate": symmetric, ±(2**(bits-1) - 1).
    """
    half = 1 << (bits - 1)
    if overflow == "saturate":
        return np.minimum(np.maximum(x, 1 - half), half - 1)
    if overflow == "wrap_once":
        down = np.where(x > half, x - 2 * half, x)
        return np.where(down <= -half, down + 2 * half, down)
    return ((x + half) & (2 * half - 1)) - half


def meets(v: Any, threshold: Any, fire: str) -> Any:
    """The fire test, ``v > threshold`` or ``v >= threshold``, on integers and on floats."""
    return v > threshold if fire == ">" else v >= threshold


def horner(x: Any, coefficients: Any, bits: int, rounding: str) -> Any:
    """``Σ coefficients[i] · (x / 2**bits)**i`` (S002 Eq. 15), every product shifted back as it arises.

    For ``|x| ≤ 2**bits`` no product exceeds ``(Σ |coefficients| + their number) << bits``.
    """
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = shift_right(total * x, bits, rounding) + coefficient
    return total


def decayed(state: Any, decay: Any, bits: int, rounding: str) -> Any:
    """``state · (1 − decay/2**bits)``, rounded as the core rounds."""
    return shift_right(state * ((1 << bits) - decay), bits, rounding)
