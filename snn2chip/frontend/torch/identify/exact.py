"""Exact neurons of what was measured: LIF with and without a current, adaptive, ternary, and integrators.

The numbers a module computes with stand for those that were measured; where none fits, the nearest short decimal does,
and at last the measurement itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.frontend.torch.identify.linear import Structure, decay_pairs
from snn2chip.frontend.torch.identify.numbers import LOOSE, array, broadcasts, decays, fits, held, matching
from snn2chip.frontend.torch.identify.questions import Answers
from snn2chip.ir.layers import Array
from snn2chip.neurons.alif import ALIF
from snn2chip.neurons.base import Fire, FloatNeuron
from snn2chip.neurons.lif import LIF, DecayForm
from snn2chip.neurons.ternary import TernaryLIF

_FIRES: tuple[Fire, ...] = (">=", ">")
_INFINITE = np.asarray(np.inf)
# Of how many numbers products are tried.
_FACTORS = 12


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


def neurons(structure: Structure, a: Answers, known: list[Tensor], unit: Tensor | None) -> Iterator[FloatNeuron]:
    """The neurons of a structure, those first whose numbers are all among the module's.

    Args:
        unit: the membrane that one unit of input makes, where the module shows it.
    """
    # Only a LIF has forms of decay; in others the same numbers stand for the factor they come to.
    lif = structure.rise is None and not a.signed
    forms = list(_forms(structure.decay, known if lif else [*known, *decays(known)], lif))
    for scale in _scales(_threshold(structure, a), forms, known):
        if unit is None or fits(scale.gain * scale.implied, unit, LOOSE):
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
    for gain in (x for x in _factors(known) if broadcasts(theta, x)):
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
    return [*single, *(1 / x for x in single), *(x * y for x, y in pairs if broadcasts(x, y))]


def _built(s: Structure, a: Answers, scale: _Scale, fire: Fire, known: list[Tensor] | None) -> Iterator[FloatNeuron]:
    """The models that have these numbers; where ``known`` is None, with the rest as it was measured."""
    start = s.start * scale.gain * scale.implied
    starts = matching(start, known or []) if bool(start.any()) else [torch.zeros(())]
    for target, started in itertools.product(_targets(s, scale, known or []), starts):
        shared: dict[str, Any] = {
            "v_threshold": array(scale.threshold),
            "decay": array(scale.decay),
            "gain": array(scale.gain),
            "fire": fire,
            "reset": s.reset,
            "v_reset": array(target),
            "spike_value": a.spike_value,
        }
        current = None if s.current is None else array(s.current)
        if not a.signed and s.rise is None:
            yield LIF(
                **shared,
                decay_form=scale.form,
                current_decay=current,
                reset_timing=s.timing,
                v_start=array(started),
            )
        elif bool(started.any()):
            continue
        elif a.signed:
            if s.timing == "same" and current is None:
                yield TernaryLIF(**shared)
        else:
            yield from _adaptive(s, scale, known, shared | {"current_decay": current, "reset_timing": s.timing})


def _targets(s: Structure, scale: _Scale, known: list[Tensor]) -> list[Tensor]:
    """Where a hard reset may go."""
    zero = torch.zeros(())
    if s.target is None:
        return [zero]
    target = s.target * scale.gain * scale.implied
    # What a neuron that keeps nothing resets to is lost: any number will do there.
    free = s.decay < 1e-3
    fitting = [x for x in known if broadcasts(x, target) and fits(torch.where(free, target, x), target)]
    return [*fitting, *matching(torch.where(free, zero, target), [zero])]


def _adaptive(s: Structure, scale: _Scale, known: list[Tensor] | None, shared: dict[str, Any]) -> Iterator[ALIF]:
    assert s.rise is not None
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
        steps = [x for x in (one, 1 - fall, *known) if bool((x > 0).all()) and broadcasts(x, rise)]
        yield from ((x, step) for step in steps for x in known if fits(x, rise / step, LOOSE))
    yield rise, one


def integrators(s: Tensor, p: Tensor, gain: Tensor, known: list[Tensor]) -> Iterator[LIF]:
    """Leaky integrators with this response to an input; their output is the membrane."""
    one = torch.ones(())
    for current, decay in decay_pairs(s, p, known):
        through: Array | None = None if current is None else array(current)
        for form, value, implied in _forms(decay, known):
            own = gain / implied
            for factor in [one] if fits(one, own) else matching(own, [*known, *_factors(known)]):
                yield LIF(_INFINITE, array(value), form, gain=array(factor), current_decay=through, reset="none")
