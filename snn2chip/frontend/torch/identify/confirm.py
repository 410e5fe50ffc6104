"""Whether a neuron does what a module does, on random input and on the inputs that only just fire.

One that agrees on every spike is right. One that orders its operations in another way is right up to rounding: then a
spike may differ where the membrane is within rounding of the threshold, and nowhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.identify.probe import Probe
from snn2chip.frontend.torch.identify.questions import Trial
from snn2chip.neurons.base import FloatNeuron
from snn2chip.simulate.torch_ops import TorchOps

# How far from the threshold, relative to it, two ways of rounding may disagree about a spike.
ROUNDING = 1e-5


@dataclass
class Match:
    """A neuron that does what the module does.

    Args:
        rank: 0 is best: its membrane is shown, or nothing is; then, every spike agrees without excuse.
    """

    rank: tuple[bool, bool]
    cell: Cell


def matched(
    probe: Probe, model: FloatNeuron, trials: list[Trial], ends: list[Trial], best: Match | None
) -> Match | None:
    """The match of a neuron with the module, if it is one, and better than the best so far."""
    try:
        model.check(probe.shape[1:])
    except S2CError:
        return None
    if not all(agrees(model, t.xs, t.outputs, ROUNDING) for t in trials):
        return None
    exact = all(agrees(model, t.xs, t.outputs, None) for t in (*trials, *ends))
    found = best
    # Spikes are as cheap to delay behind a population as before it; the membrane of an integrator is not.
    for input_delay in range(probe.late if model.integrates_only else 0, probe.late + 1):
        ports = _ports(model, trials, input_delay)
        if ports is None:
            continue
        rank = (bool(_moving(trials)) and "v" not in ports.values(), not exact)
        if found is None or rank < found.rank:
            found = Match(rank, _cell(probe, model, ports, trials, input_delay))
    return None if found is best else found


def _cell(probe: Probe, model: FloatNeuron, ports: dict[str, str], trials: list[Trial], input_delay: int) -> Cell:
    # What it hands on but no graph can read has a name of its own.
    returns = tuple(ports.get(str(i), f"state {i}" if i < len(probe.args) else None) for i in range(1, 8))
    attributes = {name[5:]: port for name, port in ports.items() if name.startswith("attr:")}
    return Cell(
        model,
        time_axis=probe.time_axis,
        returns=("out", *returns),
        states=tuple(str(name) for name in returns[: len(probe.args) - 1]),
        attributes=attributes,
        carries=probe.remembers(trials[0].xs),
        delay=probe.late - input_delay,
        input_delay=input_delay,
    )


def agrees(model: FloatNeuron, xs: list[Tensor], expected: list[Tensor], slack: float | None) -> bool:
    """Whether a neuron gives the expected outputs.

    Args:
        slack: how far from the threshold, relative to it, a spike may differ; None for nowhere. Of an integrator, by
            how much of its largest value the membrane may.
    """
    ops, state = TorchOps(), None
    excused = torch.zeros(xs[0].shape, dtype=torch.bool)
    for x, wanted in zip(xs, expected, strict=True):
        state, out = model.step(model.start(x, ops) if state is None else state, x, ops)
        if model.integrates_only:
            largest = 0.0 if slack is None else slack * float(torch.stack(expected).abs().max())
            if bool(((out - wanted).abs() > largest).any()):
                return False
            continue
        wrong = ((out - wanted).abs() > 1e-5 * model.spike_value) & ~excused
        if not bool(wrong.any()):
            continue
        theta = ops.const(model.v_threshold, x)
        reach = torch.maximum(torch.maximum(theta.abs(), x.abs()), state["h"].abs())
        if slack is None or bool((wrong & ((state["h"] - theta).abs() > slack * reach)).any()):
            return False
        # Once a spike differs, so do all membranes after it.
        excused |= wrong
    return True


def run(model: FloatNeuron, xs: list[Tensor]) -> list[dict[str, Tensor]]:
    """The state after every step, with the output as "out"."""
    ops, state = TorchOps(), None
    found = []
    for x in xs:
        state, out = model.step(model.start(x, ops) if state is None else state, x, ops)
        found.append({**state, "out": out})
    return found


def _moving(trials: list[Trial]) -> list[str]:
    """Names of what the module shows at every step and changes."""
    every = [here for trial in trials for here in trial.shown]
    always = [name for name in every[0] if all(name in here for here in every)]
    return [name for name in always if any(not torch.equal(here[name], every[0][name]) for here in every)]


def _ports(model: FloatNeuron, trials: list[Trial], input_delay: int) -> dict[str, str] | None:
    """Which tensors the module shows are which state; None where it shows states and none is the model's.

    What it shows tells reset timings apart, which spikes cannot.
    """
    moving = _moving(trials)
    if not moving:
        return {}
    states = [run(model, trial.xs) for trial in trials]
    found: dict[str, str] = {}
    for name in moving:
        shown = torch.stack([h[name] for t in trials for h in t.shown[input_delay : input_delay + len(t.xs)]])
        for port in ("v", "u", "out"):
            if port in states[0][0] and _close(shown, torch.stack([s[port] for run_ in states for s in run_])):
                found[name] = port
                break
    if found.keys() & moving and set(found.values()) != {"out"}:
        return found
    return found if any(_explained(trials, name, states, input_delay) for name in moving) else None


def _explained(trials: list[Trial], name: str, states: list[list[dict[str, Any]]], input_delay: int) -> bool:
    """Whether what the module shows is the model's membrane in another unit, before its reset, or of another step."""
    for shift, kind in itertools.product((0, 1), ("v", "h", "u", "b")):
        if kind in states[0][0] and _ratio(trials, name, states, kind, input_delay + shift) is not None:
            return True
    return False


def unit(model: FloatNeuron, probe: Probe, trials: list[Trial]) -> Tensor | None:
    """How many times the model's membrane something that the module shows is, per neuron; None where nothing is."""
    states = [run(model, trial.xs) for trial in trials]
    for name, late in itertools.product(_moving(trials), range(probe.late + 1)):
        ratio = _ratio(trials, name, states, "v", late)
        if ratio is not None:
            return ratio
    return None


def _ratio(trials: list[Trial], name: str, states: list[list[dict[str, Any]]], kind: str, shift: int) -> Tensor | None:
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


def edges(low: Tensor, theta: Tensor, spike_value: float) -> Iterator[Trial]:
    """Two runs of one step: the largest input that does not fire, and the smallest that does."""
    yield Trial([low], [torch.zeros_like(low)], [])
    yield Trial([theta], [torch.full_like(theta, spike_value)], [])
