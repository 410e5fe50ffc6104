"""snn2chip's own zoo: every neuron module says which model it is."""

from __future__ import annotations

from torch import nn

from snn2chip.frontend.torch.cells import Cell

_BASE = "SpikingNeuron"


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`; a subclass that computes anything else is not known."""
    if not _is_neuron(module) or _overridden(type(module)):
        return None
    return Cell(module.neuron(), returns=("out",), states=(), attributes={"v": "v"})  # type: ignore[operator]


def reset(module: nn.Module) -> bool:
    """As ``snn2chip.zoo.reset`` does, for this module."""
    if not _is_neuron(module):
        return False
    module.reset()  # type: ignore[operator]
    return True


def _is_neuron(module: nn.Module) -> bool:
    return any(c.__name__ == _BASE and c.__module__.startswith("snn2chip.zoo") for c in type(module).__mro__)


def _overridden(cls: type) -> bool:
    own = [c for c in cls.__mro__ if c.__module__.split(".")[0] not in ("snn2chip", "torch", "builtins")]
    return any(callable(v) and k not in ("__init__", "extra_repr") for c in own for k, v in vars(c).items())
