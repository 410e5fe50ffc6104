"""Biases: the chip has them in the neuron, NIR in the synapse."""

from __future__ import annotations

import numpy as np

from snn2chip.emit.nir.view import View
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array


def bias_of(view: View, node: Node, own: Array | None) -> Array | None:
    """The bias of a synapse: its own on the host, that of the population it feeds on the chip; in trained units."""
    if own is not None:
        return own * view.scale[node.name]
    readers = view.program.consumers(node.name)
    if len(readers) != 1 or not isinstance(readers[0].layer, L.Neuron) or bias_synapse(view, readers[0]) != node.name:
        return None
    per_step = _membrane_bias if view.without_memory(readers[0]) else _current_bias
    bias = per_step(view, readers[0])
    return bias.reshape(bias.shape[0], -1)[:, 0] if bias.ndim else bias


def bias_synapse(view: View, population: Node) -> str | None:
    """The synapse that carries the population's bias in the NIR graph; None without a bias, or if no synapse can."""
    model = population.layer.model  # type: ignore[attr-defined]
    biases = [model.bias_u] if model.bias_u is not None and model.bias_u.any() else []
    if view.without_memory(population) and model.bias.any():
        biases.append(model.bias)
    for edge in population.inputs if biases else ():
        node = view.program[edge.source]
        forward = any(not e.recurrent for e in node.inputs)
        own = forward and not edge.recurrent and len(view.program.consumers(node.name)) == 1
        if own and isinstance(node.layer, (L.Linear, L.Conv)) and node.layer.bias is None:
            axes = node.layer.axes if isinstance(node.layer, L.Conv) else 0
            return node.name if all(_per_channel(bias, axes) for bias in biases) else None
    return None


def _per_channel(bias: Array, axes: int) -> bool:
    """Whether a bias is one number per channel, as a synapse with ``axes`` spatial axes adds it."""
    if bias.ndim == 0:
        return True
    return bias.ndim == axes + 1 and bool((bias == bias[(slice(None), *(slice(0, 1),) * axes)]).all())


def _membrane_bias(view: View, node: Node) -> Array:
    """The bias a membrane without current memory gets in one step, in the unit of the population's input."""
    model, shift = node.layer.model, view.program.target.arithmetic.input_shift  # type: ignore[attr-defined]
    p = model.parameters(view.program.target.arithmetic)
    return np.asarray((p["bias"] + p["bias_u"]) * (view.drive(node) / (1 << shift)))


def _current_bias(view: View, node: Node) -> Array:
    """The bias the current gets in one step, in the unit of the population's input."""
    model, shift = node.layer.model, view.program.target.arithmetic.input_shift  # type: ignore[attr-defined]
    return np.asarray(model.bias_u * (view.drive(node) / (1 << shift)))
