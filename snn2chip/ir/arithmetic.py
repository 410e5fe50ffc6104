"""How a chip computes, as data: widths, shifts, rounding and overflow of its neuron cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from snn2chip.ir.structure import Struct

Overflow = Literal["wrap", "wrap_once", "saturate"]
Rounding = Literal["zero", "floor"]


@dataclass(frozen=True, eq=False)
class Arithmetic(Struct):
    """Fixed point of a neuron core.

    Args:
        decay_bits: decays count in 1/2**decay_bits.
        decay_rounding: how a decayed state is rounded.
        input_shift: the summed input is shifted left by this on its way into the current.
        threshold_shift: the threshold mantissa is shifted left by this.
        current_bits, current_overflow: register of the synaptic current u.
        voltage_bits, voltage_overflow: register of the membrane v.
    """

    decay_bits: int = 12
    decay_rounding: Rounding = "zero"
    input_shift: int = 6
    threshold_shift: int = 6
    current_bits: int = 24
    current_overflow: Overflow = "wrap_once"
    voltage_bits: int = 24
    voltage_overflow: Overflow = "saturate"
