"""Neurons of a NIR graph: differential equations, taken in steps, as models of the integrate-and-fire family."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.errors import UsageError
from snn2chip.frontend.nir.choices import ROUNDING, Choices
from snn2chip.frontend.nir.fields import Fields
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Shape
from snn2chip.neurons.base import Reset
from snn2chip.neurons.lif import LIF

POPULATIONS = ("I", "LI", "IF", "LIF", "CubaLI", "CubaLIF", "Threshold")
PARAMETERS = ("r", "tau", "tau_mem", "tau_syn", "w_in", "v_leak", "v_threshold", "v_reset", "threshold")
_RESETS: dict[str, Reset] = {"zero": "hard", "v_reset": "hard", "subtract": "soft", "none": "none"}


def threshold(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """Threshold: a spike wherever the input passes it, and no memory."""
    fire = choices("fire", node.name)
    return L.Neuron(LIF(node.parameter("threshold", shape), np.zeros(()), fire=fire, reset="none"))


def neuron(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """I, LI, IF, LIF, CubaLI and CubaLIF."""
    kind = node.fields["type"]
    v_reset = node.parameter("v_reset", shape) if node.has("v_reset") else np.zeros(())
    v_leak = node.parameter("v_leak", shape) if node.has("v_leak") else np.zeros(())
    start = {"v_reset": v_reset, "v_leak": v_leak}.get(choices("start", node.name), np.zeros(()))
    if kind in ("I", "IF"):
        gain = _integrator_gain(node, node.parameter("r", shape), choices)
        options: dict[str, Any] = {"decay": np.ones(()), "gain": gain}
    else:
        options = _leaky(node, shape, v_leak, choices)
    if kind in ("I", "LI", "CubaLI"):
        return L.Neuron(LIF(np.asarray(np.inf), reset="none", v_start=start, **options))
    model = LIF(
        node.parameter("v_threshold", shape),
        fire=choices("fire", node.name),
        reset=_RESETS[choices.reset_of(node, v_reset)],
        reset_timing=choices("reset_timing", node.name),
        v_reset=v_reset,
        v_start=start,
        **options,
    )
    return L.Neuron(model)


def _leaky(node: Fields, shape: Shape | None, v_leak: Array, choices: Choices) -> dict[str, Any]:
    """Decays and gains of a membrane with a time constant, and of the current before it."""
    current = node.fields["type"].startswith("Cuba")
    field, r = "tau_mem" if current else "tau", node.parameter("r", shape)
    tau = node.parameter(field, shape)
    lost = choices.decay(tau, node, field)
    impulse = choices("input_gain", node.name) == "impulse"
    rockpool = choices.integration == "rockpool"
    if rockpool:
        _check_rockpool(node, r * choices.step(node) / tau, 1 - lost, impulse)
        gain = np.ones(()) if current else 1 - lost
    else:
        gain = r if impulse and not current else _near_one(r * lost)
    driven_like_leak = not (current or impulse or rockpool) and bool((r == 1).all())
    if not current:
        return _leak(lost, gain, v_leak, driven_like_leak)
    lost_current = choices.decay(node.parameter("tau_syn", shape), node, "tau_syn")
    w_in = node.parameter("w_in", shape) if node.has("w_in") else np.ones(())
    entering = 1 - lost_current if rockpool else w_in if impulse else _near_one(w_in * lost_current)
    # Counted before w_in the current needs no gain of its own; the membrane is the same.
    return _leak(lost, gain * entering, v_leak, driven_like_leak) | {"current_decay": 1 - lost_current}


def _check_rockpool(node: Fields, stated: Array, written: Array, impulse: bool) -> None:
    """Raise unless the node is one of Rockpool's, whose r·dt/τ is exp(−dt/τ) and means nothing else."""
    if node.fields["type"] not in ("LI", "CubaLIF") or impulse or not np.allclose(stated, written, rtol=1e-4):
        raise UsageError(
            'integration="rockpool" contradicts the file',
            where=node.where,
            why=f"Rockpool writes LI and CubaLIF with r·dt/τ = exp(−dt/τ); here r·dt/τ is {np.mean(stated):.6g} "
            f"and exp(−dt/τ) {np.mean(written):.6g}",
            fix='give the dt of the export, or integration="euler" or "exponential"',
        )


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
    asked = choices("integrator_gain", node.name)
    if asked == "r":
        return r
    dt = choices.step(node)
    if asked is None and (r == 1).all() and dt != 1:
        raise UsageError(
            "what one input adds to the membrane is not clear",
            where=node.where,
            why=f"r is 1: {dt:.6g} by NIR's equation v' = r·I over a step; 1 in tools that count inputs as impulses",
            fix='give integrator_gain="r" (sinabs, snnTorch) or integrator_gain="r*dt" (the equation)',
        )
    return _near_one(r * dt)
