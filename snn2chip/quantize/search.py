"""The scale of a population: weights, threshold and bias share it, so it is searched for all of them together.

A candidate is judged by running the population in integers on the calibration data, against the float population on
the same inputs: by how far firing rates drift and by the spikes that differ, then by the error of the summed input.
Drift counts more: layers after it average over misplaced spikes, not over missing ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Conv, Layer, Linear
from snn2chip.ir.target import Target, Weights
from snn2chip.neurons.base import Bounds, FloatNeuron, IntegerNeuron, Range
from snn2chip.quantize.overflow import register_limits, sum_range
from snn2chip.quantize.pools import Pooled, late, reach, summed
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.sums import exact_sums

# Shares of the largest weight the grid is stretched over; below 1 the largest weights are clipped.
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3)
# Registers are planned to hold this many times what the calibration data reached, where no proof is possible.
HEADROOM = 2.0
# A scale whose worst case is proved to fit is preferred unless it costs this many times more.
PROOF_PREFERENCE = 1.5
# What a drifted rate weighs against a differing spike.
DRIFT_WEIGHT = 10.0
# Exponents whose clips are searched; alternatives judged in the whole network; biases corrected among them.
EXPONENTS_KEPT = 2
SHORTLIST = 6
CORRECTED = 3
# The smallest weight is tried as this many times the number all weights are multiples of, and how nearly they must be.
OWN_GRID_DIVISORS = (1, 2, 3, 4, 5)
OWN_GRID_SLACK = 1e-4
# Bits of the weights given up, one after another, where the registers hold no finer unit.
SPARED_BITS = 3
# log2 of the clipping accepted rather than doubling a weight's step.
SNAP_SLACK = 0.03

Synapse = Callable[[Array], Array]

_OPS = NumpyOps()


class NoScaleError(S2CError):
    """No scale brings all numbers of a population into the chip's registers."""


@dataclass(frozen=True)
class Branch:
    """One synapse of a population as the search sees it.

    Args:
        layer: float weights, no bias; the value of an input unit is multiplied in.
        inputs: integers it receives on the calibration data, [N, T, ...]; None for a synapse of its own spikes.
        source: range of those integers, proved.
    """

    name: str
    layer: Linear | Conv
    inputs: Array | None
    source: tuple[int, int]


@dataclass(frozen=True, eq=False)
class HostLayer:
    """An integer layer on the host, and the shift that brings its sums to the unit of the population it feeds."""

    layer: Linear | Conv
    shift: int


@dataclass(frozen=True, eq=False)
class Quantized:
    """A candidate and what it did on the calibration data."""

    unit: float
    weights: dict[str, Array]
    exponents: dict[str, int]
    neuron: IntegerNeuron
    worst: Bounds
    observed: Bounds
    proved: bool
    differing: float
    drift: float
    error: float
    corrected: bool = False
    host: HostLayer | None = None

    def as_in_program(self) -> Quantized:
        """With the weights as a Program holds them, in 64 bits."""
        return dataclasses.replace(self, weights={name: w.astype(np.int64) for name, w in self.weights.items()})

    @property
    def cost(self) -> tuple[float, float]:
        """Rate drift and share of differing spikes, then relative error of the summed input."""
        return (DRIFT_WEIGHT * self.drift + self.differing, self.error)


@dataclass(frozen=True)
class Problem:
    """Everything a candidate is judged on.

    Args:
        model, bias: the float population, bias broadcasting against it.
        sums: float summed input without bias, [N, T, ...], and ``spikes`` the float population's answer.
        pooled: the branches of whose sums the host takes maxima on the way.
    """

    branches: tuple[Branch, ...]
    model: FloatNeuron
    bias: Array
    sums: Array
    spikes: Array
    target: Target
    bits: int
    steps: int
    pooled: tuple[Pooled, ...] = ()


def search(problem: Problem) -> list[Quantized]:
    """The best scales found for the population, best first: over exponents, then clips, then corrected biases.

    Raises:
        NoScaleError: no scale brings threshold, bias and sums into the chip's registers together.
    """
    found: dict[tuple[int, tuple[float, ...]], Quantized] = {}

    def tried(exponent: int, clips: dict[str, float]) -> None:
        key = (exponent, tuple(clips.values()))
        if key not in found and (candidate := _candidate(problem, exponent, clips)) is not None:
            found[key] = candidate

    names = [branch.name for branch in problem.branches]
    exponents = range(problem.target.weights.exponent_max + 1)
    exact = [q for e in exponents if (q := _on_own_grid(problem, e)) is not None]
    if exact and preferred(exact).differing == 0:
        return [preferred(exact)]
    for exponent in exponents:
        tried(exponent, dict.fromkeys(names, 1.0))
    for exponent in range(-1, -SPARED_BITS - 1, -1):
        # A membrane that reaches far beyond its threshold needs coarser units than the finest weights.
        if found or exact:
            break
        tried(exponent, dict.fromkeys(names, 1.0))
    if not found and not exact:
        raise NoScaleError(
            "threshold, bias and weights do not fit the chip's registers together",
            why=f"threshold up to {_largest(problem.model.v_threshold):.4g}, weights up to "
            f"{max(_largest(b.layer.weight) for b in problem.branches):.4g}: no scale brings them all into range of "
            f"{problem.model.describe()}",
            fix=problem.model.scale_advice,
        )
    for exponent in [e for e, _ in _ranked(found)[:EXPONENTS_KEPT]]:
        for clip in CLIPS:
            tried(exponent, dict.fromkeys(names, clip))
    # One synapse alone has had its clips above; where only the own grid of the weights fits there is none to vary.
    for i in range(len(names) if found and len(names) > 1 else 0):
        exponent, clips = _ranked(found)[0]
        for clip in CLIPS:
            tried(exponent, dict(zip(names, (*clips[:i], clip, *clips[i + 1 :]), strict=True)))
    candidates = [*exact, *found.values()]
    good = sorted(candidates, key=lambda q: q.cost)[:CORRECTED]
    candidates += [c for q in good if (c := _bias_corrected(problem, q)) is not None]
    best = preferred(candidates)
    others = sorted((q for q in candidates if q is not best and q.proved >= best.proved), key=lambda q: q.cost)
    return [best, *others][:SHORTLIST]


def _ranked(found: Mapping[tuple[int, tuple[float, ...]], Quantized]) -> list[tuple[int, tuple[float, ...]]]:
    return sorted(found, key=lambda key: found[key].cost)


def preferred(candidates: Iterable[Quantized]) -> Quantized:
    """The cheapest candidate, or the cheapest proved one where it costs little more."""
    ranked = sorted(candidates, key=lambda q: q.cost)
    proved = [q for q in ranked if q.proved]
    if proved and proved[0].cost[0] <= ranked[0].cost[0] * PROOF_PREFERENCE:
        return proved[0]
    return ranked[0]


def _candidate(problem: Problem, exponent: int, clips: Mapping[str, float]) -> Quantized | None:
    """The population at the scale that stretches the grid, shifted by ``exponent``, over the clipped weights."""
    weights = problem.target.weights
    kept = {b.name: clips[b.name] * _largest(b.layer.weight) for b in problem.branches}
    largest = max(kept.values()) or float(np.max(np.abs(problem.bias), initial=0.0)) or 1.0
    unit = snapped(largest / (weights.maximum * 2.0**exponent), problem.model)
    exponents, integers = {}, {}
    for branch in problem.branches:
        reach = kept[branch.name] / (unit * weights.maximum)
        # A hair above a power of two is clipped by that hair: snapping the unit to the threshold moved it there.
        shift = min(weights.exponent_max, max(0, math.ceil(math.log2(reach) - SNAP_SLACK))) if reach > 0 else 0
        exponents[branch.name] = shift
        integers[branch.name] = on_grid(branch.layer.weight / unit, shift, weights, problem.bits)
    return evaluated(problem, unit, integers, exponents, problem.bias)


def _on_own_grid(problem: Problem, exponent: int) -> Quantized | None:
    """The population with no weight rounded, where all weights are small multiples of one number; None elsewhere."""
    weights, branches = problem.target.weights, problem.branches
    step = weights.step(problem.bits)
    values = np.unique(np.abs(np.concatenate([b.layer.weight.ravel() for b in branches])))
    values = values[values > 0]
    if not values.size:
        return None
    for divisor in OWN_GRID_DIVISORS:
        multiples = values * (divisor / values[0])
        if np.abs(multiples - np.rint(multiples)).max() < OWN_GRID_SLACK and multiples[-1] * step <= weights.maximum:
            own = values[0] / divisor
            integers = {b.name: np.rint(b.layer.weight / own).astype(np.int64) * step << exponent for b in branches}
            exponents = dict.fromkeys(integers, exponent)
            return evaluated(problem, float(own) / (step << exponent), integers, exponents, problem.bias)
    return None


def snapped(unit: float, model: FloatNeuron) -> float:
    """The nearest unit of which the threshold is a whole number, where there is one threshold; else ``unit``."""
    if model.integrates_only:
        return unit
    per_unit = np.unique(model.v_threshold / model.input_gain)
    if len(per_unit) != 1 or per_unit[0] <= 0:
        return unit
    return float(per_unit[0] / max(1, round(per_unit[0] / unit)))


def on_grid(values: Array, exponent: int, weights: Weights, bits: int) -> Array:
    """Values rounded to mantissa · 2**exponent, the mantissa on the legal grid of ``bits`` bits."""
    step = weights.step(bits)
    mantissa = np.clip(np.rint(values / (step << exponent)) * step, weights.minimum, weights.maximum // step * step)
    # Dozens of candidates are held at a time: 32 bits where they do.
    narrow = max(weights.maximum, -weights.minimum) << exponent < 2**31
    return cast(Array, mantissa.astype(np.int32 if narrow else np.int64) << exponent)


def evaluated(
    problem: Problem, unit: float, weights: dict[str, Array], exponents: dict[str, int], bias: Array
) -> Quantized | None:
    """The candidate with its measurements; None where a number leaves its register."""
    layers = {b.name: dataclasses.replace(b.layer, weight=weights[b.name], bias=None) for b in problem.branches}
    span = reach({b.name: sum_range(layers[b.name], b.source) for b in problem.branches}, problem.pooled)
    outside, back = _sums(problem, layers, exponents)
    return judged(problem, unit, bias, span, outside, back, weights, exponents)


def judged(
    problem: Problem,
    unit: float,
    bias: Array,
    span: Range,
    outside: Array,
    back: Iterable[Synapse] = (),
    weights: dict[str, Array] | None = None,
    exponents: dict[str, int] | None = None,
) -> Quantized | None:
    """The population run in integers on the sums it is fed from ``outside`` [N, T, ...] and through ``back``.

    Args:
        span: smallest and largest sum any input can cause.
    """
    target, arithmetic = problem.target, problem.target.arithmetic
    neuron = problem.model.quantized(bias, unit, target.limits, arithmetic)
    if not neuron.representable(target.limits, arithmetic):
        return None
    worst = neuron.bounds(span, arithmetic, problem.steps)
    register = register_limits(arithmetic, target.limits.accumulator_bits)
    proved = all(getattr(worst, name) <= limit for name, limit in register.items())
    sums, spikes, observed = run_population(outside, back, neuron, arithmetic)
    if not proved and any(getattr(observed, name) * HEADROOM > limit for name, limit in register.items()):
        return None
    scale = float(np.abs(problem.sums).mean()) or 1.0
    error = float(np.abs(sums * unit - problem.sums).mean()) / scale
    if problem.model.integrates_only:
        worth = problem.model.input_gain * unit / (1 << arithmetic.input_shift)
        reach = float(np.abs(problem.spikes).mean()) or 1.0
        differing = drift = float(np.abs(spikes * worth - problem.spikes).mean()) / reach
    else:
        differing = float(np.mean(spikes != problem.spikes))
        drift = float(np.abs(spikes.mean(axis=1) - problem.spikes.mean(axis=1)).mean())
    return Quantized(unit, weights or {}, exponents or {}, neuron, worst, observed, proved, differing, drift, error)


def _sums(problem: Problem, layers: dict[str, Any], exponents: Mapping[str, int]) -> tuple[Array, list[Synapse]]:
    """What reaches the population from outside [N, T, ...], and the synapses through which it feeds itself."""
    shape = problem.spikes.shape
    outside: dict[str, Array] = {}
    back: list[Synapse] = []
    for branch in problem.branches:
        layer = layers[branch.name]
        if branch.inputs is None:
            back.append(partial(_through, layer))
        else:
            outside[branch.name] = _delivered(layer, exponents[branch.name], branch.inputs)
    return summed(outside, problem.pooled) if outside else np.zeros(shape, dtype=np.int64), back


def _delivered(layer: Linear | Conv, exponent: int, inputs: Array) -> Array:
    """What a synapse, whose weights are multiples of 2**exponent, makes of its inputs [N, T, ...]."""
    parts, flat = [], inputs.reshape(-1, *inputs.shape[2:])
    for steps, part in _by_delay(dataclasses.replace(layer, weight=layer.weight >> exponent)):
        found = exact_sums(part, flat) << exponent
        parts.append(late(found.reshape(*inputs.shape[:2], *found.shape[1:]), steps))
    return sum(parts[1:], start=parts[0])


def _by_delay(layer: Linear | Conv) -> list[tuple[int, Linear | Conv]]:
    """The synapses of each delay, in steps."""
    if not isinstance(layer, Linear) or layer.delay is None:
        return [(0, layer)]
    return [
        (int(steps), dataclasses.replace(layer, weight=layer.weight * (layer.delay == steps), delay=None))
        for steps in np.unique(layer.delay)
    ]


def _through(layer: Layer, spikes: Array) -> Array:
    return cast(Array, apply(layer, [spikes], _OPS))


def run_population(
    outside: Array, back: Iterable[Synapse], neuron: IntegerNeuron, arithmetic: Arithmetic
) -> tuple[Array, Array, Bounds]:
    """The population alone in integers: (summed input, output), each [N, T, ...], and the largest magnitudes."""
    samples, steps = outside.shape[:2]
    state = neuron.start((samples, *outside.shape[2:]))
    sums, out = np.empty_like(outside), np.empty_like(outside)
    previous = np.zeros_like(outside[:, 0])
    peak_u = peak_v = 0
    for t in range(steps):
        sums[:, t] = sum((synapse(previous) for synapse in back), start=outside[:, t])
        state, previous = neuron.step(state, sums[:, t], arithmetic)
        out[:, t] = previous
        peak_u = max(peak_u, int(np.abs(state["u"]).max(initial=0)))
        peak_v = max(peak_v, int(np.abs(state["v"]).max(initial=0)))
    return sums, out, Bounds(int(np.abs(sums).max(initial=0)), peak_u, peak_v)


def _bias_corrected(problem: Problem, best: Quantized) -> Quantized | None:
    """The candidate with each channel's mean error of the summed input taken back through the bias."""
    layers = {b.name: dataclasses.replace(b.layer, weight=best.weights[b.name], bias=None) for b in problem.branches}
    outside, back = _sums(problem, layers, best.exponents)
    sums, _, _ = run_population(outside, back, best.neuron, problem.target.arithmetic)
    error = sums * best.unit - problem.sums
    axes = (0, 1, *range(3, error.ndim))
    shift = error.mean(axis=axes).reshape(-1, *(1,) * (error.ndim - 3))
    candidate = evaluated(problem, best.unit, best.weights, best.exponents, problem.bias - shift)
    return None if candidate is None else dataclasses.replace(candidate, corrected=True)


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0.0))
