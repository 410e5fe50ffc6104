"""SpikingJelly 2.0 and 0.0.0.0.14: IF, LIF, PLIF, QIF, CUBA-LIF and the Simple forms, step modes "s" and "m".

``spikingjelly/_ops/lif/reference.py``, ``activation_based/neuron.py``: charge, fire where h − θ is at or above zero,
reset in the same step. ``clock_driven/neuron.py``, as much published code has it, is the same with a class of its own,
``MultiStep…``, for every step mode "m".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.probe import fire_test
from snn2chip.frontend.torch.adapters.reading import changed
from snn2chip.frontend.torch.cells import Cell, library_of
from snn2chip.neurons.base import FloatNeuron
from snn2chip.neurons.lif import LIF, DecayForm
from snn2chip.neurons.qif import QIF

# Neurons of these packages are the library's; its examples and models define neurons of their own, as users do.
_NEURONS = ("spikingjelly.activation_based.neuron", "spikingjelly.clock_driven.neuron")
_LAYERS = ("spikingjelly.activation_based.layer", "spikingjelly.clock_driven.layer")
_MULTI_STEP = "MultiStep"
# Not neurons by their name, but by what they are given: what they compute is found by probing.
_GENERIC = ("BaseNode", "SimpleBaseNode", "FlexSN", "NonSpikingBaseNode", "NonSpikingIFNode", "NonSpikingLIFNode")


def _leaky(form: DecayForm, value: float, fires: dict[str, Any]) -> LIF:
    """The membrane leaks to where it is reset."""
    return LIF(decay=np.asarray(value), decay_form=form, v_rest=fires["v_reset"], **fires)


def _integrate(n: Any, fires: dict[str, Any]) -> LIF:
    return LIF(decay=np.ones(()), **fires)


def _lif(n: Any, fires: dict[str, Any]) -> LIF:
    return _leaky("tau" if n.decay_input else "tau_undriven", n.tau, fires)


def _simple_lif(n: Any, fires: dict[str, Any]) -> LIF:
    return _leaky("tau_sum" if n.decay_input else "tau_undriven", n.tau, fires)


def _plif(n: Any, fires: dict[str, Any]) -> LIF:
    return _leaky("rate" if n.decay_input else "subtract", float(n.w.detach().sigmoid()), fires)


def _cuba_lif(n: Any, fires: dict[str, Any]) -> LIF:
    return LIF(decay=np.asarray(n.v_decay), current_decay=np.asarray(n.c_decay), **fires)


def _qif(n: Any, fires: dict[str, Any]) -> QIF:
    """``v + (x + a₀(v − v_rest)(v − v_c))/τ``: S003 Eq. 22, the input divided too."""
    return QIF(
        a=np.asarray(n.a0 / n.tau),
        v_rest=np.asarray(n.v_rest),
        v_critical=np.asarray(n.v_c),
        carries=True,
        gain=np.asarray(1 / n.tau),
        **fires,
    )


_MODELS: dict[str, Callable[[Any, dict[str, Any]], FloatNeuron]] = {
    "IFNode": _integrate,
    "SimpleIFNode": _integrate,
    "HalfThresholdIFNode": _integrate,
    "LIFNode": _lif,
    # How these two are trained differs, not what they compute.
    "OTTTLIFNode": _lif,
    "SLTTLIFNode": _lif,
    "SimpleLIFNode": _simple_lif,
    "ParametricLIFNode": _plif,
    "CUBALIFNode": _cuba_lif,
    "QIFNode": _qif,
}


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    if library_of(module, *_LAYERS) == "SynapseFilter":
        raise S2CError(
            "SpikingJelly's SynapseFilter cannot be represented exactly",
            why="its current I + S - (1 - S)·I/tau does not decay where a spike S comes: no weighted sum",
            fix="train with CUBALIFNode, whose current decays at every step, in place of filter and neuron",
        )
    name = library_of(module, *_NEURONS)
    if name is None or name in _GENERIC or changed(module, *_NEURONS):
        return None
    n: Any = module
    single = name.removeprefix(_MULTI_STEP)
    if single not in _MODELS:
        raise S2CError(
            f"SpikingJelly's {name} cannot be represented exactly",
            fix=f"use one of {', '.join(_MODELS)}, or register_neuron(YourNeuron, to_lif)",
        )
    if getattr(n, "_neuron_precision", None) is not None:
        raise S2CError(f"SpikingJelly's {name} computes in reduced precision", fix="trace it in float32")
    fires = {
        "v_threshold": np.asarray(n.v_threshold),
        "fire": fire_test(n.surrogate_function, f"SpikingJelly {name}"),
        "reset": "soft" if n.v_reset is None else "hard",
        "v_reset": np.asarray(0.0 if n.v_reset is None else float(n.v_reset)),
        "v_start": np.asarray(n._memories_rv["v"]),
    }
    return Cell(
        _MODELS[single](n, fires),
        time_axis=0 if single != name or getattr(n, "step_mode", "s") == "m" else None,
        returns=("out",),
        states=(),
        attributes={"v": "v", "v_seq": "v"},
    )


def reset(module: nn.Module) -> bool:
    """As ``functional.reset_net`` does: every memory module."""
    if library_of(module, "spikingjelly") is None or not any(
        c.__name__ == "MemoryModule" for c in type(module).__mro__
    ):
        return False
    module.reset()  # type: ignore[operator]
    return True
