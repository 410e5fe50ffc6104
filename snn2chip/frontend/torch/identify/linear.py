"""Neurons whose membrane is linear between spikes: LIF with and without a current, adaptive, ternary, integrators.

From the answers follow, up to the accuracy of a measurement, the decays and what a spike does (:class:`Structure`).
The module's own numbers then make exact neurons of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.frontend.torch.identify.numbers import array, fits, held, matching
from snn2chip.frontend.torch.identify.questions import SLACK, SPIKES, AfterSpike, Answers
from snn2chip.ir.layers import Array
from snn2chip.neurons.alif import ALIF, AdaptiveReset
from snn2chip.neurons.base import Fire, FloatNeuron
from snn2chip.neurons.lif import LIF, DecayForm
from snn2chip.neurons.ternary import TernaryLIF

_FIRES: tuple[Fire, ...] = (">=", ">")
_INFINITE = np.asarray(np.inf)
# Of how many numbers products are tried.
_FACTORS = 12


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
    timing: str
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


def decays(known: list[Tensor]) -> Iterator[Tensor]:
    """Decay factors a module may have from its numbers: β, 1 − λ, 1 − 1/τ."""
    yield from known
    yield from (1 - x for x in known)
    yield from (1 - 1 / x for x in known if bool((x != 0).all()))


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
        for timing in ("same", "gate"):
            yield replace(plain, timing=timing, target=targets[0])
            if bool((decay == 1).all()) and not bool(a.start.any()):
                # Nothing tells where the membrane of such a neuron has its 0: at its start, or where it is reset to.
                yield replace(plain, timing=timing, target=torch.zeros(()), start=-targets[0])
    if _close(first, decay * theta, theta) and _close(second, decay * theta, theta):
        for timing in ("same", "gate"):
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
    falls = [f for f in decays(known) if bool((f != 0).all()) and _fits_loosely(f, estimate)]
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


def _fits_loosely(value: Tensor, estimate: Tensor) -> bool:
    """For a ratio of small differences."""
    try:
        spread = value.broadcast_to(estimate.shape)
    except RuntimeError:
        return False
    return bool(((spread - estimate).abs() <= 5e-3 * estimate.abs()).all())


# ---------------------------------------------------------------------- exact neurons


@dataclass(frozen=True)
class _Scale:
    """How the membrane relates to the input.

    Args:
        form, decay: as of a LIF.
        implied: the factor on the input that the form implies.
        gain, threshold: of the membrane.
    """

    form: DecayForm
    decay: Tensor
    implied: Tensor
    gain: Tensor
    threshold: Tensor


def rough(structure: Structure, a: Answers) -> FloatNeuron | None:
    """The neuron with measured numbers: whether it explains the trials at all is asked of it first."""
    one = torch.ones(())
    scale = _Scale("factor", structure.decay, one, one, _threshold(structure, a))
    return next(_built(structure, a, scale, ">=", None), None)


def _threshold(structure: Structure, a: Answers) -> Tensor:
    """In units of the input."""
    return a.theta + structure.decay * (structure.start - a.start)


def exact(structure: Structure, a: Answers, known: list[Tensor], unit: Tensor | None) -> Iterator[FloatNeuron]:
    """The neurons of a structure, those first whose numbers are all among the module's.

    Args:
        unit: the membrane that one unit of input makes, where the module shows it.
    """
    # Only a LIF has forms of decay; in others the same numbers stand for the factor they come to.
    lif = structure.rise is None and not a.signed
    forms = list(_forms(structure.decay, known if lif else [*known, *decays(known)], lif))
    for scale in _scales(_threshold(structure, a), forms, known):
        if unit is None or _fits_loosely(scale.gain * scale.implied, unit):
            for fire in _FIRES:
                yield from _built(structure, a, scale, fire, known)


def _forms(decay: Tensor, known: list[Tensor], all_forms: bool = True) -> Iterator[tuple[DecayForm, Tensor, Tensor]]:
    """Decay form, its value, and the factor on the input it implies."""
    one = torch.ones(())
    for factor in held(decay, known):
        yield "factor", factor, one
    for tau in (x for x in known if all_forms and bool(x.all()) and fits(1 - 1 / x, decay)):
        yield "tau", tau, 1 / tau
        yield "tau_undriven", tau, one
    for rate in (x for x in known if all_forms and fits(1 - x, decay)):
        yield "rate", rate, rate
        yield "subtract", rate, one
    for factor in matching(decay, []):
        yield "factor", factor, one


def _scales(theta: Tensor, forms: list[tuple[DecayForm, Tensor, Tensor]], known: list[Tensor]) -> Iterator[_Scale]:
    """How the membrane may relate to the input, with numbers of the module's first."""
    one = torch.ones(())
    for form, decay, implied in forms:
        for threshold in held(theta * implied, known):
            yield _Scale(form, decay, implied, one, threshold)
    for gain in (x for x in _factors(known) if _broadcasts(theta, x)):
        for form, decay, implied in forms:
            for threshold in held(theta * implied * gain, known):
                yield _Scale(form, decay, implied, gain, threshold)
    for form, decay, implied in forms:
        for threshold in matching(theta * implied, []):
            yield _Scale(form, decay, implied, one, threshold)


def _factors(known: list[Tensor]) -> list[Tensor]:
    """What an input may be multiplied by: a number of the module's, one over it, or two of them."""
    single = [x for x in known if bool((x > 0).all()) and not bool((x == 1).all())][:_FACTORS]
    pairs = itertools.combinations_with_replacement(single, 2)
    return [*single, *(1 / x for x in single), *(x * y for x, y in pairs if _broadcasts(x, y))]


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    try:
        torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True


def _built(s: Structure, a: Answers, scale: _Scale, fire: Fire, known: list[Tensor] | None) -> Iterator[FloatNeuron]:
    """The models that have these numbers; where ``known`` is None, with the rest as it was measured."""
    targets = [torch.zeros(())]
    if s.target is not None:
        target = s.target * scale.gain * scale.implied
        # What a neuron that keeps nothing resets to is lost: any number will do there.
        free = s.decay < 1e-3
        fitting = [x for x in known or () if _broadcasts(x, target) and fits(torch.where(free, target, x), target)]
        zero = torch.zeros(())
        targets = [*fitting, *matching(torch.where(free, zero, target), [zero])]
    start = s.start * scale.gain * scale.implied
    starts = matching(start, list(known or ())) if bool(start.any()) else [torch.zeros(())]
    for target, started in itertools.product(targets, starts):
        shared: dict[str, Any] = {
            "v_threshold": array(scale.threshold),
            "decay": array(scale.decay),
            "gain": array(scale.gain),
            "fire": fire,
            "reset": s.reset,
            "v_reset": array(target),
            "spike_value": a.spike_value,
        }
        if bool(started.any()) and (a.signed or s.rise is not None):
            continue
        if a.signed:
            if s.timing == "same" and s.current is None:
                yield TernaryLIF(**shared)
            continue
        shared["current_decay"] = None if s.current is None else array(s.current)
        shared["reset_timing"] = s.timing
        if s.rise is None:
            yield LIF(**shared, decay_form=scale.form, v_start=array(started))
            continue
        assert s.fall is not None
        for strength, step in _splits(s.rise * scale.gain, s.fall, known):
            yield ALIF(
                **shared,
                adaptation_decay=array(s.fall),
                adaptation_strength=array(strength),
                adaptation_step=array(step),
            )


def _splits(rise: Tensor, fall: Tensor, known: list[Tensor] | None) -> Iterator[tuple[Tensor, Tensor]]:
    """What a spike adds to the threshold, as strength times step."""
    one = torch.ones(())
    if known is not None:
        steps = [x for x in (one, 1 - fall, *known) if bool((x > 0).all()) and _broadcasts(x, rise)]
        yield from ((x, step) for step in steps for x in known if _fits_loosely(x, rise / step))
    yield rise, one


# ---------------------------------------------------------------------- integrators


def integrators(s: Tensor, p: Tensor, gain: Tensor, known: list[Tensor]) -> Iterator[LIF]:
    """Leaky integrators with this response to an input; their output is the membrane."""
    one = torch.ones(())
    for current, decay in decay_pairs(s, p, known):
        through: Array | None = None if current is None else array(current)
        for form, value, implied in _forms(decay, known):
            own = gain / implied
            for factor in [one] if fits(one, own) else matching(own, [*known, *_factors(known)]):
                yield LIF(_INFINITE, array(value), form, gain=array(factor), current_decay=through, reset="none")
