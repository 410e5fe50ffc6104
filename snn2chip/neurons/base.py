"""What every neuron model provides, float and integer, and the operation counts the energy report uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.structure import Struct

State = dict[str, Any]


class Operations(NamedTuple):
    """Arithmetic of one update of one neuron."""

    multiplications: int
    additions: int


class ArrayNamespace(Protocol):
    """The part of numpy or torch a float step needs."""

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """``a`` where the condition holds, else ``b``."""

    def full_like(self, x: Any, value: float) -> Any:
        """A tensor like ``x`` filled with ``value``."""

    def const(self, value: Array, like: Any) -> Any:
        """A parameter as a tensor of ``like``'s dtype and device."""


@dataclass(frozen=True, eq=False)
class NeuronModel(Struct):
    """Base of float and integer neuron models; parameters broadcast against the population's shape."""

    kind: ClassVar[str] = "Neuron"
    states: ClassVar[tuple[str, ...]] = ("v",)
    fires: ClassVar[bool] = True

    def check(self, shape: Shape) -> None:
        """Raise unless every array parameter broadcasts against ``shape``."""
        for name, value in vars(self).items():
            if not isinstance(value, np.ndarray):
                continue
            try:
                fits = np.broadcast_shapes(value.shape, shape) == shape
            except ValueError:
                fits = False
            if not fits:
                raise S2CError(
                    f"{name} has shape {value.shape}, which does not fit {shape} neurons",
                    fix="give one value, one per channel as (C, 1, 1), or one per neuron",
                )

    def describe(self) -> str:
        """One line for people."""
        return ""


class FloatNeuron(NeuronModel):
    """A neuron as it was trained."""

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """The state before the first step, for input like ``x``."""
        raise NotImplementedError

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One time step: (new state, output). ``state["v"]`` is what the framework reports as the membrane."""
        raise NotImplementedError

    def operations(self) -> Operations:
        """Multiplications and additions of one update."""
        raise NotImplementedError


class IntegerNeuron(NeuronModel):
    """A neuron as the chip computes it; int64 in, int64 out."""

    def start(self, shape: Shape) -> State:
        """The state before the first step, for a batch of this shape."""
        raise NotImplementedError

    def step(self, state: State, a: Array, arithmetic: Arithmetic) -> tuple[State, Array]:
        """One time step: (new state, output)."""
        raise NotImplementedError

    def operations(self) -> Operations:
        """Multiplications and additions of one update."""
        raise NotImplementedError


def values(x: Any) -> str:
    """A parameter for print: one number, or its range."""
    a = np.asarray(x)
    if a.size and (a == a.flat[0]).all():
        return f"{a.flat[0]:.6g}"
    return f"{a.min():.4g}…{a.max():.4g}"


Fire = Literal[">", ">="]
Reset = Literal["hard", "soft", "none"]
ResetTiming = Literal["same", "gate", "next"]
