"""The two-phase probabilistic neuron (S001 Eq. 7, Alg. 3).

A population first gathers, then fires. With T steps a phase, phase 1 beginning at step ``first`` of the sample:

    v[t] = v[t−1] + x[t]                                                    first ≤ t < first + T
    s[t] ~ Bernoulli(clip(v[t−1] / (θ·r), 0, 1)),  r = first + 2T − t       first + T ≤ t < first + 2T
    v[t] = v[t−1] − θ·s[t]

r counts the steps that are left, T at first, 1 at last. Input outside phase 1 is not taken, bias included. In a
network of such layers the l-th has ``first`` = (l − 1)·T, and a sample takes (L + 1)·T steps (S001 §3.2). With
``v_threshold`` = inf it gathers and never fires: a read-out that counts its bias T times like every other layer.

Every neuron draws from a generator of its own, x ← (A·x + C) mod 2**31 (Hull and Dobell's conditions give it the full
period), of which the upper 24 bits are the draw: U = draw / 2**24, and the neuron fires where U·θ·r < v. So the
probability is that of Eq. 7 to 2**−24, and no division is left. Float and integer neuron, simulator and emitted
process draw the same numbers. The generators start anew with every sample, as all state does: samples do not depend
on their order, and chance is averaged over neurons and over seeds, not over repetitions. Give every layer its own seed.

Integer: see :func:`integer_step`. Products stay below 2**62: draw < 2**24, θ < 2**23 and r ≤ 2**15; v·2**24 < 2**47;
A and x < 2**31.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.target import Limits
from snn2chip.neurons.arithmetic import fit
from snn2chip.neurons.base import (
    ArrayNamespace,
    Bounds,
    FloatNeuron,
    IntegerNeuron,
    Operations,
    Range,
    State,
    hold,
    values,
)
from snn2chip.neurons.fixed_point import bias_mantissa, membrane_mantissa
from snn2chip.neurons.lif import IntegerLIF

# A and C of the generator that the C standard gives as its example (ISO/IEC 9899, rand).
MULTIPLIER, INCREMENT = 1103515245, 12345
MASK = (1 << 31) - 1
# The lower bits of such a generator have short periods.
DROPPED, DRAW_BITS = 7, 24
_LONGEST = 1 << 15


def generator_starts(seed: int, shape: Shape) -> Array:
    """Where the generators of a population of ``shape`` start: int64 in [0, 2**31), as numpy spreads one seed."""
    spread = np.random.SeedSequence(seed).generate_state(math.prod(shape), np.uint32)
    return (spread >> np.uint32(1)).astype(np.int64).reshape(shape)


def _described(neuron: TPP | IntegerTPP, gathers_only: bool) -> str:
    gather = f"gathers at steps {neuron.first}…{neuron.first + neuron.phase_steps - 1}"
    if gathers_only:
        return gather
    threshold = values(neuron.v_threshold)
    return f"{gather}, then fires {neuron.phase_steps} steps, v_threshold {threshold}, seed {neuron.seed}"


@dataclass(frozen=True, eq=False)
class TPP(FloatNeuron):
    """A float two-phase neuron.

    Args:
        v_threshold: θ; inf: it gathers, its output is the membrane.
        phase_steps: T, the steps of a phase.
        seed: of its generators; every layer needs its own.
        first: step of the sample at which phase 1 begins.
        spike_value: what a spike is worth to the next layer: θ in S001 Eq. 1, 1 where θ went into its weights.
    """

    v_threshold: Array
    phase_steps: int
    seed: int
    first: int = 0
    spike_value: float = 1.0

    def __post_init__(self) -> None:
        hold(self, np.float64, "v_threshold")

    @property
    def kind(self) -> str:  # type: ignore[override]
        """TPP, or TPPLI where it only gathers."""
        return "TPPLI" if self.integrates_only else "TPP"

    @property
    def integrates_only(self) -> bool:
        """Whether it never fires."""
        return bool(np.isinf(self.v_threshold).all())

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        super().check(shape)
        if not (self.v_threshold > 0).all() or bool(np.isinf(self.v_threshold).any()) != self.integrates_only:
            raise S2CError(
                f"a two-phase neuron with v_threshold = {values(self.v_threshold)}", why="it must be positive"
            )
        if self.phase_steps < 1 or self.first < 0 or self.first + 2 * self.phase_steps > _LONGEST or self.seed < 0:
            raise S2CError(
                f"a two-phase neuron with phase_steps = {self.phase_steps}, first = {self.first}, seed = {self.seed}",
                why=f"phases have at least one step, end by step {_LONGEST}, and seeds are not negative",
            )

    def describe(self) -> str:
        """Every choice, in one line."""
        return _described(self, self.integrates_only)

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """State before the first step for input like ``x`` [N, ...]: ``t`` counts steps, ``generator`` draws."""
        starts = generator_starts(self.seed, tuple(x.shape[1:]))
        return {"v": xp.full_like(x, 0.0), "t": 0, "generator": xp.integers(starts, x)}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step; ``h`` is the membrane per draw and step left, which met θ, within ±2θ."""
        v, t = state["v"], state["t"]
        generator = (state["generator"] * MULTIPLIER + INCREMENT) & MASK
        new = {"t": t + 1, "generator": generator}
        zero, left = xp.full_like(x, 0.0), self.first + 2 * self.phase_steps - t
        if self.first <= t < self.first + self.phase_steps:
            v = v + x
        if self.integrates_only:
            return {**new, "v": v, "h": v}, v
        if not (t >= self.first + self.phase_steps and left > 0):
            return {**new, "v": v, "h": zero}, zero
        theta, draw = xp.const(self.v_threshold, x), zero + (generator >> DROPPED)
        scaled = v * 2.0**DRAW_BITS
        spike = xp.where(draw * theta * left < scaled, zero + 1, zero)
        h = scaled / xp.where(draw > 0, draw * left, zero + 1)
        h = xp.where(h > 2 * theta, 2 * theta, xp.where(h < -2 * theta, -2 * theta, h))
        return {**new, "v": v - theta * spike, "h": h}, self.spike_value * spike

    def operations(self) -> Operations:
        """The generator's and the test's multiplications; input, increment, and the threshold taken off."""
        return Operations(0, 1) if self.integrates_only else Operations(3, 3)

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerTPP:
        """See :meth:`FloatNeuron.quantized`."""
        fine = unit / (1 << arithmetic.input_shift)
        mantissa, exponent = bias_mantissa(bias / fine, limits)
        return IntegerTPP(
            v_threshold=None if self.integrates_only else membrane_mantissa(self.v_threshold / fine, arithmetic),
            phase_steps=self.phase_steps,
            seed=self.seed,
            first=self.first,
            bias=mantissa,
            bias_exp=exponent,
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """None: it has no factors."""
        return 0.0


@dataclass(frozen=True, eq=False)
class IntegerTPP(IntegerNeuron):
    """The same neuron on the chip; every array int64, broadcasting against the population's shape.

    Args:
        v_threshold: mantissa; ``v_threshold << threshold_shift`` is θ. None: it gathers, its output is v.
        phase_steps, seed, first: as the float neuron's.
        bias, bias_exp: ``bias << bias_exp`` is added to the membrane at every step of phase 1.
    """

    v_threshold: Array | None
    phase_steps: int
    seed: int
    first: int
    bias: Array
    bias_exp: int = 6

    def __post_init__(self) -> None:
        hold(self, np.int64, "v_threshold", "bias")

    @property
    def kind(self) -> str:  # type: ignore[override]
        """TPP, or TPPLI where it only gathers."""
        return "TPPLI" if self.v_threshold is None else "TPP"

    def describe(self) -> str:
        """Every choice, in one line."""
        return _described(self, self.v_threshold is None)

    def parameters(self, arithmetic: Arithmetic) -> dict[str, Any]:
        """See :meth:`IntegerNeuron.parameters`."""
        return {
            **super().parameters(arithmetic),
            "multiplier": MULTIPLIER,
            "increment": INCREMENT,
            "mask": MASK,
            "dropped": DROPPED,
            "draw_bits": DRAW_BITS,
        }

    def start(self, shape: Shape) -> State:
        """Membrane and step count zero, and the generators, the same for every sample."""
        zero = np.zeros(shape, dtype=np.int64)
        return {"u": zero, "v": zero, "t": zero, "generator": zero + generator_starts(self.seed, tuple(shape[1:]))}

    def operations(self) -> Operations:
        """As the float neuron, the bias and the step count beside it."""
        return Operations(0, 3) if self.v_threshold is None else Operations(3, 6)

    def representable(self, limits: Limits, arithmetic: Arithmetic) -> bool:
        """Whether the parameters fit, and no product can leave 62 bits."""
        fits = super().representable(limits, arithmetic) and arithmetic.voltage_bits <= 38
        return fits and (
            self.v_threshold is None or bool((self.v_threshold << arithmetic.threshold_shift < 1 << 23).all())
        )

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """An integrator with soft reset: no phases, no chance."""
        keeps_no_current = np.asarray(1 << arithmetic.decay_bits)
        return IntegerLIF(self.v_threshold, np.zeros(()), keeps_no_current, self.bias, self.bias_exp, reset="soft")

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """What phase 1 can gather; from then on a spike takes a positive membrane down, by one threshold at most."""
        gathered = max(0, min(self.phase_steps, steps - self.first))
        u_low, u_high = min(sums[0], 0) << arithmetic.input_shift, max(sums[1], 0) << arithmetic.input_shift
        low = gathered * (u_low + min(0, int(np.min(self.membrane_bias))))
        high = gathered * (u_high + max(0, int(np.max(self.membrane_bias))))
        theta = 0 if self.v_threshold is None else int(np.max(self.v_threshold)) << arithmetic.threshold_shift
        return Bounds(max(abs(sums[0]), abs(sums[1])), max(-u_low, u_high), max(-low, high, theta))


def integer_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step of the two-phase neuron in fixed point: (u, v, step count, generator; spikes 0/1 or the membrane)."""
    t, last = state["t"], p["first"] + 2 * p["phase_steps"]
    generator = (state["generator"] * p["multiplier"] + p["increment"]) & p["mask"]
    gathers = (t >= p["first"]) & (t < p["first"] + p["phase_steps"])
    u = fit(np.where(gathers, a << p["input_shift"], 0), p["current_bits"], p["current_overflow"])
    v = state["v"] + u + np.where(gathers, p["bias"], 0)
    v = fit(v, p["voltage_bits"], p["voltage_overflow"])
    new = {"u": u, "v": v, "t": t + 1, "generator": generator}
    if not p["fires"]:
        return new, v
    left = np.maximum(last - t, 0)
    draw = generator >> p["dropped"]
    in_phase = (t >= p["first"] + p["phase_steps"]) & (t < last)
    fired = in_phase & (draw * p["threshold"] * left < v << p["draw_bits"])
    return {**new, "v": np.where(fired, v - p["threshold"], v)}, np.where(fired, 1, 0)


IntegerTPP.program = (integer_step,)
