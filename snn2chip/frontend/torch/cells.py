"""Neuron modules: what the tracer must know of one, and where that knowledge comes from.

In order: what the user registered, the adapters of the libraries (recognised by class name, so that no library is
imported),
then identification by probing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from torch import nn

from snn2chip.errors import UsageError
from snn2chip.ir.graph import Port
from snn2chip.neurons.lif import LIF


@dataclass(frozen=True)
class Cell:
    """A neuron module as the tracer sees it.

    Args:
        model: the neuron, exact.
        time_axis: axis of the module's input that is time, for a module that loops over it; None for one called at
        every step.
        returns: what each returned tensor is; None for one no other layer may read.
        states: what each further argument is, by position after the input and by keyword.
        attributes: which of the module's attributes hold a state after the call.
        carries: whether state is kept from one call to the next (a loop that starts anew at each call does not).
        delay: steps by which the spikes leave late.
    """

    model: LIF
    time_axis: int | None = None
    returns: tuple[Port | None, ...] = ("out", "v")
    states: tuple[Port, ...] = ("v",)
    keywords: Mapping[str, Port] = field(default_factory=dict)
    attributes: Mapping[str, Port] = field(default_factory=dict)
    carries: bool = True
    delay: int = 0


class Adapter(Protocol):
    """One library: a module with these functions in ``adapters/``."""

    def cell(self, module: nn.Module) -> Cell | None:
        """The neuron a module is; None for modules that are no neurons.

        Raises:
            S2CError: it is a neuron of this library that a graph cannot hold exactly; the message names the feature.
        """

    def reset(self, module: nn.Module) -> bool:
        """Clear the state of a module of this library; False for other modules."""


ToLIF = Callable[[Any], LIF | Cell]
_registered: dict[type[nn.Module], ToLIF] = {}


@overload
def register_neuron(cls: type[nn.Module], to_lif: ToLIF) -> type[nn.Module]: ...
@overload
def register_neuron(cls: ToLIF) -> Callable[[type[nn.Module]], type[nn.Module]]: ...
def register_neuron(cls: Any, to_lif: ToLIF | None = None) -> Any:
    """Tell the tracer what neuron a module class of yours is: as a call, or as ``@register_neuron(to_lif)``.

    Args:
        cls: the class; subclasses count.
        to_lif: module → ``snn2chip.neurons.lif.LIF`` (or a :class:`Cell`, where the module loops over time itself or
            its states have other names). The tracer still compares the traced network with the model.

    Returns:
        The class.
    """
    if to_lif is None:
        return lambda decorated: register_neuron(decorated, cls)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise UsageError(f"{cls!r} is no torch module class", fix="register_neuron(YourNeuronClass, to_lif)")
    _registered[cls] = to_lif
    return cls


def registered(module: nn.Module) -> Cell | None:
    """The cell of a registered class."""
    for cls in type(module).__mro__:
        if cls in _registered:
            made = _registered[cls](module)
            return Cell(made, attributes={"v": "v", "mem": "v"}) if isinstance(made, LIF) else made
    return None


def library_of(module: nn.Module, package: str) -> str | None:
    """Name of the class of ``package`` that a module is an instance of, without importing the package."""
    for cls in type(module).__mro__:
        if cls.__module__.split(".")[0] == package:
            return cls.__name__
    return None
