"""What is said of modules and models in which no neuron that is known was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from snn2chip.errors import S2CError

_REGISTER = (
    "is one of snn2chip.neurons after all, one line above the class says so: "
    "@register_neuron(lambda m: LIF(m.threshold, m.decay)); see docs/identify-neurons.md"
)


class Doubt(NamedTuple):
    """What was found of a module that is no neuron that is known; ``spiking``: it gives two values or three."""

    reason: str
    spiking: bool


def with_doubts(error: S2CError, model: nn.Module, doubts: Mapping[str, Doubt]) -> S2CError:
    """The error; or, where it is about the code of a module that fires, why that is no neuron that is known.

    Args:
        doubts: by the path of the module.
    """
    places = [f"{word}." for word in error.where.split()]
    for path, doubt in doubts.items():
        if not any(place.startswith(f"{path}.") for place in places):
            continue
        if doubt.spiking:
            name = type(model.get_submodule(path)).__name__
            return S2CError(
                f"{name} is no neuron that is known", where=path, why=doubt.reason, fix=f"if it {_REGISTER}"
            )
        error.why = "; ".join(filter(None, [error.why, f"of {path} was found: {doubt.reason}"]))
        error.fix = "; ".join(filter(None, [error.fix, f"if {path} {_REGISTER}"]))
    return error


def no_neuron(model: nn.Module, doubts: Mapping[str, Doubt]) -> S2CError:
    """The refusal of a model that shows no neuron at all."""
    why = "; ".join(f"{path}: {doubt.reason}" for path, doubt in doubts.items())
    fix = (
        "put the neuron's update into a module of its own (state in self.v, or passed in and out), "
        "or snn2chip.frontend.torch.register_neuron(YourNeuron, to_lif)"
    )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        why = "the model is TorchScript, which does not show what it computes"
        fix = "give the Python model it was made of: model.load_state_dict(scripted.state_dict())"
    return S2CError(
        "no spiking neuron was found",
        where=type(model).__name__,
        why=why or "no module is a known neuron, or behaves like one",
        fix=fix,
    )
