"""LIF with ternary spikes: it fires 1 at θ and −1 at −θ.

Float, one step (the ternary spike that S002 Tab. 1 compares with; a learned amplitude is ``spike_value``):

    h[t] = β·v[t−1] + g·x[t]
    s[t] = 1 where h[t] ≥ θ,  −1 where h[t] ≤ −θ,  else 0      strictly beyond with fire = ">"
    v[t] = h[t]·(1 − |s[t]|) + v_reset·|s[t]|                   "hard";   h[t] − θ·s[t]   "soft"

Integer: see :func:`integer_step`. Its one product is a state times a decay: below 2**(B + decay_bits) for a register
of B bits, 36 bits on Loihi.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.target import Limits
from snn2chip.neurons.arithmetic import decayed, fit, meets
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
    reset_in_words,
    values,
)
from snn2chip.neurons.fixed_point import bias_mantissa, decay_error, decay_mantissa, membrane_mantissa
from snn2chip.neurons.lif import IntegerLIF

_KIND = "TernaryLIF"


@dataclass(frozen=True, eq=False)
class TernaryLIF(FloatNeuron):
    """A float LIF with spikes of both signs.

    Args:
        v_threshold: θ.
        decay: β, the factor on the membrane.
        gain: factor on the input.
        fire: "≥" or ">", of the magnitude.
        reset: "hard" to ``v_reset``, "soft": minus θ times the spike, or "none".
        v_reset: where a hard reset goes.
        spike_value: what a spike of 1 is worth to the next layer.
    """

    v_threshold: Array
    decay: Array = field(default_factory=constant(1.0))
    gain: Array = field(default_factory=constant(1.0))
    fire: Fire = ">="
    reset: Literal["hard", "soft", "none"] = "hard"
    v_reset: Array = field(default_factory=constant(0.0))
    spike_value: float = 1.0
    kind = _KIND
    spikes: ClassVar[Range] = (-1, 1)

    def __post_init__(self) -> None:
        hold(self, np.float64, "v_threshold", "decay", "gain", "v_reset")

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        super().check(shape)
        if (
            not (np.isfinite(self.v_threshold) & (self.v_threshold > 0)).all()
            or not ((self.decay >= 0) & (self.decay <= 1)).all()
        ):
            raise S2CError(
                f"a ternary neuron with v_threshold = {values(self.v_threshold)}, decay = {values(self.decay)}",
                why="the threshold must be a positive number and the decay lie in [0, 1]",
            )

    def describe(self) -> str:
        """Every choice, in one line."""
        parts = [
            f"decay {values(self.decay)}",
            f"|v| {self.fire} {values(self.v_threshold)}",
            reset_in_words(self.reset, v_reset=self.v_reset),
        ]
        if (self.gain != 1).any():
            parts.append(f"gain {values(self.gain)}")
        return ", ".join(parts)

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """State before the first step for input like ``x`` [N, ...]."""
        return {"v": xp.full_like(x, 0.0)}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step; ``h`` is the magnitude of the membrane, which met θ."""
        theta, zero = xp.const(self.v_threshold, x), xp.full_like(x, 0.0)
        h = xp.const(self.decay, x) * state["v"] + self.scaled_input(x, xp)
        up, down = meets(h, theta, self.fire), meets(-h, theta, self.fire)
        sign = xp.where(up, zero + 1, xp.where(down, zero - 1, zero))
        v = h
        if self.reset == "hard":
            v = xp.where(sign != 0, xp.const(self.v_reset, x) + zero, h)
        elif self.reset == "soft":
            v = h - theta * sign
        return {"v": v, "h": xp.where(h < 0, -h, h)}, self.spike_value * sign

    def operations(self) -> Operations:
        """One multiply-add where it decays; a soft reset is an addition more."""
        return Operations(int(bool((self.decay != 1).any())), 1 + int(self.reset == "soft"))

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerTernaryLIF:
        """See :meth:`FloatNeuron.quantized`."""
        fine = unit / (1 << arithmetic.input_shift)
        mantissa, exponent = bias_mantissa(bias / fine, limits)
        return IntegerTernaryLIF(
            v_threshold=membrane_mantissa(self.v_threshold / (self.gain * fine), arithmetic),
            decay_v=decay_mantissa(self.decay, arithmetic),
            bias=mantissa,
            bias_exp=exponent,
            fire=self.fire,
            reset=self.reset,
            v_reset=np.rint(self.v_reset / (self.gain * fine)),
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Of the decay, absolute."""
        return decay_error(neuron.decay_v, self.decay, arithmetic)


@dataclass(frozen=True, eq=False)
class IntegerTernaryLIF(IntegerNeuron):
    """The same neuron on the chip; every array int64, broadcasting against the population's shape.

    Args:
        v_threshold: mantissa; the magnitude is compared with ``v_threshold << threshold_shift``.
        decay_v: in 1/2**decay_bits; 0 keeps everything.
        bias, bias_exp: ``bias << bias_exp`` is added to the membrane at every step.
        v_reset: in the membrane's unit.
    """

    v_threshold: Array
    decay_v: Array
    bias: Array
    bias_exp: int = 6
    fire: Fire = ">="
    reset: Literal["hard", "soft", "none"] = "hard"
    v_reset: Array = field(default_factory=constant(0))
    kind = _KIND
    spikes: ClassVar[Range] = (-1, 1)

    def __post_init__(self) -> None:
        hold(self, np.int64, "v_threshold", "decay_v", "bias", "v_reset")

    def describe(self) -> str:
        """Every choice, in one line."""
        return f"decay v {values(self.decay_v)}, |v| {self.fire} {values(self.v_threshold)}, {self.reset} reset"

    def operations(self) -> Operations:
        """The decay is a multiplication whether or not it changes anything; input and bias are added."""
        return Operations(1, 2 + int(self.reset == "soft"))

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """Without its negative spikes."""
        keeps_no_current = np.asarray(1 << arithmetic.decay_bits)
        return IntegerLIF(
            self.v_threshold,
            self.decay_v,
            keeps_no_current,
            self.bias,
            self.bias_exp,
            fire=self.fire,
            reset=self.reset,
            v_reset=self.v_reset,
        )

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """Both sides alike: what fires is brought back, what does not lies within ±θ."""
        p = self.parameters(arithmetic)
        drift = 0 if arithmetic.decay_rounding == "zero" else 1
        keep = (1 << arithmetic.decay_bits) - int(np.min(self.decay_v))
        u = max(-min(sums[0], 0), max(sums[1], 0)) << arithmetic.input_shift
        bias, theta, v_reset = (int(np.max(np.abs(x), initial=0)) for x in (p["bias"], p["threshold"], self.v_reset))
        held = peak = 0
        for _ in range(steps):
            reached = (held * keep >> arithmetic.decay_bits) + drift + u + bias
            peak = max(peak, reached)
            after = {"hard": v_reset, "soft": max(reached - int(np.min(p["threshold"])), 0), "none": reached}
            held = max(min(reached, theta), after[self.reset] if reached >= np.min(p["threshold"]) else 0)
        return Bounds(max(abs(sums[0]), abs(sums[1])), u, peak)


def integer_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step of the ternary LIF in fixed point: (u, v after reset; spikes −1, 0, 1)."""
    theta = p["threshold"]
    u = fit(a << p["input_shift"], p["current_bits"], p["current_overflow"])
    h = decayed(state["v"], p["decay_v"], p["decay_bits"], p["decay_rounding"]) + u + p["bias"]
    h = fit(h, p["voltage_bits"], p["voltage_overflow"])
    up, down = meets(h, theta, p["fire"]), meets(-h, theta, p["fire"])
    spikes = np.where(up, 1, np.where(down, -1, 0))
    v = h
    if p["reset"] == "hard":
        v = np.where(spikes != 0, p["v_reset"], h)
    elif p["reset"] == "soft":
        v = np.where(up, h - theta, np.where(down, h + theta, h))
    return {"u": u, "v": v}, spikes


IntegerTernaryLIF.program = (integer_step,)
