"""Integers for real numbers: what the neuron models share when they are quantized and bounded."""

from __future__ import annotations

import numpy as np

from snn2chip.ir.layers import Array
from snn2chip.ir.target import Limits
from snn2chip.neurons.base import Range


def bias_exponent(bias: Array, limits: Limits) -> int:
    """The smallest exponent at which the largest bias fits the mantissa; 6 where there is no bias at all."""
    largest = float(np.abs(bias).max(initial=0.0))
    if np.rint(largest) == 0:
        return 6
    return max(limits.bias_exp_min, int(np.ceil(np.log2(largest / (limits.bias_max + 0.5)))))


def unless_zero(value: Array) -> Array | None:
    """Rounded; None where all of it rounds to zero."""
    return np.rint(value) if np.rint(value).any() else None


def extremes(threshold: Array | None) -> Range:
    """Smallest and largest; zero where there is none."""
    return (0, 0) if threshold is None else (int(np.min(threshold)), int(np.max(threshold)))


def span(values: Array | None) -> Range:
    """Smallest and largest of the values and zero."""
    return (0, 0) if values is None else (min(0, int(np.min(values))), max(0, int(np.max(values))))
