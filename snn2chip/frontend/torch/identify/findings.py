"""What was seen of a module that is no neuron that is known, in words."""

from __future__ import annotations

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.identify.confirm import run
from snn2chip.frontend.torch.identify.probe import boundary
from snn2chip.frontend.torch.identify.questions import SLACK, SPIKES, Answers, undisturbed
from snn2chip.neurons.base import FloatNeuron


def describe(a: Answers, nearest: FloatNeuron | None) -> str:
    """One sentence of findings; what deviates from a neuron that is known last.

    Args:
        nearest: a neuron that explains the answers, but not what the module does on random input.
    """
    found = [f"fires from input {_range(a.theta)}"]
    if bool(a.start.any()):
        found.append(f"starts at {_range(a.start / a.theta)} thresholds")
    try:
        deviates = _dynamics(a, found) or _spikes(a, found) or (nearest and _surprise(a, nearest))
    except S2CError as error:
        deviates = f"then {error.what}"
    return ", ".join([*found, *([deviates] if deviates else [])])


def _dynamics(a: Answers, found: list[str]) -> str:
    """What the membrane does below the threshold; the return value says what no linear neuron does."""
    if a.moves:
        return f"its membrane moves without input (by {_range(a.effect_of(a.probe.zeros(1)[0]) / a.theta)} thresholds)"
    if a.curved:
        up, down = (_range(a.effect_of(c * a.theta) / a.theta) for c in (0.5, -0.5))
        return f"the next membrane is no multiple of the last: of ±½ threshold {up} and {down} thresholds are left"
    if not bool(a.p.any()):
        found.append(f"keeps {_range(a.s)} per step")
    else:
        half = (a.s**2 / 4 - a.p).clamp(min=0).sqrt()
        found.append(f"keeps {_range(a.s / 2 - half)} and {_range(a.s / 2 + half)} per step of two states")
    if a.probe.longest > 3:
        x = a.theta / 8
        before = [x, *a.probe.zeros(2)]
        seen = a.theta - boundary(a.probe, before, a.spike_value)[1]
        wanted = undisturbed(a, before)
        if bool(((seen - wanted).abs() > 10 * SLACK * a.theta).any()):
            return (
                f"but three steps after an input {_range(seen / x)} of it are left, not {_range(wanted / x)}: "
                "it has a third state, or they are not linear"
            )
    return ""


def _spikes(a: Answers, found: list[str]) -> str:
    """What a spike does; the return value says what none of a neuron that is known does."""
    if a.spike is None:
        return ""
    if a.spike.silence > 1:
        return f"does not fire for {a.spike.silence} steps after a spike (a refractory period)"
    if a.spike.silence:
        found.append("does not fire in the step after a spike")
        return ""
    taken = " and ".join(_range(effect / a.theta) for effect in a.spike.effects)
    found.append(f"a spike by {' and '.join(map(str, SPIKES))} thresholds takes {taken} thresholds from the next step")
    if a.probe.longest > 4 and not a.signed:
        later = " and ".join(_range(a.later(step) / a.theta) for step in (1, 2))
        found.append(f"the first of them {later} from those after")
        # What decays as the membrane or the current does solves the same recurrence.
        first, second = a.spike.effects[0], a.later(1)
        if bool(((second**2 - a.s * first * second + a.p * first**2).abs() > 1e-3 * a.theta**2).any()):
            return "which is not how its membrane decays: a spike changes something else too"
    return ""


def _surprise(a: Answers, nearest: FloatNeuron) -> str:
    """Where a neuron that explains the answers first gives another spike than the module."""
    for trial in a.trials:
        states = list(run(nearest, trial.xs))
        for step, (state, wanted) in enumerate(zip(states, trial.outputs, strict=True)):
            wrong = (state["out"] - wanted).abs() > 0.5 * a.spike_value
            if bool(wrong.any()):
                lowest = torch.stack([before["v"] for before in states[: step + 1]]).amin(0)[wrong][0]
                count = sum(int(before["out"][wrong][0] != 0) for before in states[:step])
                return (
                    f"like a {nearest.kind} ({nearest.describe()}), but not in step {step} on random input, "
                    f"after {count} spikes and membranes down to {float(lowest):.3g}"
                )
    return ""


def _range(x: Tensor) -> str:
    low, high = float(x.min()), float(x.max())
    close = high - low <= 1e-3 * max(abs(high), abs(low)) or torch.equal(x.min(), x.max())
    return f"{low:.4g}" if close else f"{low:.4g} to {high:.4g}"
