"""What NIR cannot say about a network: options of the reader, and the questions for those that are missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.nir.fields import Fields
from snn2chip.frontend.options import check_dt, check_time_steps, one_of
from snn2chip.ir.graph import Coding
from snn2chip.ir.layers import Array
from snn2chip.neurons.base import Fire, ResetTiming

ResetKind = Literal["zero", "v_reset", "subtract", "none"]
Integration = Literal["euler", "exponential", "rockpool"]
IntegratorGain = Literal["r*dt", "r"]
InputGain = Literal["equation", "impulse"]
Start = Literal["zero", "v_reset", "v_leak"]
ReadoutKind = Literal["sum", "mean", "last", "max", "none"]

# Time constants are often float32 numbers divided by each other: gains and delays within this of a whole number are it.
ROUNDING = 1e-6

# What the options can be; None: not said. Those of populations may also be given by node name.
_OF_POPULATIONS: dict[str, tuple[Any, ...]] = {
    "reset": (None, *get_args(ResetKind)),
    "reset_timing": get_args(ResetTiming),
    "fire": get_args(Fire),
    "integrator_gain": (None, *get_args(IntegratorGain)),
    "input_gain": get_args(InputGain),
    "start": (None, *get_args(Start)),
}
_OF_THE_NETWORK: dict[str, tuple[Any, ...]] = {
    "integration": get_args(Integration),
    "readout": get_args(ReadoutKind),
    "coding": get_args(Coding),
}
# For populations that a dict leaves out.
_DEFAULTS = {"reset_timing": "same", "fire": ">", "input_gain": "equation"}


def check_choices(given: Mapping[str, Any]) -> None:
    """Raise UsageError unless every option of the reader has a value it can have."""
    for name, allowed in _OF_THE_NETWORK.items():
        one_of(name, given[name], allowed)
    for name, allowed in _OF_POPULATIONS.items():
        for value in given[name].values() if isinstance(given[name], Mapping) else [given[name]]:
            one_of(name, value, allowed)
    check_dt(given["dt"])
    check_time_steps(given["time_steps"], given["coding"])


@dataclass(frozen=True)
class Choices:
    """What the user said about everything NIR does not say.

    Args:
        noted_dt: the time step the file's metadata note, which NIR gives no meaning to.
        of_populations: option → its value, or values by node name.
    """

    dt: float | None
    noted_dt: float | None
    integration: Integration
    of_populations: Mapping[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any], noted_dt: float | None) -> Choices:
        """The arguments of the reader."""
        return cls(given["dt"], noted_dt, given["integration"], {name: given[name] for name in _OF_POPULATIONS})

    def check_names(self, populations: Collection[str]) -> None:
        """Raise UsageError where an option names something else than ``populations``."""
        for option, value in self.of_populations.items():
            for name in value if isinstance(value, Mapping) else ():
                if name not in populations:
                    raise UsageError(
                        f"{option} names {name!r}, which is no population",
                        fix=f"populations: {', '.join(populations) or 'none'}",
                    )

    def __call__(self, option: str, population: str) -> Any:
        """The value of an option for one population."""
        value = self.of_populations[option]
        return value.get(population, _DEFAULTS.get(option)) if isinstance(value, Mapping) else value

    def step(self, node: Fields) -> float:
        """The time step, or the question for it."""
        if self.dt is None:
            raise UsageError(
                "the length of a time step is missing",
                where=node.where,
                why="NIR describes a network in continuous time; no file says in which steps it was trained",
                fix="give dt in seconds, as used in training, e.g. dt=1e-4 (--dt 1e-4)"
                + ("" if self.noted_dt is None else f"; the file's metadata note {self.noted_dt:g}"),
            )
        return self.dt

    def decay(self, tau: Array, node: Fields, field: str) -> Array:
        """The share of a state that is lost in one step."""
        dt = self.step(node)
        if (tau <= 0).any():
            raise S2CError(
                f"{field} is {tau.min():.6g}",
                where=node.where,
                why="a time constant is positive",
                fix="export time constants above 0, in seconds",
            )
        if self.integration != "euler":
            return -np.expm1(-dt / tau)
        lost = dt / tau
        if (lost > 1 + ROUNDING).any():
            raise UsageError(
                f"dt = {dt:.6g} s is longer than {field} = {tau.min():.6g} s",
                where=node.where,
                why="with forward Euler the state would change its sign in every step",
                fix='give the dt the network was trained with, or integration="exponential"',
            )
        return np.minimum(lost, 1.0)

    def reset_of(self, node: Fields, v_reset: Array) -> ResetKind:
        """The kind of reset of one population, or the question for it."""
        kind: ResetKind | None = self("reset", node.name)
        stated = bool(v_reset.any())
        if kind is None and stated:
            return "v_reset"
        if kind is None:
            raise UsageError(
                "the kind of reset is missing",
                where=node.where,
                why="NIR has no word for it: exporters write v_reset = 0 for a reset by subtraction too",
                fix='give reset="zero", "subtract" or "none", as trained, or a dict by node name (--reset NAME=zero)',
            )
        if stated and kind != "v_reset":
            raise UsageError(
                f"reset={kind!r} contradicts the file",
                where=node.where,
                why="its v_reset is not 0",
                fix='give reset="v_reset"',
            )
        return kind
