"""What a neuron does whose membrane is linear between spikes, as far as answers tell.

The decays, what a spike does to the membrane and to the threshold: all up to the accuracy of a measurement. ``exact``
makes neurons of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snn2chip.frontend.torch.identify.numbers import LOOSE, decays, fits
from snn2chip.frontend.torch.identify.questions import SLACK, SPIKES, AfterSpike, Answers
from snn2chip.neurons.alif import AdaptiveReset
from snn2chip.neurons.base import ResetTiming

# Resets whose effect on the next step is that of the step of the spike.
_SAME_STEP: tuple[ResetTiming, ...] = ("same", "gate")


@dataclass(frozen=True)
class Structure:
    """A neuron in units of its input: gain 1.

    Args:
        current, decay: α, None without a current, and β.
        reset, timing: as the models name them.
        start: the membrane before the first step.
        target: where a hard reset goes.
        rise, fall: what a spike adds to the threshold, and the factor on it per step; None where it stays.
    """

    current: Tensor | None
    decay: Tensor
    reset: AdaptiveReset
    timing: ResetTiming
    start: Tensor
    target: Tensor | None = None
    rise: Tensor | None = None
    fall: Tensor | None = None


def structures(a: Answers, known: list[Tensor]) -> Iterator[Structure]:
    """Neurons that explain the answers, the simplest first."""
    if a.spike is None:
        return
    for current, decay in decay_pairs(a.s, a.p, known):
        plain = Structure(current, decay, "hard", "same", a.start)
        if a.spike.silence == 1:
            left = a.spike.effects[0]
            if current is not None:
                left = left - current**2 * SPIKES[0] * a.theta
            yield replace(plain, timing="next", target=left / decay.clamp(min=1e-6))
        elif a.spike.silence == 0:
            yield from _without_adaptation(a, plain)
            if a.probe.longest > 4 and not a.signed and not _kept(a, decay):
                yield from _with_adaptation(a, plain, known)


def decay_pairs(s: Tensor, p: Tensor, known: list[Tensor]) -> list[tuple[Tensor | None, Tensor]]:
    """(α, β) with α + β = s and α·β = p; α is one of the module's numbers where one fits."""
    if not bool(p.any()):
        return [(None, s.clamp(0, 1))]
    half = (s**2 / 4 - p).clamp(min=0).sqrt()
    found: list[tuple[Tensor | None, Tensor]] = []
    for value in [*decays(known), s / 2 - half, s / 2 + half]:
        try:
            current = value.broadcast_to(s.shape)
        except RuntimeError:
            continue
        other = s - current
        within = (current >= 0) & (current <= 1) & (other >= -SLACK) & (other <= 1 + SLACK)
        if bool((within & ((current * other - p).abs() <= 2 * SLACK)).all()):
            found.append((value, other.clamp(0, 1)))
    return found


def _close(x: Tensor, y: Tensor, unit: Tensor) -> bool:
    return bool(((x - y).abs() <= 1e-3 * unit).all())


def _kept(a: Answers, decay: Tensor) -> bool:
    """Whether the effect of a spike decays as the membrane does."""
    assert a.spike is not None
    return a.probe.longest > 2 and _close(a.later(1), decay * a.spike.effects[0], a.theta)


def _without_adaptation(a: Answers, plain: Structure) -> Iterator[Structure]:
    """Resets that explain the effect of a spike, one step later."""
    assert a.spike is not None
    (first, second), theta, decay = a.spike.effects, a.theta, plain.decay
    ones, twos = (strength * theta for strength in SPIKES)
    targets = ones - first / decay.clamp(min=1e-6), twos - second / decay.clamp(min=1e-6)
    if _close(decay * targets[0], decay * targets[1], theta):
        for timing in _SAME_STEP:
            yield replace(plain, timing=timing, target=targets[0])
            if bool((decay == 1).all()) and not bool(a.start.any()):
                # Nothing tells where the membrane of such a neuron has its 0: at its start, or where it is reset to.
                yield replace(plain, timing=timing, target=torch.zeros(()), start=-targets[0])
    if _close(first, decay * theta, theta) and _close(second, decay * theta, theta):
        for timing in _SAME_STEP:
            yield replace(plain, reset="soft", timing=timing)
    if _close(first, theta, theta) and _close(second, theta, theta):
        yield replace(plain, reset="soft", timing="next")
    if _close(first, torch.zeros(()), theta) and _close(second, torch.zeros(()), theta):
        yield replace(plain, reset="none")


def _with_adaptation(a: Answers, plain: Structure, known: list[Tensor]) -> Iterator[Structure]:
    """Threshold and reset together: effects of the form rise·fall^(k−1) + w·decay^(k−1)."""
    assert a.spike is not None
    effects = [a.spike.effects[0], a.later(1), a.later(2)]
    first, second = (after - plain.decay * before for before, after in itertools.pairwise(effects))
    if bool((first.abs() < SLACK * a.theta).any()):
        return
    estimate = second / first
    falls = [f for f in decays(known) if bool((f != 0).all()) and fits(f, estimate, LOOSE)]
    for fall in [*falls, estimate]:
        spread = fall.broadcast_to(estimate.shape)
        rise = first / (spread - plain.decay)
        rest = a.spike.effects[0] - rise, a.spike.effects[1] - rise
        if bool((rise > 0).all() & (spread > 0).all() & (spread <= 1).all()):
            adapting = replace(plain, rise=rise, fall=fall)
            seen = replace(a, spike=AfterSpike(0, rest))
            yield from (s for s in _without_adaptation(seen, adapting) if s.timing != "gate")
            if _close(rest[0], plain.decay * a.theta, a.theta):
                yield replace(adapting, reset="adaptive")
            if _close(rest[0], a.theta + rise, a.theta):
                yield replace(adapting, reset="adaptive", timing="next")
