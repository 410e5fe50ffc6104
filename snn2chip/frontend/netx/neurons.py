"""Neurons of a NetX file as integer LIF models."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.hdf5 import Tree
from snn2chip.frontend.netx.fields import Fields
from snn2chip.ir.layers import Array, Shape
from snn2chip.neurons.lif import IntegerLIF

NEURONS = ("LOIHI", "CUBA")
SUPPORTED = f"supported are {' and '.join(NEURONS)} neurons with real weights"

# NetX's neuron where a dense layer has none: it keeps the current, forgets the membrane and never fires.
NO_NEURON: Tree = {"type": "CUBA", "iDecay": 0, "vDecay": 4096, "vThMant": 1 << 17}

# Neuron fields NetX does not read, and the value that says nothing.
_UNREAD: dict[str, float] = {"refDelay": 1, "gradedSpike": 0, "wgtExp": 0, "weight_exp": 0}
_BIAS_LIMIT = (1 << 15) - 1


def model_of(layer: Fields, stored: Any, shape: Shape, notes: list[str]) -> IntegerLIF:
    """The model of a layer's neuron; what NetX does not read of it is added to ``notes``."""
    neuron = Fields(f"{layer.where}/neuron", stored if isinstance(stored, dict) else {})
    if neuron.kind not in NEURONS:
        raise refused_neuron(neuron.kind, layer.where)
    if "messageBits" in neuron.fields:
        raise S2CError(
            "the neuron states messageBits", where=neuron.where, why="NetX fails on it", fix="remove the field"
        )
    for name, nothing in _UNREAD.items():
        value = np.asarray(neuron.fields.get(name, nothing))
        if value.dtype.kind in "biuf" and (value != nothing).any():
            notes.append(f"{neuron.where}: {name} is {value.ravel()[0]}; NetX does not read it")
    decay_u, decay_v = (_placed(neuron, name, neuron.limited(name, 0, 4096), shape) for name in ("iDecay", "vDecay"))
    threshold = _placed(neuron, "vThMant", neuron.integers("vThMant"), shape)
    bias = layer.limited("bias", -_BIAS_LIMIT, _BIAS_LIMIT) if "bias" in layer.fields else np.zeros((), dtype=np.int64)
    return IntegerLIF(threshold, decay_v, decay_u, _placed(layer, "bias", bias, shape))


def _placed(group: Fields, name: str, value: Array, shape: Shape) -> Array:
    """A neuron parameter as (C, H, W): NetX has one per layer, per channel, or per neuron as (W, H, C)."""
    if value.size == 1:
        return value.reshape(())
    if value.shape == shape[::-1]:
        return value.T.copy()
    if len(shape) == 3 and value.shape == shape[:1]:
        return value.reshape(-1, 1, 1)
    raise S2CError(
        f"{name} has shape {value.shape}",
        where=group.where,
        why=f"the layer has {shape} neurons (C, H, W)",
        fix="export one value per layer, per channel, or per neuron",
    )


def refused_neuron(kind: str, where: str) -> S2CError:
    """The error that names a neuron of another family."""
    families = {"SDNN": "sigma-delta neurons", "RF": "resonate-and-fire neurons", "ALIF": "adaptive neurons"}
    family = next((title for key, title in families.items() if key in kind), "a neuron this version does not know")
    if kind.startswith("ADRF"):
        family = "adaptive resonate-and-fire neurons, which NetX runs as plain ones"
    return S2CError(f"the neuron is of type {kind!r}", where=where, why=f"these are {family}", fix=SUPPORTED)
