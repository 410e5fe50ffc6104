"""Neurons of a NIR graph: differential equations, taken in steps, as models of the integrate-and-fire family."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.errors import UsageError
from snn2chip.frontend.nir.choices import ROUNDING, Choices
from snn2chip.frontend.nir.fields import Fields
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Shape
from snn2chip.neurons.lif import LIF


def threshold(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """Threshold: a spike wherever the input passes it, and no memory."""
    return L.Neuron(LIF(node.parameter("threshold", shape), np.zeros(()), fire=choices.fire, reset="none"))


def neuron(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """I, LI, IF, LIF, CubaLI and CubaLIF."""
    kind = node.fields["type"]
    leaky, current = kind not in ("I", "IF"), kind.startswith("Cuba")
    r = node.parameter("r", shape)
    options: dict[str, Any] = {}
    if leaky:
        field = "tau_mem" if current else "tau"
        lost = choices.decay(node.parameter(field, shape), node, field)
        gain, v_leak = _near_one(r * lost), node.parameter("v_leak", shape)
        if current:
            tau_syn = choices.decay(node.parameter("tau_syn", shape), node, "tau_syn")
            w_in = node.parameter("w_in", shape) if node.has("w_in") else np.ones(())
            # Counted before w_in the current needs no gain of its own; the membrane is the same.
            gain = gain * _near_one(w_in * tau_syn)
            options["current_decay"] = 1 - tau_syn
        options |= _leak(lost, gain, v_leak, driven_like_leak=not current and bool((r == 1).all()))
    else:
        options |= {"decay": np.ones(()), "gain": _integrator_gain(node, r, choices)}
    if kind in ("I", "LI", "CubaLI"):
        return L.Neuron(LIF(np.asarray(np.inf), reset="none", **options))
    v_reset = node.parameter("v_reset", shape) if node.has("v_reset") else np.zeros(())
    reset = choices.reset_of(node, v_reset)
    model = LIF(
        node.parameter("v_threshold", shape),
        fire=choices.fire,
        reset={"zero": "hard", "v_reset": "hard", "subtract": "soft", "none": "none"}[reset],  # type: ignore[arg-type]
        reset_timing=choices.reset_timing,
        v_reset=v_reset,
        **options,
    )
    return L.Neuron(model)


def _leak(lost: Array, gain: Array, v_leak: Array, driven_like_leak: bool) -> dict[str, Any]:
    """Decay and gain in the form whose float operations are those of the framework that trains it so."""
    if driven_like_leak and (lost > 0).all():
        return {"decay": 1 / lost, "decay_form": "tau", "v_rest": v_leak}
    if v_leak.any() and (lost > 0).all():
        return {"decay": 1 / lost, "decay_form": "tau_undriven", "v_rest": v_leak, "gain": gain}
    return {"decay": 1 - lost, "gain": gain}


def _near_one(gain: Array) -> Array:
    return np.where(np.abs(gain - 1) < ROUNDING, 1.0, gain)


def _integrator_gain(node: Fields, r: Array, choices: Choices) -> Array:
    if choices.integrator_gain == "r":
        return r
    dt = choices.step(node)
    if choices.integrator_gain is None and (r == 1).all() and dt != 1:
        raise UsageError(
            "what one input adds to the membrane is not clear",
            where=node.where,
            why=f"r is 1: {dt:.6g} by NIR's equation v' = r·I over a step; 1 in tools that count inputs as impulses",
            fix='give integrator_gain="r" (sinabs, snnTorch) or integrator_gain="r*dt" (the equation)',
        )
    return _near_one(r * dt)
