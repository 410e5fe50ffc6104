"""Sinabs 3.1: IAF, LIF, ALIF, ExpLeak, their Recurrent and Squeeze forms, one spike per step.

``sinabs/layers/functional/lif.py``: ``i = α_s(i + x)``, ``v = α_m·v + (1 − α_m)·i`` (without the factor unless
``norm_input``), a spike at or above the threshold, reset in the same step. ``alif.py``: the factor is applied to the
stored current itself; a spike adds ``1 − α_a`` to the adaptation ``b``, the threshold is ``b0 + adapt_scale·b``.
Recurrent forms: the recurrent layer is not asked before the first step, so that its bias is missing there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.reading import array, changed, inside
from snn2chip.frontend.torch.cells import Cell, Synapse, library_of
from snn2chip.ir.layers import Array
from snn2chip.neurons.alif import ALIF
from snn2chip.neurons.base import FloatNeuron
from snn2chip.neurons.lif import LIF

_BASE = "StatefulLayer"
_KNOWN = ("IAF", "LIF", "ALIF", "ExpLeak")
_FORMS = ("", "Recurrent", "Squeeze")


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = library_of(module, "sinabs")
    if name is None or not any(cls.__name__ == _BASE for cls in type(module).__mro__):
        return None
    n: Any = module
    kind = next((k for k in _KNOWN for form in _FORMS if name == k + form), None)
    _refuse_features(n, name, kind)
    model = _alif(n) if kind == "ALIF" else _lif(n)
    return Cell(
        model,
        time_axis=1,
        returns=("out",),
        states=(),
        attributes={"v_mem": "v"},
        folded=(n.batch_size, n.num_timesteps) if name.endswith("Squeeze") else None,
        feedback=_recurrence(n, name),
    )


def _lif(n: Any) -> FloatNeuron:
    """IAF, LIF and ExpLeak."""
    synaptic, gain = _current(n)
    return LIF(
        v_threshold=np.asarray(np.inf) if n.spike_fn is None else array(n.spike_threshold),
        decay=array(n.alpha_mem_calculated),
        gain=gain * _norm(n),
        current_decay=synaptic,
        fire=">=",
        reset="none" if n.spike_fn is None else "soft" if _subtracts(n) else "hard",
    )


def _alif(n: Any) -> FloatNeuron:
    synaptic, gain = _current(n)
    norm, adaptation = _norm(n), array(n.alpha_adapt_calculated)
    return ALIF(
        v_threshold=array(n.b0),
        decay=array(n.alpha_mem_calculated),
        adaptation_decay=adaptation,
        adaptation_strength=array(n.adapt_scale),
        adaptation_step=1 - adaptation,
        gain=gain * norm,
        current_decay=None if synaptic is None else synaptic * norm,
        fire=">=",
        reset="adaptive" if _subtracts(n) else "hard",
    )


def _current(n: Any) -> tuple[Array | None, Array]:
    """Decay of the synaptic current, and what is left of an input in the step it arrives: it decays at once."""
    alpha = n.alpha_syn_calculated
    return (None, np.ones(())) if alpha is None else (array(alpha), array(alpha))


def _norm(n: Any) -> Array:
    return array(1 - n.alpha_mem_calculated) if n.norm_input else np.ones(())


def _subtracts(n: Any) -> bool:
    return type(n.reset_fn).__name__ == "MembraneSubtract"


def _recurrence(n: Any, name: str) -> Synapse | None:
    return inside("rec_connect", n.rec_connect, f"Sinabs {name}") if name.endswith("Recurrent") else None


def _refuse_features(n: Any, name: str, kind: str | None) -> None:
    theta = getattr(n, "b0", n.spike_threshold) if kind is not None else None
    bias = getattr(getattr(n, "rec_connect", None), "bias", None)
    found = {
        name: kind is None,
        f"the changed methods of {type(n).__name__}": changed(n, "sinabs"),
        **(_features(n, theta) if kind is not None else {}),
        "a bias of rec_connect": bias is not None and bool((bias != 0).any()),
    }
    wrong = [feature for feature, present in found.items() if present]
    if wrong:
        raise S2CError(
            f"Sinabs's {' and '.join(wrong)} cannot be represented exactly",
            fix=f"use {', '.join(_KNOWN)} with spike_fn=SingleSpike, min_v_mem=None and MembraneSubtract() or "
            "MembraneReset(), or register_neuron(YourNeuron, to_neuron)",
        )


def _features(n: Any, theta: Any) -> dict[str, bool]:
    spikes = getattr(n.spike_fn, "__name__", type(n.spike_fn).__name__)
    single = n.spike_fn is None or spikes == "SingleSpike" or getattr(n.spike_fn, "max_num_spikes_per_bin", 0) == 1
    reset = type(n.reset_fn).__name__
    fires = n.spike_fn is not None
    subtracted = getattr(n.reset_fn, "subtract_value", None)
    return {
        f"spike_fn={spikes} (several spikes in a step)": fires and not single,
        f"reset_fn={reset}": fires and reset not in ("MembraneSubtract", "MembraneReset"),
        # Sinabs adds the value at every step, with a spike or without.
        "MembraneReset to a value other than zero": bool(getattr(n.reset_fn, "reset_value", 0.0)),
        "MembraneSubtract of a value other than the threshold": subtracted is not None
        and bool((array(theta) != subtracted).any()),
        "min_v_mem": n.min_v_mem is not None,
    }


def reset(module: nn.Module) -> bool:
    """As ``sinabs.reset_states`` does, for this module only."""
    if library_of(module, "sinabs") is None or not any(c.__name__ == _BASE for c in type(module).__mro__):
        return False
    module.reset_states()  # type: ignore[operator]
    return True
