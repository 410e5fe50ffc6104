"""What NIR cannot say about a network: options of the reader, and the questions for those that are missing."""

from __future__ import annotations

from collections.abc import Mapping
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
Integration = Literal["euler", "exponential"]
IntegratorGain = Literal["r*dt", "r"]
ReadoutKind = Literal["sum", "mean", "last", "max", "none"]

# Time constants are often float32 numbers divided by each other: gains and delays within this of a whole number are it.
ROUNDING = 1e-6


def check_choices(given: Mapping[str, Any]) -> None:
    """Raise UsageError unless every option of the reader has a value it can have."""
    allowed: dict[str, tuple[Any, ...]] = {
        "fire": get_args(Fire),
        "reset_timing": get_args(ResetTiming),
        "integration": get_args(Integration),
        "integrator_gain": (None, *get_args(IntegratorGain)),
        "readout": get_args(ReadoutKind),
        "coding": get_args(Coding),
    }
    kinds = given["reset"].values() if isinstance(given["reset"], Mapping) else [given["reset"]]
    for name, values in allowed.items():
        one_of(name, given[name], values)
    for kind in kinds:
        one_of("reset", kind, (None, *get_args(ResetKind)))
    check_dt(given["dt"])
    check_time_steps(given["time_steps"], given["coding"])


@dataclass(frozen=True)
class Choices:
    """What the user said about everything NIR does not say."""

    dt: float | None
    reset: ResetKind | Mapping[str, ResetKind] | None
    fire: Fire
    reset_timing: ResetTiming
    integration: Integration
    integrator_gain: IntegratorGain | None

    def step(self, node: Fields) -> float:
        """The time step, or the question for it."""
        if self.dt is None:
            raise UsageError(
                "the length of a time step is missing",
                where=node.where,
                why="NIR describes a network in continuous time; no file says in which steps it was trained",
                fix="give dt in seconds, as used in training, e.g. dt=1e-4",
            )
        return self.dt

    def decay(self, tau: Array, node: Fields, field: str) -> Array:
        """The share of a state that is lost in one step."""
        dt = self.step(node)
        if (tau <= 0).any():
            raise S2CError(f"{field} is {tau.min():.6g}", where=node.where, why="a time constant is positive")
        if self.integration == "exponential":
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
        kind = self.reset.get(node.name) if isinstance(self.reset, Mapping) else self.reset
        stated = bool(v_reset.any())
        if kind is None and stated:
            return "v_reset"
        if kind is None:
            raise UsageError(
                "the kind of reset is missing",
                where=node.where,
                why="NIR has no word for it: exporters write v_reset = 0 for a reset by subtraction too",
                fix='give reset="zero", "subtract" or "none", as trained; or a dict by node name',
            )
        if stated and kind != "v_reset":
            raise UsageError(
                f"reset={kind!r} contradicts the file",
                where=node.where,
                why="its v_reset is not 0",
                fix='give reset="v_reset"',
            )
        return kind
