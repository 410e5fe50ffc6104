"""SpikingJelly 2.0: IFNode, LIFNode, ParametricLIFNode and their Simple forms, step modes "s" and "m".

``spikingjelly/_ops/lif/reference.py``: charge, fire where h − θ is at or above zero, reset in the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.probe import fire_test
from snn2chip.frontend.torch.cells import Cell, library_of
from snn2chip.neurons.lif import LIF, DecayForm

_BASES = ("BaseNode", "SimpleBaseNode")


def _lif(n: Any) -> tuple[DecayForm, float]:
    return ("tau" if n.decay_input else "tau_undriven"), n.tau


def _simple_lif(n: Any) -> tuple[DecayForm, float]:
    return ("tau_sum" if n.decay_input else "tau_undriven"), n.tau


def _plif(n: Any) -> tuple[DecayForm, float]:
    return ("rate" if n.decay_input else "subtract"), float(n.w.detach().sigmoid())


_DECAYS: dict[str, Callable[[Any], tuple[DecayForm, float]]] = {
    "IFNode": lambda n: ("factor", 1.0),
    "SimpleIFNode": lambda n: ("factor", 1.0),
    "HalfThresholdIFNode": lambda n: ("factor", 1.0),
    "LIFNode": _lif,
    "SimpleLIFNode": _simple_lif,
    "ParametricLIFNode": _plif,
}


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = library_of(module, "spikingjelly")
    if name is None or not any(cls.__name__ in _BASES for cls in type(module).__mro__):
        return None
    n: Any = module
    own = [c for c in type(module).__mro__ if c.__module__.split(".")[0] not in ("spikingjelly", "torch", "builtins")]
    if any(callable(v) and k not in ("__init__", "extra_repr") for c in own for k, v in vars(c).items()):
        return None
    if name not in _DECAYS:
        raise S2CError(
            f"SpikingJelly's {name} cannot be represented exactly",
            fix=f"use one of {', '.join(_DECAYS)}, or register_neuron(YourNeuron, to_lif)",
        )
    if getattr(n, "_neuron_precision", None) is not None:
        raise S2CError(f"SpikingJelly's {name} computes in reduced precision", fix="trace it in float32")
    form, decay = _DECAYS[name](n)
    rest = 0.0 if n.v_reset is None else float(n.v_reset)
    model = LIF(
        v_threshold=np.asarray(n.v_threshold),
        decay=np.asarray(decay),
        decay_form=form,
        v_rest=np.asarray(0.0 if form == "factor" else rest),
        fire=fire_test(n.surrogate_function, f"SpikingJelly {name}"),
        reset="soft" if n.v_reset is None else "hard",
        v_reset=np.asarray(rest),
        v_start=np.asarray(n._memories_rv["v"]),
    )
    return Cell(
        model,
        time_axis=0 if n.step_mode == "m" else None,
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
