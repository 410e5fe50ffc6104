"""Which of a neuron's states are the tensors that a module shows: those it returns, and its attributes.

They tell reset timings apart, which spikes cannot, and the unit of the membrane.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from snn2chip.frontend.torch.identify.confirm import ROUNDING, run
from snn2chip.frontend.torch.identify.probe import Probe
from snn2chip.frontend.torch.identify.questions import Trial
from snn2chip.neurons.base import FloatNeuron

_States = list[list[dict[str, Any]]]


def moving(trials: list[Trial]) -> list[str]:
    """Names of what the module shows at every step and changes."""
    every = [here for trial in trials for here in trial.shown]
    always = [name for name in every[0] if all(name in here for here in every)]
    return [name for name in always if any(not torch.equal(here[name], every[0][name]) for here in every)]


def ports(model: FloatNeuron, trials: list[Trial], input_delay: int) -> dict[str, str] | None:
    """Name of a shown tensor → the state it is; None where the module shows states and none is the model's."""
    names = moving(trials)
    if not names:
        return {}
    states = _states(model, trials)
    found: dict[str, str] = {}
    for name in names:
        shown = torch.stack([h[name] for t in trials for h in t.shown[input_delay : input_delay + len(t.xs)]])
        for port in ("v", "u", "out"):
            if port in states[0][0] and _close(shown, torch.stack([s[port] for run_ in states for s in run_])):
                found[name] = port
                break
    if set(found.values()) - {"out"}:
        return found
    return found if any(_explained(trials, name, states, input_delay) for name in names) else None


def unit(model: FloatNeuron, probe: Probe, trials: list[Trial]) -> Tensor | None:
    """How many times the model's membrane something that the module shows is, per neuron; None where nothing is."""
    states = _states(model, trials)
    for name, late in itertools.product(moving(trials), range(probe.late + 1)):
        ratio = _ratio(trials, name, states, "v", late)
        if ratio is not None:
            return ratio
    return None


def _states(model: FloatNeuron, trials: list[Trial]) -> _States:
    return [list(run(model, trial.xs)) for trial in trials]


def _explained(trials: list[Trial], name: str, states: _States, input_delay: int) -> bool:
    """Whether what the module shows is the model's membrane in another unit, before its reset, or of another step."""
    return any(
        kind in states[0][0] and _ratio(trials, name, states, kind, input_delay + shift) is not None
        for shift, kind in itertools.product((0, 1), ("v", "h", "u", "b"))
    )


def _ratio(trials: list[Trial], name: str, states: _States, kind: str, shift: int) -> Tensor | None:
    """The factor between what a module shows and a model's state, ``shift`` steps later; None where there is none."""
    pairs = [
        (trial.shown[t + shift][name], state[kind])
        for trial, run_ in zip(trials, states, strict=True)
        for t, state in enumerate(run_)
        if t + shift < len(trial.shown)
    ]
    a, b = (torch.stack(side).double() for side in zip(*pairs, strict=True))
    squares = (b * b).sum(0)
    factor = (a * b).sum(0) / squares.clamp(min=1e-30)
    largest = a.abs().amax(0).clamp(min=1e-6)
    alike = (squares > 0) & (factor > 0) & ((a - factor * b).abs() <= 10 * ROUNDING * largest).all(0)
    return factor if bool(alike.all()) else None


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= ROUNDING * torch.maximum(b.abs().max(), torch.ones(()))).all())
