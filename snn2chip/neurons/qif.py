"""The quadratic integrate-and-fire neuron in discrete time (S003 Eq. 11 to 15, and Eq. 22's extra term).

Float, one step:

    h[t] = a·(v[t−1] − v_rest)·(v[t−1] − v_critical) + g·x[t]     Eq. 12; with ``carries`` also + v[t−1], Eq. 22
    s[t] = h[t] ≥ θ                                               Eq. 13, Θ(0) = 1
    v[t] = h[t]·(1 − s[t]) + v_reset·s[t]                         Eq. 14, 15: in the step of the spike, to v_rest

The map is not monotone: below ``v_rest`` it rises again, so that a strongly inhibited neuron rebounds and may fire
without input (with the paper's a = 0.25, v_critical = 0.5: from v ≤ −1.186), and what is far below comes back far
above. The integer form therefore never drops high bits of the square: it is exact until it is shifted once, and the
register then saturates as the chip's does.

Integer: see :func:`integer_step`. In membrane units of m, a·(v − r)(v − c) becomes M·(V − R)(V − C) / 2**shift with
M / 2**shift ≈ a·m and M of 14 bits in a core of 24-bit states. The product fits 63 bits: |V − R|, |V − C| < 2**B with
B the bits of the register, and M < 2**(62 − 2B).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.target import Limits
from snn2chip.neurons.arithmetic import fit, meets, shift_right
from snn2chip.neurons.base import (
    ArrayNamespace,
    Bounds,
    Fire,
    FloatNeuron,
    IntegerNeuron,
    Operations,
    Range,
    State,
    constant,
    hold,
    values,
)
from snn2chip.neurons.fixed_point import bias_mantissa, factor, membrane_mantissa
from snn2chip.neurons.lif import IntegerLIF

_KIND = "QIF"


@dataclass(frozen=True, eq=False)
class QIF(FloatNeuron):
    """A float quadratic neuron; the defaults are the paper's.

    Args:
        v_threshold: θ.
        a: curvature, > 0.
        v_rest, v_critical: the zeros of the square, v_rest < v_critical.
        carries: whether the membrane itself is added (Euler's method, Eq. 22; the paper's experiments drop it).
        gain: factor on the input.
        fire: "≥" in the paper.
        reset: "hard" to ``v_reset``, or "soft": minus θ.
        v_reset: None: v_rest.
        v_start: membrane before the first step.
        spike_value: what a spike is worth to the next layer.
    """

    v_threshold: Array
    a: Array = field(default_factory=constant(0.25))
    v_rest: Array = field(default_factory=constant(0.0))
    v_critical: Array = field(default_factory=constant(0.5))
    carries: bool = False
    gain: Array = field(default_factory=constant(1.0))
    fire: Fire = ">="
    reset: Literal["hard", "soft"] = "hard"
    v_reset: Array | None = None
    v_start: Array = field(default_factory=constant(0.0))
    spike_value: float = 1.0
    kind = _KIND

    def __post_init__(self) -> None:
        hold(self, np.float64, "v_threshold", "a", "v_rest", "v_critical", "gain", "v_reset", "v_start")

    @property
    def reset_to(self) -> Array:
        """Where a hard reset goes."""
        return self.v_rest if self.v_reset is None else self.v_reset

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        super().check(shape)
        if not (np.isfinite(self.v_threshold).all() and (self.a > 0).all() and (self.v_rest < self.v_critical).all()):
            raise S2CError(
                f"a quadratic neuron with a = {values(self.a)}, v_rest = {values(self.v_rest)}, "
                f"v_critical = {values(self.v_critical)}, v_threshold = {values(self.v_threshold)}",
                why="a must be positive, v_rest below v_critical, and the threshold a number",
            )

    def describe(self) -> str:
        """Every choice, in one line."""
        square = f"{values(self.a)}·(v − {values(self.v_rest)})(v − {values(self.v_critical)})"
        parts = [square + (" + v" if self.carries else ""), f"v {self.fire} {values(self.v_threshold)}"]
        parts.append(f"hard reset to {values(self.reset_to)}" if self.reset == "hard" else "soft reset")
        if (self.gain != 1).any():
            parts.append(f"gain {values(self.gain)}")
        return ", ".join(parts)

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """State before the first step for input like ``x`` [N, ...]."""
        return {"v": xp.full_like(x, 0.0) + xp.const(self.v_start, x)}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step, in the order of Eq. 12 to 15."""
        v, theta = state["v"], xp.const(self.v_threshold, x)
        square = xp.const(self.a, x) * (v - xp.const(self.v_rest, x)) * (v - xp.const(self.v_critical, x))
        h = (v + square if self.carries else square) + self.scaled_input(x, xp)
        fired = meets(h, theta, self.fire)
        after = xp.const(self.reset_to, x) + 0 * h if self.reset == "hard" else h - theta
        out = xp.where(fired, xp.full_like(h, self.spike_value), xp.full_like(h, 0.0))
        return {"v": xp.where(fired, after, h), "h": h}, out

    def operations(self) -> Operations:
        """S003 §5.2: two multiplications and three additions; v_rest = 0 saves one, the extra term costs one."""
        return Operations(2, 2 + int(bool(self.v_rest.any())) + int(self.carries) + int(self.reset == "soft"))

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerQIF:
        """See :meth:`FloatNeuron.quantized`."""
        fine = unit / (1 << arithmetic.input_shift)
        membrane = self.gain * fine
        bias_held, exponent = bias_mantissa(bias / fine, limits)
        mantissa, shift = factor(self.a * membrane, 62 - 2 * arithmetic.voltage_bits)
        return IntegerQIF(
            v_threshold=membrane_mantissa(self.v_threshold / membrane, arithmetic),
            mantissa=mantissa,
            shift=shift,
            v_rest=np.rint(self.v_rest / membrane),
            v_critical=np.rint(self.v_critical / membrane),
            bias=bias_held,
            bias_exp=exponent,
            carries=self.carries,
            fire=self.fire,
            reset=self.reset,
            v_reset=np.rint(self.reset_to / membrane),
            v_start=np.rint(self.v_start / membrane),
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Of a, relative."""
        membrane = self.gain * unit / (1 << arithmetic.input_shift)
        return float(np.max(np.abs(neuron.mantissa / 2.0**neuron.shift / (self.a * membrane) - 1)))


@dataclass(frozen=True, eq=False)
class IntegerQIF(IntegerNeuron):
    """The same neuron on the chip; every array int64, broadcasting against the population's shape.

    Args:
        v_threshold: mantissa; compared as ``v_threshold << threshold_shift``.
        mantissa, shift: the square is multiplied by mantissa / 2**shift.
        v_rest, v_critical, v_reset, v_start: in the membrane's unit.
        bias, bias_exp: ``bias << bias_exp`` is added to the membrane at every step.
    """

    v_threshold: Array
    mantissa: Array
    shift: int
    v_rest: Array
    v_critical: Array
    bias: Array
    bias_exp: int = 6
    carries: bool = False
    fire: Fire = ">="
    reset: Literal["hard", "soft"] = "hard"
    v_reset: Array = field(default_factory=constant(0))
    v_start: Array = field(default_factory=constant(0))
    kind = _KIND

    def __post_init__(self) -> None:
        hold(self, np.int64, "v_threshold", "mantissa", "v_rest", "v_critical", "bias", "v_reset", "v_start")

    def describe(self) -> str:
        """Every choice, in one line."""
        square = f"{values(self.mantissa)}·(v − {values(self.v_rest)})(v − {values(self.v_critical)}) >> {self.shift}"
        reset = f"hard reset to {values(self.v_reset)}" if self.reset == "hard" else "soft reset"
        return f"{square}{' + v' if self.carries else ''}, v {self.fire} {values(self.v_threshold)}, {reset}"

    def operations(self) -> Operations:
        """Two multiplications; two differences, input, bias, and what else is added."""
        return Operations(2, 4 + int(self.carries) + int(self.reset == "soft"))

    def representable(self, limits: Limits, arithmetic: Arithmetic) -> bool:
        """Whether the parameters fit, those of the square included, and no product can leave 63 bits."""
        half = 1 << (arithmetic.voltage_bits - 1)
        states = (self.v_rest, self.v_critical, self.v_reset, self.v_start)
        return (
            super().representable(limits, arithmetic)
            and 0 <= self.shift < 63
            and bool((self.mantissa > 0).all() and (self.mantissa >> (62 - 2 * arithmetic.voltage_bits) == 0).all())
            and all(bool((np.abs(x) < half).all()) for x in states)
        )

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """With the slope that the parabola has at rest."""
        one = 1 << arithmetic.decay_bits
        slope = self.mantissa * (self.v_rest - self.v_critical) / 2.0**self.shift + int(self.carries)
        return IntegerLIF(
            self.v_threshold,
            np.rint((1 - np.clip(slope, 0, 1)) * one),
            np.asarray(one),
            self.bias,
            self.bias_exp,
            fire=self.fire,
            reset=self.reset,
            v_reset=self.v_reset,
            v_start=self.v_start,
        )

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """The image of an interval: a parabola is extreme at its ends and its vertex."""
        p = self.parameters(arithmetic)
        limit = (1 << (arithmetic.voltage_bits - 1)) - 1
        u_low, u_high = min(sums[0], 0) << arithmetic.input_shift, max(sums[1], 0) << arithmetic.input_shift
        slope = (1 << self.shift) if self.carries else 0
        vertex = ((self.v_rest + self.v_critical) * self.mantissa - slope) // (2 * self.mantissa)
        theta = p["threshold"]
        low = high = self.v_start
        peak = int(np.max(np.abs(low), initial=0))
        for _ in range(steps):
            points = (low, high, *(np.clip(vertex + i, low, high) for i in (0, 1)))
            images = [driven(v, p) for v in points]
            # Rounding may put the extreme of parabola and line a unit beside the vertex.
            low = np.minimum.reduce(np.broadcast_arrays(*images)) - 2 + u_low
            high = np.maximum.reduce(np.broadcast_arrays(*images)) + 2 + u_high
            peak = max(peak, int(np.max(-low)), int(np.max(high)))
            low, high = np.clip(low, -limit, limit), np.clip(high, -limit, limit)
            fires = high >= theta
            kept = np.minimum(high, theta)
            if self.reset == "hard":
                low, high = (np.where(fires, f(x, self.v_reset), x) for f, x in ((np.minimum, low), (np.maximum, kept)))
            else:
                low, high = np.where(fires, np.minimum(low, 0), low), np.maximum(kept, high - theta)
        return Bounds(max(abs(sums[0]), abs(sums[1])), max(-u_low, u_high), peak)


def driven(v: Any, p: dict[str, Any]) -> Any:
    """What one step makes of the membrane, without the input."""
    square = (v - p["v_rest"]) * (v - p["v_critical"]) * p["mantissa"]
    h = shift_right(square, p["shift"], p["decay_rounding"]) + p["bias"]
    return h + v if p["carries"] else h


def integer_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step of the quadratic neuron in fixed point: (u, v after reset; spikes 0/1)."""
    theta = p["threshold"]
    u = fit(a << p["input_shift"], p["current_bits"], p["current_overflow"])
    h = fit(driven(state["v"], p) + u, p["voltage_bits"], p["voltage_overflow"])
    fired = meets(h, theta, p["fire"])
    after = p["v_reset"] if p["reset"] == "hard" else h - theta
    return {"u": u, "v": np.where(fired, after, h)}, np.where(fired, 1, 0)


IntegerQIF.program = (driven, integer_step)
