"""Which neuron is a module nobody knows? Ask it, form hypotheses, and confirm one on random input.

``probe`` runs the module, ``questions`` asks it, ``linear`` and ``polynomial`` say which neurons explain the
answers, ``numbers`` finds the exact parameters in what the module computes with, ``confirm`` compares, ``findings``
says what was seen of a module that is none of them. docs/identify-neurons.md tells it to users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.identify import linear, polynomial
from snn2chip.frontend.torch.identify.confirm import ROUNDING, Match, agrees, edges, matched, unit
from snn2chip.frontend.torch.identify.findings import describe
from snn2chip.frontend.torch.identify.numbers import numbers
from snn2chip.frontend.torch.identify.probe import ModuleError, Probe, prepared
from snn2chip.frontend.torch.identify.questions import SLACK, Answers, Trial, ask, trials
from snn2chip.neurons.base import FloatNeuron

__all__ = ["ROUNDING", "Probe", "identify", "identify_integrator"]

# Before exact numbers are sought, spikes may differ this far from the threshold.
_ROUGH = 1e-3
# How many more are tried for exact agreement once one agrees up to rounding.
_PATIENCE = 60
_RAN_INTO = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


def identify(probe: Probe) -> Cell:
    """The neuron a module is.

    Large maps are asked about a corner of theirs; what is found there must hold for the whole.

    Raises:
        S2CError: it is none that is known; the message says what was found.
    """
    corner = probe.corner()
    if corner is not None:
        try:
            answers, found = _asked(corner)
            if _holds(found.model, answers, probe):
                return found
        except _NotRunError:
            pass
    return _asked(probe)[1]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ModuleError) else f"{type(error).__name__}: {error}"


class _NotRunError(S2CError):
    """The module fails on inputs of its own shape."""


def _asked(probe: Probe) -> tuple[Answers, Cell]:
    try:
        answers = ask(prepared(probe))
    except _RAN_INTO as error:
        raise _NotRunError("it does not run on its own", why=_said(error)) from None
    ends = list(edges(answers.low, answers.first, answers.spike_value))
    found = _best(answers.probe, _candidates(answers), answers.trials, ends)
    if found is None:
        explained = (linear.rough(s, answers) for s in linear.structures(answers, numbers(answers.probe)))
        why = describe(answers, next(filter(None, explained), None))
        raise S2CError("no neuron that is known behaves like it", why=why)
    return answers, found.cell


def _holds(model: FloatNeuron, corner: Answers, probe: Probe) -> bool:
    """Whether what was found in a corner is what the whole map does on random input."""
    asked = corner.probe
    whole = replace(probe, time_axis=asked.time_axis, only_steps=asked.only_steps, late=asked.late)
    try:
        model.check(whole.shape[1:])
        runs = trials(whole, *(x.broadcast_to(asked.shape)[..., :1, :1] for x in (corner.theta, corner.s, corner.p)))
    except (S2CError, *_RAN_INTO):
        return False
    return all(agrees(model, run.xs, run.outputs, ROUNDING) for run in runs)


def identify_integrator(probe: Probe) -> Cell:
    """The leaky integrator a module is: it never fires, and returns its membrane.

    Raises:
        S2CError: it is none.
    """
    try:
        probe = prepared(probe)
        one, zeros = torch.ones(probe.shape), probe.zeros(2)
        silence = probe([zeros[0]])[0][0]
        first, second, third = probe([one, *zeros])[0]
    except _RAN_INTO as error:
        raise S2CError("it does not run on its own", why=_said(error)) from None
    s = second / first
    p = s**2 - third / first
    p = torch.where(p.abs() <= SLACK, torch.zeros(()), p)
    if bool(silence.any()) or not bool((torch.isfinite(p) & (s > 0) & (s <= 2)).all()):
        raise S2CError("it is no leaky integrator")
    best = _best(probe, linear.integrators(s, p, first, numbers(probe)), trials(probe, one, s, p), [])
    if best is None:
        raise S2CError("it is no leaky integrator")
    return best.cell


def _candidates(a: Answers) -> Iterator[FloatNeuron]:
    """Neurons that explain the answers; those first whose membrane is one the module shows."""
    known = numbers(a.probe)
    unseen = []
    for structure in linear.structures(a, known):
        rough = linear.rough(structure, a)
        if rough is not None and all(agrees(rough, t.xs, t.outputs, _ROUGH) for t in a.trials):
            seen = unit(rough, a.probe, a.trials)
            if seen is not None:
                yield from linear.exact(structure, a, known, seen)
            unseen.append(structure)
    for structure in unseen:
        yield from linear.exact(structure, a, known, None)
    yield from polynomial.neurons(a, known)


def _best(probe: Probe, candidates: Iterator[FloatNeuron], runs: list[Trial], ends: list[Trial]) -> Match | None:
    """The first candidate that agrees on every spike and has the membrane the module shows; else the next best."""
    best: Match | None = None
    tried = 0
    for model in candidates:
        best = matched(probe, model, runs, ends, best) or best
        tried += best is not None
        if best is not None and (best.rank == (False, False) or tried > _PATIENCE):
            break
    return best
