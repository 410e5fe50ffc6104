"""What was seen of a module that is no neuron that is known, in words."""

from __future__ import annotations

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.identify.probe import boundary
from snn2chip.frontend.torch.identify.questions import SLACK, SPIKES, Answers, undisturbed


def describe(a: Answers) -> str:
    """One sentence of findings; what deviates from an integrate-and-fire neuron last."""
    try:
        return ", ".join([f"fires from input {_range(a.theta)}", *_dynamics(a), *_spikes(a)])
    except S2CError as error:
        return f"fires from input {_range(a.theta)}; then {error.what}"


def _dynamics(a: Answers) -> list[str]:
    if a.moves:
        away = _range(a.effect_of(a.probe.zeros(1)[0]) / a.theta)
        return [f"its membrane moves without input (by {away} of the threshold)"]
    if a.curved:
        up, down = (_range(a.effect_of(c * a.theta) / a.theta) for c in (0.5, -0.5))
        return [f"the next membrane is no multiple of the last: of ±½ threshold {up} and {down} thresholds are left"]
    if not bool(a.p.any()):
        found = [f"keeps {_range(a.s)} per step"]
    else:
        half = (a.s**2 / 4 - a.p).clamp(min=0).sqrt()
        found = [f"keeps {_range(a.s / 2 - half)} and {_range(a.s / 2 + half)} per step of two states"]
    if a.probe.longest > 3:
        x = a.theta / 8
        before = [x, *a.probe.zeros(2)]
        seen = a.theta - boundary(a.probe, before, a.spike_value)[1]
        wanted = undisturbed(a, before)
        if bool(((seen - wanted).abs() > 10 * SLACK * a.theta).any()):
            found.append(
                f"but three steps after an input {_range(seen / x)} of it are left, not {_range(wanted / x)}: "
                "it has a third state, or they are not linear"
            )
    return found


def _spikes(a: Answers) -> list[str]:
    if a.spike is None:
        return []
    if a.spike.silence == 1:
        return ["does not fire in the step after a spike"]
    if a.spike.silence:
        return [f"does not fire for {a.spike.silence} steps after a spike (a refractory period)"]
    taken = " and ".join(_range(effect / a.theta) for effect in a.spike.effects)
    by = " and ".join(map(str, SPIKES))
    found = [f"a spike by {by} thresholds takes {taken} thresholds from the next step"]
    if a.probe.longest > 4:
        later = " and ".join(_range(a.later(step) / a.theta) for step in (1, 2))
        found.append(f"the first of them {later} from those after")
        roots = a.later(1) ** 2 - a.s * a.spike.effects[0] * a.later(1) + a.p * a.spike.effects[0] ** 2
        if bool((roots.abs() > 1e-3 * a.theta**2).any()):
            found.append("which is not how its membrane decays: a spike changes something else too")
    return found


def _range(x: Tensor) -> str:
    low, high = float(x.min()), float(x.max())
    close = high - low <= 1e-3 * max(abs(high), abs(low)) or torch.equal(x.min(), x.max())
    return f"{low:.4g}" if close else f"{low:.4g} to {high:.4g}"
