"""Integers for real numbers: what the neuron models share when they are quantized and bounded."""

from __future__ import annotations

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array
from snn2chip.ir.target import Limits
from snn2chip.neurons.base import Range


def bias_mantissa(bias: Array, limits: Limits) -> tuple[Array, int]:
    """A bias in membrane units as (mantissa, exponent): ``mantissa << exponent``, or ``>> -exponent``.

    The exponent is the smallest at which the largest bias fits the mantissa; 6 where there is no bias at all.
    """
    largest, exponent = float(np.abs(bias).max(initial=0.0)), 6
    if np.rint(largest) != 0:
        exponent = max(limits.bias_exp_min, int(np.ceil(np.log2(largest / (limits.bias_max + 0.5)))))
    return np.rint(bias / 2.0**exponent), exponent


def decay_mantissa(kept: Array | float, arithmetic: Arithmetic) -> Array:
    """The decay, in 1/2**decay_bits, that leaves the share ``kept`` of a state."""
    rounded: Array = np.rint((1 - kept) * np.asarray(1 << arithmetic.decay_bits))
    return rounded


def decay_error(mantissa: Array, kept: Array, arithmetic: Arithmetic) -> float:
    """Largest difference between a decay in integers and the one that leaves the share ``kept``."""
    return float(np.max(np.abs(mantissa / (1 << arithmetic.decay_bits) - (1 - kept))))


def unless_zero(value: Array) -> Array | None:
    """Rounded; None where all of it rounds to zero."""
    return np.rint(value) if np.rint(value).any() else None


def extremes(threshold: Array | None) -> Range:
    """Smallest and largest; zero where there is none."""
    return (0, 0) if threshold is None else (int(np.min(threshold)), int(np.max(threshold)))


def span(values: Array | None) -> Range:
    """Smallest and largest of the values and zero."""
    return (0, 0) if values is None else (min(0, int(np.min(values))), max(0, int(np.max(values))))


def membrane_mantissa(threshold: Array, arithmetic: Arithmetic) -> Array:
    """A threshold in membrane units as the mantissa the chip shifts into place."""
    rounded: Array = np.rint(threshold / (1 << arithmetic.threshold_shift))
    return rounded


def factor(value: Array, bits: int) -> tuple[Array, int]:
    """Positive factors as (mantissa, shift): ``mantissa / 2**shift``, one shift for all, the largest of ``bits`` bits.

    Raises:
        S2CError: fewer than 8 bits are left for the mantissa.
    """
    if bits < 8:
        raise S2CError(
            "the chip's state is too wide for a product of two states in 64-bit integers",
            why=f"{bits} bits would be left for their factor",
            fix="use a target whose voltage_bits is 27 or less",
        )
    shift = bits - int(np.frexp(np.max(value))[1])
    # Rounding up may reach one bit more.
    if np.rint(np.max(value) * 2.0**shift) >= 1 << bits:
        shift -= 1
    return np.rint(value * 2.0**shift), shift
