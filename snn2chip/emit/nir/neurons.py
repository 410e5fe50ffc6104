"""Neurons as NIR nodes, in the units of the trained network."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.emit.nir.bias import bias_synapse
from snn2chip.emit.nir.view import NoWordError, View
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Shape
from snn2chip.neurons.lif import IntegerLIF

# NIR's time constants are finite: a state that never decays gets one of this many steps.
_FOREVER = 2.0**40


def neuron(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """LIF, CubaLIF or IF, or without a threshold LI, CubaLI or I; the units are those of the trained network."""
    model, arithmetic = node.layer.model, view.program.target.arithmetic  # type: ignore[attr-defined]
    if not isinstance(model, IntegerLIF):
        raise NoWordError(f"NIR has no {model.kind} neuron: {node.where()}")
    _note_choices(view, node, model)
    p = model.parameters(arithmetic)
    full = 1 << arithmetic.decay_bits
    v_scale = view.membrane(node, arithmetic.input_shift)
    # One step turns an input x into x · gain on the membrane, whatever the decays.
    gain = (v_scale * (1 << arithmetic.input_shift)) / view.drive(node)

    current = not view.without_memory(node)
    bias_on_synapse = not current and bias_synapse(view, node) is not None
    own_bias = 0 if bias_on_synapse else p["bias"] + (p["bias_u"] if not current else 0)
    if current and model.bias_u is not None and model.bias_u.any() and bias_synapse(view, node) is None:
        view.note(node, "the bias of the current is not in the NIR graph")
    leaks = bool(model.decay_v.any()) or bool(np.any(own_bias)) or current

    lost_v = np.where(model.decay_v > 0, model.decay_v / full, 1 / _FOREVER)
    fields: dict[str, Any] = {}
    if leaks:
        fields = {
            "tau_mem" if current else "tau": view.dt / lost_v,
            "r": gain / lost_v,
            "v_leak": own_bias * v_scale / lost_v,
        }
    else:
        fields["r"] = gain / view.dt
    if current:
        lost_u = np.where(model.decay_u > 0, model.decay_u / full, 1 / _FOREVER)
        fields |= {"tau_syn": view.dt / lost_u, "w_in": 1 / lost_u}
    if model.v_threshold is not None:
        fields |= {"v_threshold": p["threshold"] * v_scale, "v_reset": p["v_reset"] * v_scale}
    kind = {(True, True): "CubaLI", (True, False): "LI", (False, False): "I"}[leaks, current]
    spelled = kind if model.v_threshold is None else kind + "F"
    return {"type": spelled} | {
        name: np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=np.float64), shape))
        for name, value in fields.items()
    }


def _note_choices(view: View, node: Node, model: IntegerLIF) -> None:
    if model.v_threshold is not None:
        if model.reset != "hard":
            view.note(
                node, {"soft": "reset by subtraction", "none": "no reset"}[model.reset] + "; NIR resets to v_reset"
            )
        if model.reset_timing != "same" and model.reset != "none":
            view.note(node, f"the reset acts in the next step ({model.reset_timing}); NIR resets with the spike")
        if model.fire != ">":
            view.note(node, "fires at v >= v_threshold; NIR at v > v_threshold")
    if model.v_start is not None and model.v_start.any():
        view.note(node, "NIR has no word for the membrane's start value")
