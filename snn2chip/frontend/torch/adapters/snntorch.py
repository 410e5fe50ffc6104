"""snnTorch 1.0: Leaky, Lapicque, Synaptic, and RLeaky and RSynaptic with every kind of recurrence.

``snntorch/_neurons/leaky.py``: the membrane fires where it is strictly above the threshold; "subtract" and "none" act
on the sum of the next step, "zero" on the stored membrane before the next step's decay (Leaky) or on the sum (the
others). ``rleaky.py``, ``rsynaptic.py``: the last spikes come back through ``recurrent``, beside the input.

``reset_delay=False`` takes the reset back out of the next step and puts it behind the spike. For "zero" that is a reset
in the same step. For "subtract" it is not: where the membrane stays above the threshold the next step fires from a
lower one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.probe import fire_test
from snn2chip.frontend.torch.adapters.reading import array, changed, inside, one_to_one
from snn2chip.frontend.torch.cells import Cell, Synapse, library_of
from snn2chip.ir.layers import Array
from snn2chip.neurons.base import ResetTiming
from snn2chip.neurons.lif import LIF

_BASE = "SpikingNeuron"
# neuron → its states in the order it takes and returns them, by snnTorch's name and the graph's.
_KNOWN = {
    "Leaky": {"mem": "v"},
    "Lapicque": {"mem": "v"},
    "Synaptic": {"syn": "u", "mem": "v"},
    "RLeaky": {"spk": "out", "mem": "v"},
    "RSynaptic": {"spk": "out", "syn": "u", "mem": "v"},
}
# Layers that compute all steps at once.
_PARALLEL = ("LeakyParallel", "StateLeaky", "AssociativeLeaky")
_WHY = {
    "inhibition=True": "only the neuron with the highest membrane fires, and neurons do not see each other",
    "state_quant": "the membrane is rounded at every step",
    "reset_delay=False with reset_mechanism='subtract'": "a membrane that stays above the threshold is reset otherwise "
    "than one that comes from below",
}


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = library_of(module, "snntorch")
    if name in _PARALLEL:
        raise _unknown([name], "it computes all steps at once, without reset")
    if name is None or not any(cls.__name__ == _BASE for cls in type(module).__mro__):
        return None
    n: Any = module
    mechanism = ("subtract", "zero", "none")[int(n.reset_mechanism_val)]
    _refuse_features(n, name, mechanism)
    decay, gain = _lapicque(n) if name == "Lapicque" else (array(n.beta.clamp(0, 1)), np.ones(()))
    model = LIF(
        v_threshold=array(n.threshold),
        decay=decay,
        gain=gain,
        current_decay=array(n.alpha.clamp(0, 1)) if "Synaptic" in name else None,
        fire=fire_test(n.spike_grad, f"snntorch {name}"),
        reset={"subtract": "soft", "zero": "hard", "none": "none"}[mechanism],  # type: ignore[arg-type]
        reset_timing=_timing(n, name, mechanism),
        spike_value=float(n.graded_spikes_factor),
    )
    states = _KNOWN[name]
    order = tuple(states.values())
    returns = order if "out" in order else ("out", *order)
    return Cell(model, returns=returns, states=order, keywords=states, attributes=states, feedback=_recurrence(n, name))


def _timing(n: Any, name: str, mechanism: str) -> ResetTiming:
    if mechanism == "none" or not getattr(n, "reset_delay", True):
        return "same"
    return "gate" if name == "Leaky" and mechanism == "zero" else "next"


def _recurrence(n: Any, name: str) -> Synapse | None:
    if not name.startswith("R"):
        return None
    if n.all_to_all:
        return inside("recurrent", n.recurrent, f"snntorch {name}")
    return one_to_one("recurrent", n.recurrent.V)


def reset(module: nn.Module) -> bool:
    """As ``snntorch.utils.reset`` does, for this module only."""
    if not any(cls.__name__ == _BASE for cls in type(module).__mro__) or library_of(module, "snntorch") is None:
        return False
    method = getattr(module, "reset_mem", None)
    if callable(method):
        method()
    return True


def _refuse_features(n: Any, name: str, mechanism: str) -> None:
    graded = getattr(n, "graded_spikes_factor", None)
    late = getattr(n, "reset_delay", True)
    positive = bool((array(n.threshold) > 0).all())
    found = {
        "inhibition=True": bool(getattr(n, "inhibition", False)),
        "state_quant": bool(getattr(n, "state_quant", False)),
        "reset_delay=False with reset_mechanism='subtract'": not late and mechanism == "subtract",
        "reset_delay=False with a threshold that is not positive": not late and mechanism == "zero" and not positive,
        # It then computes a reset that it does not keep.
        "reset_delay=False in RSynaptic": not late and name == "RSynaptic",
        "graded_spikes_factor per neuron": graded is not None and graded.numel() > 1,
        name: name not in _KNOWN,
        f"the changed methods of {type(n).__name__}": changed(n, "snntorch"),
    }
    wrong = [feature for feature, present in found.items() if present]
    if wrong:
        raise _unknown(wrong, "; ".join(_WHY[feature] for feature in wrong if feature in _WHY))


def _unknown(features: list[str], why: str) -> S2CError:
    return S2CError(
        f"snnTorch's {' and '.join(features)} cannot be represented exactly",
        why=why,
        fix=f"use {', '.join(_KNOWN)} with reset_delay=True (or 'zero') and without inhibition or state_quant, "
        "or register_neuron(YourNeuron, to_lif)",
    )


def _lapicque(n: Any) -> tuple[Array, Array]:
    """``I·R·(1/(R·C))·Δt + (1 − Δt/(R·C))·U``."""
    rc = n.R * n.C
    return array(1 - n.time_step / rc), array(n.R * (1 / rc) * n.time_step)
