"""Neuron modules: what the tracer must know of one, and where that knowledge comes from.

In order: what the user registered, the adapters of the libraries (recognised by class name, so that no library is
imported), then identification by probing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from torch import Tensor, nn

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.layers import Layer, Shape
from snn2chip.neurons.base import FloatNeuron


@dataclass(frozen=True)
class Synapse:
    """A layer inside a neuron module.

    Args:
        name: what its node is called, behind the module's path.
        layer: the layer for an input of this shape.
        axes: how many of its input's last axes it works on; None: all but the batch.
    """

    name: str
    layer: Callable[[Shape], Layer]
    axes: int | None = 1


@dataclass(frozen=True)
class Cell:
    """A neuron module as the tracer sees it.

    A state is named "out", "v" or "u" like the port of a graph's neuron that it is. Any other name is a state of the
    module's own, which the model may hand back to it but not read.

    Args:
        model: the neuron, exact.
        time_axis: axis of the module's input that is time, for a module that loops over it; None for one called at
            every step.
        returns: what each returned tensor is; None for one no other layer may read.
        states: what each further argument is, by position after the input and by keyword.
        attributes: which of the module's attributes hold a state after the call.
        carries: whether the module itself keeps its state from one call to the next.
        delay: steps by which the spikes leave late.
        folded: samples and steps that the first axis of the module's input holds as one, -1 for what follows from its
            size; ``time_axis`` is then 1.
        feed: what the input goes through inside the module, before the neuron.
        feedback: what the spikes go through on their way back into the neuron, one step later.
        input_delay: steps by which the input reaches the membrane late.
    """

    model: FloatNeuron
    time_axis: int | None = None
    returns: tuple[str | None, ...] = ("out", "v")
    states: tuple[str, ...] = ("v",)
    keywords: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    carries: bool = True
    delay: int = 0
    folded: tuple[int, int] | None = None
    feed: Synapse | None = None
    feedback: Synapse | None = None
    input_delay: int = 0

    def unfolded(self, x: Tensor) -> Tensor:
        """An input of the module, or its ids, with batch and time as axes of their own."""
        return x if self.folded is None else x.reshape(*self.folded, *x.shape[1:])


class Adapter(Protocol):
    """One library: a module with these functions in ``adapters/``."""

    def cell(self, module: nn.Module) -> Cell | None:
        """The neuron a module is; None for modules that are no neurons.

        Raises:
            S2CError: it is a neuron of this library that a graph cannot hold exactly; the message names the feature.
        """

    def reset(self, module: nn.Module) -> bool:
        """Clear the state of a module of this library; False for other modules."""


ToNeuron = Callable[[Any], FloatNeuron | Cell]
_registered: dict[type[nn.Module], ToNeuron] = {}


@overload
def register_neuron(cls: type[nn.Module], to_lif: ToNeuron) -> type[nn.Module]: ...
@overload
def register_neuron(cls: ToNeuron) -> Callable[[type[nn.Module]], type[nn.Module]]: ...
def register_neuron(cls: Any, to_lif: ToNeuron | None = None) -> Any:
    """Tell the tracer what neuron a module class of yours is: as a call, or as ``@register_neuron(to_lif)``.

    Args:
        cls: the class; subclasses count.
        to_lif: module → a model of ``snn2chip.neurons``, such as ``LIF`` (or a :class:`Cell`, where the module loops
            over time itself or its states have other names). The tracer still compares the traced network with the
            model.

    Returns:
        The class.
    """
    if to_lif is None:
        return lambda decorated: register_neuron(decorated, cls)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise UsageError(f"{cls!r} is no torch module class", fix="register_neuron(YourNeuronClass, to_lif)")
    if not callable(to_lif):
        raise UsageError(f"a {type(to_lif).__name__} is no function", fix=_TO_LIF)
    _registered[cls] = to_lif
    return cls


_TO_LIF = "give a function of the module that returns a model of snn2chip.neurons: lambda m: LIF(m.threshold, m.decay)"


def registered(module: nn.Module, path: str) -> Cell | None:
    """The cell of a registered class.

    Raises:
        S2CError: what was registered fails for this module, or returns something else.
    """
    cls = next((cls for cls in type(module).__mro__ if cls in _registered), None)
    if cls is None:
        return None
    try:
        made: Any = _registered[cls](module)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    else:
        if isinstance(made, FloatNeuron):
            return Cell(made, attributes={"v": "v", "mem": "v"})
        if isinstance(made, Cell):
            return made
        why = f"it returns a {type(made).__name__}"
    raise S2CError(f"what is registered for {cls.__name__} gives no neuron", where=path, why=why, fix=_TO_LIF)


def library_class(module: nn.Module, *packages: str) -> type | None:
    """The class of one of ``packages`` that a module is an instance of, found without importing the package."""
    for cls in type(module).__mro__:
        if any(f"{cls.__module__}.".startswith(f"{package}.") for package in packages):
            return cls
    return None


def library_of(module: nn.Module, *packages: str) -> str | None:
    """Name of :func:`library_class`."""
    found = library_class(module, *packages)
    return None if found is None else found.__name__
