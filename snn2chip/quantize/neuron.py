"""An integer neuron as a chip with one fixed LIF can run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.target import Limits
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.neurons.fixed_point import bias_mantissa
from snn2chip.neurons.lif import IntegerLIF

# What a chip without programmable neurons lacks → how the option to do without reads in a report.
APPROXIMATIONS = {
    "fire_test": "fires on v > θ where the network was trained with v ≥ θ",
    "reset_timing": "resets in the step of the spike where the network was trained to reset in the next",
    "soft_reset": "resets to zero where the network was trained to subtract the threshold",
    "current_bias": "adds the bias to the membrane where the network was trained with it in the current",
    "v_reset": "resets to and starts from zero where the network was trained with another value",
}


def on_fixed_core(
    neuron: IntegerNeuron, where: str, allowed: Collection[str], limits: Limits, arithmetic: Arithmetic
) -> tuple[IntegerLIF, tuple[str, ...]]:
    """The neuron as a chip with one fixed LIF can run it, and what was approximated, each under its named option.

    Raises:
        S2CError: something the core cannot do was not allowed to be approximated.
    """
    if not isinstance(neuron, IntegerLIF):
        raise S2CError(
            f"this chip's fixed neuron is a LIF, not a {neuron.kind}",
            where=where,
            why=neuron.describe(),
            fix="use a target with programmable neurons (loihi2), or train the network with LIF neurons",
        )
    needs = {
        "fire_test": neuron.v_threshold is not None and neuron.fire != ">",
        "soft_reset": neuron.v_threshold is not None and neuron.reset == "soft",
        "reset_timing": neuron.v_threshold is not None and neuron.reset_timing != "same",
        "current_bias": neuron.bias_u is not None,
        "v_reset": any(x is not None and x.any() for x in (neuron.v_reset, neuron.v_start)),
    }
    lacking = [name for name, needed in needs.items() if needed]
    if neuron.v_threshold is not None and neuron.reset == "none":
        raise S2CError(
            "this chip's neuron always resets when it fires",
            where=where,
            fix="use a target with programmable neurons",
        )
    refused = [name for name in lacking if name not in allowed]
    if refused:
        raise S2CError(
            "this chip's fixed neuron cannot do what the network was trained with",
            where=where,
            why="; ".join(APPROXIMATIONS[name] for name in refused),
            fix="use a target with programmable neurons (loihi2), or accept it by name: "
            f"--approximate {','.join(refused)}",
        )
    changes: dict[str, object] = {}
    if "fire_test" in lacking:
        changes["fire"] = ">"
    if "soft_reset" in lacking:
        changes["reset"] = "hard"
    if "reset_timing" in lacking:
        changes["reset_timing"] = "same"
    if "v_reset" in lacking:
        changes |= {"v_reset": None, "v_start": None}
    if "current_bias" in lacking:
        assert neuron.bias_u is not None
        # In the steady state a bias b in the current adds b / decay to it at every step.
        total = (neuron.bias << neuron.bias_exp) + (neuron.bias_u << arithmetic.decay_bits) / np.maximum(
            neuron.decay_u, 1
        )
        mantissa, exponent = bias_mantissa(total, limits)
        changes |= {"bias_u": None, "bias": mantissa, "bias_exp": exponent}
    return dataclasses.replace(neuron, **changes), tuple(lacking)  # type: ignore[arg-type]
