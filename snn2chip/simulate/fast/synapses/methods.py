"""The ways to compute a synapse exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from snn2chip.simulate.fast.synapses.digits import digits_kernel, refuse_digits
from snn2chip.simulate.fast.synapses.linear import (
    Case,
    Kernel,
    float_kernel,
    int8_kernel,
    numpy_kernel,
    refuse_f32,
    refuse_f64,
    refuse_int8,
)


@dataclass(frozen=True)
class Method:
    """One way to compute a synapse.

    Args:
        refuse: says why it is not exact for a case ("" where it is).
        make: the kernel of a case that is not refused.
        text: what makes it exact, for people.
        widest: whether nothing behind it can be sooner where it is exact.
        input_bytes, output_bytes: what it holds for each input and output while it runs, beside these.
    """

    refuse: Callable[[Case], str]
    make: Callable[[Case], Kernel]
    text: str
    widest: bool = True
    input_bytes: int = 8
    output_bytes: int = 8


# In order of preference where nothing is timed; the last one is the definition and always holds.
METHODS: dict[str, Method] = {
    "int8": Method(refuse_int8, int8_kernel, "8-bit weights and inputs, sums in 32 bits (oneDNN)", False, 1),
    "int8 digits": Method(refuse_digits, digits_kernel, "digits of 8 bits, joined in 53 bits", False, 12, 24),
    "f32": Method(refuse_f32, float_kernel(torch.float32), "every partial sum is proved to fit 24 bits", input_bytes=4),
    "f64": Method(refuse_f64, float_kernel(torch.float64), "every partial sum is proved to fit 53 bits"),
    "int64": Method(lambda case: "", numpy_kernel, "numpy, 64-bit integers"),
}
