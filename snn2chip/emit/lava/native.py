"""When Lava's own LIF computes a neuron exactly, and with which parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array
from snn2chip.neurons.base import Bounds, Range
from snn2chip.neurons.lif import IntegerLIF

# lava/proc/lif/models.py, AbstractPyLifModelFixed, is the arithmetic that Arithmetic() states.
_LAVA = Arithmetic()
_INT32 = 1 << 31
_BIAS_MANTISSA = (1 << 15) - 1  # bias_mant is int16
_BIAS_EXPONENTS = range(8)
_THRESHOLD_MAX = (1 << 17) - 1


def native_parameters(
    neuron: IntegerLIF, arithmetic: Arithmetic, arriving: Range, steps: int
) -> tuple[dict[str, Any] | None, str]:
    """Parameters of Lava's LIF that make it compute ``neuron`` exactly, or None and why there are none.

    Args:
        neuron: what is to be computed.
        arithmetic: of the target.
        arriving: smallest and largest sum that can arrive in one step.
        steps: length of a sample; what the neuron does afterwards, up to its reset, nobody sees.

    Source: lava-nc 0.10.0 proc/lif/models.py, PyLifResetModelBitAcc.
    """
    worst = neuron.bounds(arriving, arithmetic, steps)
    if reason := _other_arithmetic(arithmetic, worst):
        return None, reason
    threshold, reason = _threshold(neuron, worst)
    if threshold is None:
        return None, reason
    bias = _bias(neuron.membrane_bias, neuron.bias_exp)
    if bias is None:
        return None, "its bias needs more than 16 bits"
    mantissa, exponent = bias
    return {
        "du": neuron.decay_u - 1,
        "dv": neuron.decay_v,
        "vth": threshold,
        "bias_mant": mantissa,
        "bias_exp": exponent,
    }, ""


def _other_arithmetic(arithmetic: Arithmetic, worst: Bounds) -> str:
    if (worst.accumulator << _LAVA.input_shift) + (1 << _LAVA.current_bits) >= _INT32:
        return "its current may leave the 32 bits in which Lava's LIF adds"
    if arithmetic == _LAVA:
        return ""
    elsewhere = dataclasses.replace(arithmetic, current_overflow=_LAVA.current_overflow)
    never_wraps = worst.u < 1 << (_LAVA.current_bits - 1)
    return "" if elsewhere == _LAVA and never_wraps else "the target computes with another arithmetic than Lava's LIF"


def _threshold(neuron: IntegerLIF, worst: Bounds) -> tuple[Array | None, str]:
    """The threshold of a strict fire test that gives the same spikes."""
    if any(x is not None and x.any() for x in (neuron.bias_u, neuron.v_start)):
        return None, "its current has a bias, or its membrane does not start at zero"
    if neuron.v_threshold is None:
        if max(worst.u, worst.v) <= _THRESHOLD_MAX << _LAVA.threshold_shift:
            return np.asarray(_THRESHOLD_MAX), ""
        return None, "it never fires, and its membrane may pass the largest threshold"
    in_range = max(worst.u, worst.v) < 1 << (_LAVA.voltage_bits - 1)
    strict = neuron.strict(_LAVA) if in_range else neuron
    if strict.native:
        return strict.v_threshold, ""
    if dataclasses.replace(neuron, fire=">").native:
        return None, "it fires at v >= v_threshold, Lava's LIF at v > v_threshold"
    return None, f"Lava's LIF resets to zero in the step of the spike, this one not ({neuron.describe()})"


def _bias(value: Array, preferred: int) -> tuple[Array, int] | None:
    """``value`` as mantissa << exponent with one exponent for all."""
    for exponent in (preferred, *reversed(_BIAS_EXPONENTS)):
        if exponent not in _BIAS_EXPONENTS:
            continue
        mantissa = value >> exponent
        if (mantissa << exponent == value).all() and np.abs(mantissa).max(initial=0) <= _BIAS_MANTISSA:
            return mantissa, exponent
    return None
