"""Neurons whose membrane moves itself by a polynomial: quadratic integrate-and-fire, and learnable polynomials (LNM).

What the next step makes of a membrane v is asked directly: an input c brings the membrane from rest to c, and from how
much less input then fires follows f(c). A polynomial through these points, of v or of v clipped or squashed, is the
hypothesis; what a spike leaves behind is f of where the reset went.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from snn2chip.frontend.torch.identify.numbers import NEAR
from snn2chip.frontend.torch.identify.numbers import scalars as single_numbers
from snn2chip.frontend.torch.identify.probe import boundary
from snn2chip.frontend.torch.identify.questions import SPIKES, Answers
from snn2chip.ir.layers import Array
from snn2chip.neurons.base import Fire, FloatNeuron
from snn2chip.neurons.lnm import LNM
from snn2chip.neurons.qif import QIF

_Form = Literal["added", "absorbed"]
_Reset = Literal["hard", "gate", "soft"]

_POINTS = 24
# The furthest below rest that is asked for, in thresholds: clipping is seen where it begins.
_DEPTH = 16.0
_HIGHEST_POWER = 7
_FITS = 3e-6
_FIRES: tuple[Fire, ...] = (">=", ">")


@dataclass(frozen=True)
class _Curve:
    """f(v) = v + Σ k_i·c^i ("added") or Σ k_i·c^i ("absorbed"), c being v, v clipped to ±bound, or tanh(v)."""

    form: _Form
    bound: float | None
    squash: bool
    coefficients: Array

    def __call__(self, v: Array) -> Array:
        c = np.tanh(v) if self.squash else v if self.bound is None else np.clip(v, -self.bound, self.bound)
        f: Array = np.polynomial.polynomial.polyval(c, self.coefficients)
        return v + f if self.form == "added" else f


def neurons(a: Answers, known: list[Tensor]) -> Iterator[FloatNeuron]:
    """Polynomial neurons that explain the answers; all of a population alike, and none where it moves without input."""
    silent = a.spike is not None and a.spike.silence
    theta = _scalar(a.theta)
    if theta is None or a.moves or a.signed or silent or a.probe.longest < 2:
        return
    sampled = _sampled(a)
    after = [_scalar(a.theta - boundary(a.probe, [c * a.theta], a.spike_value)[1]) for c in SPIKES]
    left = [x for x in after if x is not None]
    if sampled is None or len(left) < len(SPIKES):
        return
    points, values = sampled
    scalars = single_numbers(known)
    for gain in dict.fromkeys([1.0, *(g for x in scalars if x > 0 for g in (x, 1 / x))]):
        fires_at = _nearest(theta * gain, scalars)
        if gain != 1 and fires_at not in scalars:
            continue
        for curve in _curves(points * gain, values * gain, scalars):
            resets = list(_resets(curve, fires_at, [gain * x for x in left], scalars))
            for reset, target in resets:
                yield from _quadratic(curve, gain, fires_at, reset, target, scalars, a.spike_value)
            for reset, target in resets if gain == 1 else ():
                yield from _learnable(curve, fires_at, reset, target, a.spike_value)


def _sampled(a: Answers) -> tuple[Array, Array] | None:
    """Membranes below the threshold, and what the next step makes of them."""
    spread = (1 - np.cos(np.pi * (np.arange(_POINTS) + 0.5) / _POINTS)) / 2
    near = spread * 3 - 2.05
    strengths = np.concatenate([near[near < 0.97], -np.geomspace(2.1, _DEPTH, _POINTS // 2)])
    values = [_scalar(a.effect_of(float(c) * a.theta)) for c in strengths]
    if None in values:
        return None
    # The inputs as the module was given them, in float32.
    points = [float((float(c) * a.theta).flatten()[0]) for c in strengths]
    return np.asarray(points), np.asarray(values, dtype=np.float64)


def _scalar(x: Tensor) -> float | None:
    """The value all neurons share, None where they differ."""
    low, high = float(x.min()), float(x.max())
    return (low + high) / 2 if high - low <= 1e-5 * max(1.0, abs(high)) else None


def _curves(points: Array, values: Array, scalars: list[float]) -> Iterator[_Curve]:
    """Polynomials through the points, of the lowest degree that fits, the plain one first."""
    scale, signed = max(1.0, float(np.abs(values).max())), _signed(scalars)
    bounds: list[tuple[float | None, bool]] = [(None, False)]
    bounds += [(b, False) for b in sorted({*scalars, 1.0, 5.0}) if 0 < b < np.abs(points).max()]
    for bound, squash in [*bounds, (None, True)]:
        for form in get_args(_Form):
            if form == "added" and bound is None and not squash:
                continue
            own = values - points if form == "added" else values
            c = np.tanh(points) if squash else points if bound is None else np.clip(points, -bound, bound)
            for degree in range(1, _HIGHEST_POWER + 1):
                powers = np.vander(c, degree + 1, increasing=True)
                found, *_ = np.linalg.lstsq(powers, own, rcond=None)
                if np.abs(powers @ found - own).max() <= _FITS * scale:
                    exact = np.asarray([_nearest(k, signed) for k in found])
                    yield _Curve(form, bound, squash, exact)
                    break


def _signed(scalars: list[float]) -> list[float]:
    return [*scalars, *(-x for x in scalars)]


def _nearest(value: float, scalars: list[float]) -> float:
    """The number of the module's that a measurement is, else a short decimal, else itself."""
    if abs(value) < 2e-5:
        return 0.0
    for known in [*scalars, *(float(f"{value:.{digits}g}") for digits in (1, 2, 3, 4))]:
        if abs(known - value) <= NEAR * abs(value):
            return known
    return value


def _resets(curve: _Curve, theta: float, after: list[float], scalars: list[float]) -> Iterator[tuple[_Reset, float]]:
    """Resets after which the next step makes of the membrane what it was seen to make."""

    def same(x: float, y: float) -> bool:
        return abs(x - y) <= 1e-4 * max(1.0, abs(theta))

    first, second = after
    if same(first, second):
        for target in (0.0, *_signed(scalars)):
            if same(float(curve(np.asarray(target))), first):
                yield "hard", target
        if same(first, 0.0):
            yield "gate", 0.0
    left = [float(curve(np.asarray((strength - 1) * theta))) for strength in SPIKES]
    if same(first, left[0]) and same(second, left[1]):
        yield "soft", 0.0


def _learnable(curve: _Curve, theta: float, reset: _Reset, target: float, spike_value: float) -> Iterator[LNM]:
    for fire in _FIRES if reset != "soft" else ():
        yield LNM(
            np.asarray(theta),
            tuple(curve.coefficients),
            curve.form,
            bound=curve.bound,
            squash=curve.squash,
            fire=fire,
            gated=reset == "gate",
            v_reset=np.asarray(target),
            spike_value=spike_value,
        )


def _quadratic(
    curve: _Curve, gain: float, theta: float, reset: _Reset, target: float, scalars: list[float], spike_value: float
) -> Iterator[QIF]:
    """The same as a quadratic neuron a·(v − v_rest)(v − v_critical) (+ v), at rest where it starts."""
    if curve.form != "absorbed" or curve.bound is not None or curve.squash or len(curve.coefficients) != 3:
        return
    constant, slope, curvature = curve.coefficients
    if reset == "gate" or constant or curvature <= 0:
        return
    signed = _signed(scalars)
    pairs = list(itertools.permutations(scalars, 2))
    a = _nearest(curvature, [*scalars, *(x * y for x, y in pairs), *(x / y for x, y in pairs)])
    for carries in (False, True):
        away = (float(carries) - slope) / curvature
        if away <= 0:
            continue
        for rest in (0.0, *(signed if carries else ())):
            for fire in _FIRES:
                yield QIF(
                    np.asarray(_nearest(theta + rest, signed)),
                    a=np.asarray(a),
                    v_rest=np.asarray(rest),
                    v_critical=np.asarray(_nearest(rest + away, signed)),
                    carries=carries,
                    gain=np.asarray(gain),
                    fire=fire,
                    reset=reset,
                    v_reset=None if reset == "soft" else np.asarray(target + rest),
                    v_start=np.asarray(rest),
                    spike_value=spike_value,
                )
