"""``identify``: from a module that can be run to the neuron it is, or to the reason why it is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.identify import exact, linear, polynomial
from snn2chip.frontend.torch.identify.confirm import ROUNDING, agrees
from snn2chip.frontend.torch.identify.findings import describe
from snn2chip.frontend.torch.identify.match import best
from snn2chip.frontend.torch.identify.numbers import numbers
from snn2chip.frontend.torch.identify.probe import ModuleError, Probe, prepared
from snn2chip.frontend.torch.identify.questions import SLACK, Answers, ask, trials
from snn2chip.frontend.torch.identify.shown import unit
from snn2chip.neurons.base import FloatNeuron

# Before exact numbers are sought, spikes may differ this far from the threshold.
_ROUGH = 1e-3
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


class _NotRunError(S2CError):
    """The module fails on inputs of its own shape."""

    def __init__(self, error: Exception) -> None:
        said = str(error) if isinstance(error, ModuleError) else f"{type(error).__name__}: {error}"
        super().__init__("it does not run on its own", why=said)


def _asked(probe: Probe) -> tuple[Answers, Cell]:
    try:
        answers = ask(prepared(probe))
    except _RAN_INTO as error:
        raise _NotRunError(error) from None
    known = numbers(answers.probe)
    found = best(answers.probe, _candidates(answers, known), answers.trials, answers.edges)
    if found is None:
        explained = (exact.rough(structure, answers) for structure in linear.structures(answers, known))
        why = describe(answers, next(filter(None, explained), None))
        raise S2CError("no neuron that is known behaves like it", why=why)
    return answers, found


def _candidates(a: Answers, known: list[Tensor]) -> Iterator[FloatNeuron]:
    """Neurons that explain the answers; those first whose membrane is one the module shows."""
    unseen = []
    for structure in linear.structures(a, known):
        rough = exact.rough(structure, a)
        if rough is not None and all(agrees(rough, trial, _ROUGH) for trial in a.trials):
            seen = unit(rough, a.probe, a.trials)
            if seen is not None:
                yield from exact.neurons(structure, a, known, seen)
            unseen.append(structure)
    for structure in unseen:
        yield from exact.neurons(structure, a, known, None)
    yield from polynomial.neurons(a, known)


def _holds(model: FloatNeuron, corner: Answers, probe: Probe) -> bool:
    """Whether what was found in a corner is what the whole map does on random input."""
    asked = corner.probe
    whole = replace(probe, time_axis=asked.time_axis, only_steps=asked.only_steps, late=asked.late)
    try:
        model.check(whole.shape[1:])
        runs = trials(whole, *(x.broadcast_to(asked.shape)[..., :1, :1] for x in (corner.theta, corner.s, corner.p)))
    except (S2CError, *_RAN_INTO):
        return False
    return all(agrees(model, trial, ROUNDING) for trial in runs)


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
        raise _NotRunError(error) from None
    s = second / first
    p = s**2 - third / first
    p = torch.where(p.abs() <= SLACK, torch.zeros(()), p)
    found = None
    if not bool(silence.any()) and bool((torch.isfinite(p) & (s > 0) & (s <= 2)).all()):
        found = best(probe, exact.integrators(s, p, first, numbers(probe)), trials(probe, one, s, p), [])
    if found is None:
        raise S2CError("it is no leaky integrator")
    return found
