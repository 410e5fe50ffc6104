"""LIF with an adaptive threshold: every spike raises it, and it falls back (S000 App. K names it without equations).

Float, one step (LSNN: Bellec et al. 2018, NeurIPS, and 2020, Nat. Commun. 11, 3625):

    i[t] = α·i[t−1] + x[t]              only with a synaptic current
    h[t] = β_m·v[t−1] + g·i[t]
    s[t] = h[t] ≥ θ + k·b[t−1]          the threshold that the spikes before t have left; ">" on request
    b[t] = ρ·b[t−1] + r·s[t]            r = 1 (2020) or 1 − ρ (2018)
    v[t] = v_reset where s[t] ("hard");  h[t] − θ·s[t] ("soft", 2020);  h[t] − (θ + k·b[t−1])·s[t] ("adaptive", 2018)

``reset_timing`` "next" resets the sum of the next step instead, with the threshold which that spike has raised (Yin et
al. 2021, Nat. Mach. Intell. 3, 905, and its code): h[t] = β_m·h[t−1] + g·i[t] − (θ + k·b[t−1])·s[t−1], "adaptive". The
state then is what met the fire test: the membrane as it was, and the adaptation from before its spike.

Integer: see :func:`integer_step`; b counts in the membrane's unit, k and r in what a spike adds. Its products are
states times decays, below 2**(B + decay_bits) for registers of B bits, 36 bits on Loihi.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
from snn2chip.neurons.fixed_point import bias_mantissa, decay_error, decay_mantissa, extremes, membrane_mantissa, span
from snn2chip.neurons.lif import IntegerLIF

AdaptiveReset = Literal["hard", "soft", "adaptive", "none"]
_KIND = "ALIF"


@dataclass(frozen=True, eq=False)
class ALIF(FloatNeuron):
    """A float LIF with adaptive threshold.

    Args:
        v_threshold: θ, the threshold at rest.
        decay: β_m, the factor on the membrane.
        adaptation_decay: ρ, the factor on the adaptation.
        adaptation_strength: k ≥ 0, from adaptation to threshold.
        adaptation_step: r ≥ 0, what a spike adds to the adaptation.
        gain: factor on the input of the membrane.
        current_decay: α of the synaptic current, or None for a neuron without one.
        fire: "≥" or ">".
        reset, reset_timing: see the module's text.
        v_reset: where a hard reset goes.
        spike_value: what a spike is worth to the next layer.
    """

    v_threshold: Array
    decay: Array
    adaptation_decay: Array
    adaptation_strength: Array
    adaptation_step: Array = field(default_factory=constant(1.0))
    gain: Array = field(default_factory=constant(1.0))
    current_decay: Array | None = None
    fire: Fire = ">="
    reset: AdaptiveReset = "hard"
    v_reset: Array = field(default_factory=constant(0.0))
    spike_value: float = 1.0
    reset_timing: Literal["same", "next"] = "same"
    kind = _KIND

    def __post_init__(self) -> None:
        names = ("v_threshold", "decay", "adaptation_decay", "adaptation_strength", "adaptation_step")
        hold(self, np.float64, *names, "gain", "current_decay", "v_reset")

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        super().check(shape)
        decays = (self.decay, self.adaptation_decay, *(() if self.current_decay is None else (self.current_decay,)))
        rises = (self.adaptation_strength, self.adaptation_step)
        if (
            not all(((d >= 0) & (d <= 1)).all() for d in decays)
            or not all((r >= 0).all() for r in rises)
            or not np.isfinite(self.v_threshold).all()
        ):
            raise S2CError(
                f"an adaptive neuron with {self.describe()}",
                why="decays must lie in [0, 1], a spike must not lower the threshold, which must be a number",
            )

    def describe(self) -> str:
        """Every choice, in one line."""
        rise = self.adaptation_strength * self.adaptation_step
        parts = [
            f"decay {values(self.decay)}",
            f"v {self.fire} {values(self.v_threshold)} + {values(rise)} a spike, decaying by "
            f"{values(self.adaptation_decay)}",
            reset_in_words(self.reset, self.reset_timing, self.v_reset),
        ]
        if self.current_decay is not None:
            parts.insert(0, f"current decay {values(self.current_decay)}")
        if (self.gain != 1).any():
            parts.append(f"gain {values(self.gain)}")
        return ", ".join(parts)

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """State before the first step for input like ``x`` [N, ...]."""
        zero = xp.full_like(x, 0.0)
        return {"v": zero, "b": zero} if self.current_decay is None else {"u": zero, "v": zero, "b": zero}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step; ``h`` is the membrane less what adaptation adds to the threshold."""
        rest, strength = xp.const(self.v_threshold, x), xp.const(self.adaptation_strength, x)
        zero, b, new = xp.full_like(x, 0.0), state["b"], {}

        def adapted(fired: Any) -> Any:
            step = xp.const(self.adaptation_step, x) * xp.where(fired, zero + 1, zero)
            return xp.const(self.adaptation_decay, x) * b + step

        late = self.reset_timing == "next"
        before = meets(state["v"], rest + strength * b, self.fire) if late else None
        if late:
            b = adapted(before)
        raised = strength * b
        theta = rest + raised
        if self.current_decay is not None:
            x = xp.const(self.current_decay, x) * state["u"] + x
            new["u"] = x
        h = xp.const(self.decay, x) * state["v"] + self.scaled_input(x, xp)
        if late:
            h = xp.where(before, self._after(h, rest, theta, xp), h)
        fired = meets(h, theta, self.fire)
        v = h if late else xp.where(fired, self._after(h, rest, theta, xp), h)
        spikes = xp.where(fired, zero + self.spike_value, zero)
        return {**new, "v": v, "b": b if late else adapted(fired), "h": h - raised}, spikes

    def _after(self, h: Any, rest: Any, theta: Any, xp: ArrayNamespace) -> Any:
        """What the reset makes of a membrane."""
        return {"hard": xp.const(self.v_reset, h) + 0 * h, "soft": h - rest, "adaptive": h - theta, "none": h}[
            self.reset
        ]

    def operations(self) -> Operations:
        """A multiply-add for every decaying state, the threshold's sum, and what the reset subtracts."""
        states = int(bool((self.decay != 1).any())) + 1 + int(self.current_decay is not None)
        return Operations(states, states + 1 + int(self.reset in ("soft", "adaptive")))

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerALIF:
        """See :meth:`FloatNeuron.quantized`."""
        fine = unit / (1 << arithmetic.input_shift)
        membrane, in_current = self.gain * fine, self.current_decay is not None
        mantissa, exponent = bias_mantissa(np.zeros(()) if in_current else bias / fine, limits)
        return IntegerALIF(
            v_threshold=membrane_mantissa(self.v_threshold / membrane, arithmetic),
            decay_v=decay_mantissa(self.decay, arithmetic),
            decay_u=decay_mantissa(0.0 if self.current_decay is None else self.current_decay, arithmetic),
            decay_b=decay_mantissa(self.adaptation_decay, arithmetic),
            rise=np.rint(self.adaptation_strength * self.adaptation_step / membrane),
            bias=mantissa,
            bias_exp=exponent,
            bias_u=np.rint(bias / fine) if in_current else np.zeros(()),
            fire=self.fire,
            reset=self.reset,
            v_reset=np.rint(self.v_reset / membrane),
            reset_timing=self.reset_timing,
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Of the decays of membrane and adaptation, absolute."""
        pairs = ((neuron.decay_v, self.decay), (neuron.decay_b, self.adaptation_decay))
        return max(decay_error(held, wanted, arithmetic) for held, wanted in pairs)


@dataclass(frozen=True, eq=False)
class IntegerALIF(IntegerNeuron):
    """The same neuron on the chip; every array int64, broadcasting against the population's shape.

    Args:
        v_threshold: mantissa; ``v_threshold << threshold_shift`` is the threshold at rest.
        decay_v, decay_u, decay_b: of membrane, current and adaptation, in 1/2**decay_bits; 0 keeps everything.
        rise: what a spike adds to the threshold, in the membrane's unit.
        bias, bias_exp: ``bias << bias_exp`` is added to the membrane at every step.
        bias_u: added to the current at every step.
        v_reset: in the membrane's unit.
    """

    v_threshold: Array
    decay_v: Array
    decay_u: Array
    decay_b: Array
    rise: Array
    bias: Array
    bias_exp: int = 6
    bias_u: Array = field(default_factory=constant(0))
    fire: Fire = ">="
    reset: AdaptiveReset = "hard"
    v_reset: Array = field(default_factory=constant(0))
    reset_timing: Literal["same", "next"] = "same"
    kind = _KIND

    def __post_init__(self) -> None:
        names = ("v_threshold", "decay_v", "decay_u", "decay_b", "rise", "bias", "bias_u", "v_reset")
        hold(self, np.int64, *names)

    @property
    def input_bias(self) -> Array:
        """The bias of the current and the membrane's; one of them is zero."""
        return super().input_bias + self.bias_u

    def describe(self) -> str:
        """Every choice, in one line."""
        reset = reset_in_words(self.reset, self.reset_timing)
        return (
            f"decay u {values(self.decay_u)} v {values(self.decay_v)}, v {self.fire} {values(self.v_threshold)} + "
            f"{values(self.rise)} a spike, decaying by {values(self.decay_b)}, {reset}"
        )

    def start(self, shape: Shape) -> State:
        """All states zero."""
        return {name: np.zeros(shape, dtype=np.int64) for name in ("u", "v", "b")}

    def operations(self) -> Operations:
        """Three decays; two inputs and two biases, rise and threshold."""
        return Operations(3, 5 + int(self.reset in ("soft", "adaptive")))

    def representable(self, limits: Limits, arithmetic: Arithmetic) -> bool:
        """Whether the parameters fit, the rise of the threshold included."""
        return super().representable(limits, arithmetic) and bool(
            (self.rise <= limits.threshold_max << arithmetic.threshold_shift).all()
        )

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """With its threshold at rest."""
        return IntegerLIF(
            self.v_threshold,
            self.decay_v,
            self.decay_u,
            self.bias,
            self.bias_exp,
            self.bias_u,
            fire=self.fire,
            reset="soft" if self.reset == "adaptive" else self.reset,
            reset_timing=self.reset_timing,
            v_reset=self.v_reset,
        )

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """Both sides apart, as a LIF's; v also stands for the adaptation, whose register is as wide."""
        one, bits = 1 << arithmetic.decay_bits, arithmetic.decay_bits
        drift = 0 if arithmetic.decay_rounding == "zero" else 1
        keep_u, keep_v, keep_b = (one - int(np.min(d)) for d in (self.decay_u, self.decay_v, self.decay_b))
        (bias_low, bias_high), (bias_u_low, bias_u_high) = span(self.membrane_bias), span(self.bias_u)
        step_low = (min(sums[0], 0) << arithmetic.input_shift) + bias_u_low
        step_high = (max(sums[1], 0) << arithmetic.input_shift) + bias_u_high
        low_theta, theta = extremes(self.v_threshold << arithmetic.threshold_shift)
        rise = int(np.max(self.rise))
        reset_low, reset_high = span(self.v_reset)
        u_low = u_high = v_low = v_high = b = peak_u = peak_v = 0
        late = self.reset_timing == "next"
        for _ in range(steps):
            u_low = -(-u_low * keep_u >> bits) - drift + step_low
            u_high = (u_high * keep_u >> bits) + step_high
            if late:
                # What fired gives up a threshold after its decay, raised by its own spike; the rest lay below it.
                raised = (b * keep_b >> bits) + rise
                fired = (v_high * keep_v >> bits) - low_theta
                lowest = -(-v_low * keep_v >> bits) - drift
                v_high = max(min(v_high, theta + b) * keep_v >> bits, fired if self.reset != "hard" else 0)
                v_low = min(lowest, -theta - raised)
                b = raised
            else:
                v_low = -(-v_low * keep_v >> bits) - drift
                v_high = v_high * keep_v >> bits
            v_low += u_low + bias_low
            v_high += u_high + bias_high
            if late and self.reset == "hard":
                v_low, v_high = min(v_low, reset_low), max(v_high, reset_high)
            peak_u, peak_v = max(peak_u, -u_low, u_high), max(peak_v, -v_low, v_high, b + theta)
            if late:
                continue
            if self.reset == "hard":
                v_low, v_high = min(v_low, reset_low), max(min(v_high, theta + b), reset_high)
            elif self.reset != "none":
                v_low, v_high = min(v_low, 0), min(v_high, max(theta + b, v_high - low_theta))
            b = (b * keep_b >> bits) + rise
            peak_v = max(peak_v, b + theta)
        return Bounds(max(abs(sums[0]), abs(sums[1])), peak_u, peak_v)


def integer_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step of the adaptive LIF in fixed point: (u, v after reset, adaptation b; spikes 0/1)."""
    bits, rounding = p["decay_bits"], p["decay_rounding"]
    late, b = p["reset_timing"] == "next", state["b"]
    u = decayed(state["u"], p["decay_u"], bits, rounding) + (a << p["input_shift"]) + p["bias_u"]
    u = fit(u, p["current_bits"], p["current_overflow"])
    h = decayed(state["v"], p["decay_v"], bits, rounding) + u + p["bias"]
    if late:
        before = meets(state["v"], p["threshold"] + b, p["fire"])
        b = adapted(b, before, p)
        h = np.where(before, after_spike(h, p["threshold"] + b, p), h)
    h = fit(h, p["voltage_bits"], p["voltage_overflow"])
    fired = meets(h, p["threshold"] + b, p["fire"])
    spikes = np.where(fired, 1, 0)
    if late:
        return {"u": u, "v": h, "b": b}, spikes
    v = np.where(fired, after_spike(h, p["threshold"] + b, p), h)
    return {"u": u, "v": v, "b": adapted(b, fired, p)}, spikes


def adapted(b: Any, fired: Any, p: dict[str, Any]) -> Any:
    """The adaptation one step on."""
    b = decayed(b, p["decay_b"], p["decay_bits"], p["decay_rounding"]) + np.where(fired, p["rise"], 0)
    return fit(b, p["voltage_bits"], "saturate")


def after_spike(h: Any, theta: Any, p: dict[str, Any]) -> Any:
    """What the reset makes of a membrane that met the threshold ``theta``."""
    if p["reset"] == "hard":
        return p["v_reset"] + 0 * h
    if p["reset"] == "none":
        return h
    return h - (theta if p["reset"] == "adaptive" else p["threshold"])


IntegerALIF.program = (adapted, after_spike, integer_step)
