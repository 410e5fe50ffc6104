"""snnTorch 1.0: Leaky, Lapicque and Synaptic.

``snntorch/_neurons/leaky.py``: the membrane fires where it is strictly above the threshold; "subtract" and "none" act
on the
sum of the next step, "zero" on the stored membrane before the next step's decay (Leaky) or on the sum (the others).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.probe import fire_test
from snn2chip.frontend.torch.cells import Cell, library_of
from snn2chip.ir.layers import Array
from snn2chip.neurons.base import ResetTiming
from snn2chip.neurons.lif import LIF

_BASE = "SpikingNeuron"
_KNOWN = ("Leaky", "Lapicque", "Synaptic")


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = library_of(module, "snntorch")
    if name is None or not any(cls.__name__ == _BASE for cls in type(module).__mro__):
        return None
    n: Any = module
    _refuse_features(n, name)
    mechanism = ("subtract", "zero", "none")[int(n.reset_mechanism_val)]
    zero: ResetTiming = "gate" if name == "Leaky" else "next"
    decay, gain = _lapicque(n) if name == "Lapicque" else (_array(n.beta.clamp(0, 1)), np.ones(()))
    model = LIF(
        v_threshold=_array(n.threshold),
        decay=decay,
        gain=gain,
        current_decay=_array(n.alpha.clamp(0, 1)) if name == "Synaptic" else None,
        fire=fire_test(n.spike_grad, f"snntorch {name}"),
        reset={"subtract": "soft", "zero": "hard", "none": "none"}[mechanism],  # type: ignore[arg-type]
        reset_timing=zero if mechanism == "zero" else "next",
        spike_value=float(n.graded_spikes_factor),
    )
    states = ("u", "v") if name == "Synaptic" else ("v",)
    names = {"syn": "u", "mem": "v"} if name == "Synaptic" else {"mem": "v"}
    return Cell(model, returns=("out", *states), states=states, keywords=names, attributes=names)  # type: ignore[arg-type]


def reset(module: nn.Module) -> bool:
    """As ``snntorch.utils.reset`` does, for this module only."""
    if not any(cls.__name__ == _BASE for cls in type(module).__mro__) or library_of(module, "snntorch") is None:
        return False
    method = getattr(module, "reset_mem", None)
    if callable(method):
        method()
    return True


def _refuse_features(n: Any, name: str) -> None:
    graded = getattr(n, "graded_spikes_factor", None)
    found = {
        "inhibition=True": bool(getattr(n, "inhibition", False)),
        "state_quant": bool(getattr(n, "state_quant", False)),
        "reset_delay=False": not getattr(n, "reset_delay", True),
        "graded_spikes_factor per neuron": graded is not None and graded.numel() > 1,
        f"the neuron {name}": name not in _KNOWN,
        f"the changed methods of {type(n).__name__}": _overrides(type(n)),
    }
    wrong = [feature for feature, present in found.items() if present]
    if wrong:
        raise S2CError(
            f"snnTorch's {' and '.join(wrong)} cannot be represented exactly",
            fix=f"use {', '.join(_KNOWN)} with reset_delay=True and without inhibition or state_quant, "
            "or register_neuron(YourNeuron, to_lif)",
        )


def _overrides(cls: type) -> bool:
    """Whether a user's subclass changes what the library's class computes."""
    own = [c for c in cls.__mro__ if c.__module__.split(".")[0] not in ("snntorch", "torch", "builtins")]
    return any(callable(v) and k not in ("__init__", "extra_repr") for c in own for k, v in vars(c).items())


def _lapicque(n: Any) -> tuple[Array, Array]:
    """``I·R·(1/(R·C))·Δt + (1 − Δt/(R·C))·U``."""
    rc = n.R * n.C
    return _array(1 - n.time_step / rc), _array(n.R * (1 / rc) * n.time_step)


def _array(value: torch.Tensor) -> Array:
    """A parameter without its batch axis of one."""
    array = torch.as_tensor(value).detach().cpu().double().numpy()
    return array[0] if array.ndim > 1 and array.shape[0] == 1 else array
