"""Norse 1.1: LIF, LIFBox, LI, LIBox, IAF, LSNN, one step (``…Cell``) or looping over time, recurrent or not.

``norse/torch/functional/lif.py``: the current jumps by the input, moves the membrane, then decays; the state handed on
is the decayed one. ``lsnn.py``: the membrane moves by the current of the step before, so that an input arrives one step
late. Modules keep no state: they take and return it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.probe import fire_test
from snn2chip.frontend.torch.adapters.reading import array, changed, linear
from snn2chip.frontend.torch.cells import Cell, library_of
from snn2chip.neurons.alif import ALIF
from snn2chip.neurons.base import Fire, FloatNeuron, Reset
from snn2chip.neurons.lif import LIF

_GENERIC = ("SNNCell", "SNNRecurrentCell", "SNN", "SNNRecurrent")
_LOOPS = ("SNN", "SNNRecurrent")
# Encoders loop over steps in plain code, and are traced like any.
_ENCODERS = "norse.torch.module.encode"


def _rate(n: Any, inverse_tau: Any) -> torch.Tensor:
    """Δt/τ, rounded as Norse rounds it."""
    return torch.as_tensor(n.dt * inverse_tau)


def _leak(n: Any, p: Any) -> dict[str, Any]:
    """A membrane that starts where it leaks to."""
    rest = array(p.v_leak)
    return {"decay": array(_rate(n, p.tau_mem_inv)), "decay_form": "rate", "v_rest": rest, "v_start": rest}


def _lif(n: Any, p: Any, name: str) -> LIF:
    return LIF(
        v_threshold=array(p.v_th),
        **_leak(n, p),
        current_decay=array(1 - _rate(n, p.tau_syn_inv)),
        fire=_fire(p, name),
        reset="hard",
        v_reset=array(p.v_reset),
    )


def _lif_box(n: Any, p: Any, name: str) -> LIF:
    method = getattr(p.reset_method, "__name__", str(p.reset_method))
    resets: dict[str, Reset] = {"reset_value": "hard", "reset_subtract": "soft"}
    if method not in resets:
        raise S2CError(
            f"Norse's {name} with reset_method={method} cannot be represented exactly",
            fix=f"use {' or '.join(resets)}",
        )
    return LIF(
        v_threshold=array(p.v_th),
        **_leak(n, p),
        fire=_fire(p, name),
        reset=resets[method],
        v_reset=array(p.v_reset),
    )


def _iaf(n: Any, p: Any, name: str) -> LIF:
    start = array(p.v_reset)
    return LIF(array(p.v_th), np.ones(()), fire=_fire(p, name), reset="hard", v_reset=start, v_start=start)


def _li(n: Any, p: Any, name: str) -> LIF:
    return LIF(
        v_threshold=np.asarray(np.inf),
        **_leak(n, p),
        current_decay=array(1 - _rate(n, p.tau_syn_inv)) if hasattr(p, "tau_syn_inv") else None,
        reset="none",
    )


def _lif_refrac(n: Any, p: Any, name: str) -> LIF:
    if bool((array(p.rho_reset) > 0).any()):
        raise S2CError(
            f"Norse's {name} has a refractory period of {float(array(p.rho_reset).max()):g} steps",
            why="no neuron of a graph has one",
            fix=f"use {name.replace('Refrac', '')}",
        )
    return _lif(n, p.lif, name)


def _lsnn(n: Any, p: Any, name: str) -> ALIF:
    if bool((array(p.v_leak) != 0).any()):
        raise S2CError(
            f"Norse's {name} with v_leak other than zero cannot be represented exactly",
            fix="shift v_leak, v_th and v_reset so that v_leak is zero",
        )
    membrane, adaptation = _rate(n, p.tau_mem_inv), array(1 - _rate(n, p.tau_adapt_inv))
    return ALIF(
        v_threshold=array(p.v_th),
        decay=array(1 - membrane),
        gain=array(membrane),
        current_decay=array(1 - _rate(n, p.tau_syn_inv)),
        adaptation_decay=adaptation,
        # The threshold falls back before it is compared, so that a spike's share has decayed once by then.
        adaptation_strength=adaptation,
        adaptation_step=array(p.beta),
        fire=_fire(p, name),
        reset="hard",
        v_reset=array(p.v_reset),
    )


@dataclass(frozen=True)
class _Kind:
    """A neuron of Norse.

    Args:
        model: module, parameters, name → the neuron.
        states: its state tuple, flat, without the spikes that recurrent forms put first.
        input_delay: as in :class:`Cell`.
    """

    model: Callable[[Any, Any, str], FloatNeuron]
    states: tuple[str, ...]
    input_delay: int = 0


_KINDS = {
    "LIF": _Kind(_lif, ("v", "i")),
    "LIFBox": _Kind(_lif_box, ("v",)),
    "LIFRefrac": _Kind(_lif_refrac, ("v", "i", "rho")),
    "IAF": _Kind(_iaf, ("v",)),
    "LI": _Kind(_li, ("out", "i")),
    "LILinear": _Kind(_li, ("out", "i")),
    "LIBox": _Kind(_li, ("out",)),
    "LSNN": _Kind(_lsnn, ("v", "i", "b"), input_delay=1),
}


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = library_of(module, "norse")
    if (
        name is None
        or name in _GENERIC
        or library_of(module, _ENCODERS)
        or not hasattr(module, "p")
        or changed(module, "norse")
    ):
        return None
    n: Any = module
    kind = _KINDS.get(name.removesuffix("Cell").removesuffix("Recurrent"))
    if kind is None:
        raise S2CError(
            f"Norse's {name} cannot be represented exactly",
            fix=f"use {', '.join(_KINDS)} (also …Cell, …Recurrent), or register_neuron(YourNeuron, to_neuron)",
        )
    recurrent = hasattr(n, "recurrent_weights")
    states = ("out", *kind.states) if recurrent else kind.states
    return Cell(
        kind.model(n, n.p, name),
        time_axis=0 if any(c.__name__ in _LOOPS for c in type(module).__mro__) else None,
        returns=("out", *states),
        states=states,
        carries=False,
        feed=linear("input_weights", n.input_weights) if hasattr(n, "input_weights") else None,
        feedback=linear("recurrent_weights", n.recurrent_weights) if recurrent else None,
        input_delay=kind.input_delay,
    )


def _fire(p: Any, name: str) -> Fire:
    threshold = sys.modules["norse.torch.functional.threshold"].threshold
    try:
        return fire_test(lambda x: threshold(x, p.method, p.alpha), f"Norse {name}")
    except ValueError:
        raise S2CError(
            f"Norse's {name} with method={p.method!r} is not known", fix="use 'super' or another surrogate"
        ) from None


def reset(module: nn.Module) -> bool:
    """Modules of Norse keep no state."""
    return False
