"""The integrate-and-fire family: IF, LIF, CubaLIF (with synaptic current) and leaky integrators that never fire.

Float, one step (names as in SpikingJelly, snnTorch and NIR):

    i[t] = α·i[t−1] + x[t] + b_i           only with a synaptic current
    h[t] = decay(v[t−1]) + g·i[t]          ``decay_form`` says in which of the published forms
    s[t] = h[t] > θ   or   h[t] ≥ θ        ``fire``
    v[t] = reset(h[t], s[t])               ``reset``, and when it acts: ``reset_timing``

``reset_timing``: "same" resets in the step of the spike (SpikingJelly, S000 Eq. 5); "gate" resets the stored membrane
at the start of the next step, before decay and input (STBP code, S002 and S003's LIF, snnTorch Leaky "zero"); "next"
resets the next step's sum, decay and input included (snnTorch "subtract", RSynaptic "zero"). S000 to S004 are the
papers of the project's reference list.

Integer, one step (Lava ``proc/lif/models.py``, PyLifModelBitAcc, extended by the choices above): see
:func:`lif_step`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
    Reset,
    ResetTiming,
    State,
    constant,
    hold,
    reset_in_words,
    values,
)
from snn2chip.neurons.fixed_point import bias_mantissa, decay_error, decay_mantissa, extremes, span, unless_zero

DecayForm = Literal["factor", "tau", "tau_sum", "tau_undriven", "rate", "subtract"]

# form → (the framework's own expression, so that float results agree to the last bit; its decay factor; its input gain)
_FORMS: dict[
    DecayForm, tuple[Callable[[Any, Any, Any, Any], Any], Callable[[Array], Array], Callable[[Array], Array]]
] = {
    "factor": (lambda v, x, d, rest: d * v + x, lambda d: d, np.ones_like),
    "tau": (lambda v, x, d, rest: v + (x - (v - rest)) / d, lambda d: 1 - 1 / d, lambda d: 1 / d),
    "tau_undriven": (lambda v, x, d, rest: v - (v - rest) / d + x, lambda d: 1 - 1 / d, np.ones_like),
    "tau_sum": (lambda v, x, d, rest: v + (rest - v + x) / d, lambda d: 1 - 1 / d, lambda d: 1 / d),
    "rate": (lambda v, x, d, rest: v + (x - (v - rest)) * d, lambda d: 1 - d, lambda d: d),
    "subtract": (lambda v, x, d, rest: v - d * (v - rest) + x, lambda d: 1 - d, np.ones_like),
}


@dataclass(frozen=True, eq=False)
class LIF(FloatNeuron):
    """A float neuron of the family; arrays broadcast against the population's shape.

    Args:
        v_threshold: θ. ``np.inf`` makes a leaky integrator: it never fires and its output is the membrane.
        decay: value of the membrane decay in the chosen form: β ("factor", h = βv + x), τ ("tau", h = v + (x − (v −
            v_rest))/τ; "tau_sum", h = v + (v_rest − v + x)/τ; "tau_undriven", h = v − (v − v_rest)/τ + x), λ ("rate",
            h = v + (x − (v − v_rest))λ; "subtract", h = v − λ(v − v_rest) + x). IF: "factor", 1.
        decay_form: which of them.
        v_rest: what the membrane leaks to; "factor" leaks to zero, add a bias for anything else.
        gain: factor on the input of the membrane, beside the one "tau" and "rate" imply.
        current_decay: α of the synaptic current, or None for a neuron without one.
        fire, reset, reset_timing: see the module's text.
        v_reset: where a hard reset goes.
        v_start: membrane before the first step.
        spike_value: what a spike is worth to the next layer.
    """

    v_threshold: Array
    decay: Array
    decay_form: DecayForm = "factor"
    v_rest: Array = field(default_factory=constant(0.0))
    gain: Array = field(default_factory=constant(1.0))
    current_decay: Array | None = None
    fire: Fire = ">="
    reset: Reset = "hard"
    reset_timing: ResetTiming = "same"
    v_reset: Array = field(default_factory=constant(0.0))
    v_start: Array = field(default_factory=constant(0.0))
    spike_value: float = 1.0

    def __post_init__(self) -> None:
        hold(self, np.float64, "v_threshold", "decay", "v_rest", "gain", "current_decay", "v_reset", "v_start")

    @property
    def kind(self) -> str:  # type: ignore[override]
        """IF, LIF, CubaLIF, LI or CubaLI."""
        if self.integrates_only:
            return "LI" if self.current_decay is None else "CubaLI"
        if self.current_decay is not None:
            return "CubaLIF"
        return "IF" if bool((self.decay_factor == 1).all()) else "LIF"

    @property
    def integrates_only(self) -> bool:
        """Whether it never fires; its output is then the membrane."""
        return bool(np.isinf(self.v_threshold).all())

    @property
    def decay_factor(self) -> Array:
        """What the membrane is multiplied by in one step."""
        return _FORMS[self.decay_form][1](self.decay)

    @property
    def input_gain(self) -> Array:
        """What the input is multiplied by before it adds to the membrane."""
        return self.gain * _FORMS[self.decay_form][2](self.decay)

    @property
    def leak_bias(self) -> Array:
        """What leaking to ``v_rest`` adds to the membrane at every step."""
        return (1 - self.decay_factor) * self.v_rest

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        super().check(shape)
        wrong = {
            "v_threshold": bool(np.isinf(self.v_threshold).any()) and not self.integrates_only,
            "decay": bool(((self.decay_factor < 0) | (self.decay_factor > 1)).any()),
            "current_decay": self.current_decay is not None
            and bool(((self.current_decay < 0) | (self.current_decay > 1)).any()),
        }
        for name, bad in wrong.items():
            if bad:
                raise S2CError(
                    f"{name} is {values(getattr(self, name))} in the form {self.decay_form!r}",
                    why="a decay factor must lie in [0, 1] and a threshold must be a number",
                )

    def describe(self) -> str:
        """Every choice, in one line."""
        parts = [
            f"decay {values(self.decay_factor)}" + ("" if self.decay_form == "factor" else f" ({self.decay_form})")
        ]
        if self.current_decay is not None:
            parts.insert(0, f"current decay {values(self.current_decay)}")
        if (self.v_rest != 0).any():
            parts.append(f"leaks to {values(self.v_rest)}")
        if (self.input_gain != 1).any():
            parts.append(f"gain {values(self.input_gain)}")
        if not self.integrates_only:
            parts.append(f"v {self.fire} {values(self.v_threshold)}")
            parts.append(reset_in_words(self.reset, self.reset_timing, self.v_reset))
        if (self.v_start != 0).any():
            parts.append(f"starts at {values(self.v_start)}")
        return ", ".join(parts)

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """State before the first step for input like ``x`` [N, ...]."""
        v = xp.full_like(x, 0.0) + xp.const(self.v_start, x)
        return {"v": v} if self.current_decay is None else {"u": xp.full_like(x, 0.0), "v": v}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step; the operations are in the order of the framework the form comes from.

        The new state also holds ``h``, the membrane that met the fire test, for those who ask why a spike differs.
        """
        v, new = state["v"], {}
        theta, v_reset = xp.const(self.v_threshold, x), xp.const(self.v_reset, x)
        fired = meets(v, theta, self.fire) if self.reset_timing != "same" else None
        if self.current_decay is not None:
            x = xp.const(self.current_decay, x) * state["u"] + x
            new["u"] = x
        if self.reset_timing == "gate" and self.reset != "none":
            v = xp.where(fired, v_reset if self.reset == "hard" else v - theta, v)
        h = _FORMS[self.decay_form][0](v, self.scaled_input(x, xp), xp.const(self.decay, x), xp.const(self.v_rest, x))
        if self.reset_timing == "next" and self.reset != "none":
            h = xp.where(fired, v_reset + 0 * h if self.reset == "hard" else h - theta, h)
        new["h"] = h
        if self.integrates_only:
            return {**new, "v": h}, h
        spikes = meets(h, theta, self.fire)
        out = xp.where(spikes, xp.full_like(h, self.spike_value), xp.full_like(h, 0.0))
        if self.reset_timing == "same" and self.reset != "none":
            h = xp.where(spikes, v_reset + 0 * h if self.reset == "hard" else h - theta, h)
        return {**new, "v": h}, out

    def operations(self) -> Operations:
        """One multiply-add per decaying state; integration and reset are additions (papers.md §6: LIF 1 MAC)."""
        leaky = int(bool((self.decay_factor != 1).any()))
        current = int(self.current_decay is not None)
        return Operations(leaky + current, 1 + current + int(self.reset == "soft"))

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerLIF:
        """See :meth:`FloatNeuron.quantized`."""
        fine = unit / (1 << arithmetic.input_shift)
        gain = self.input_gain
        leak = self.leak_bias / (gain * fine)
        in_current = self.current_decay is not None
        mantissa, exponent = bias_mantissa(leak if in_current else bias / fine + leak, limits)
        threshold = None
        if not self.integrates_only:
            threshold = np.rint(
                self.v_threshold / (gain * unit) * 2.0 ** (arithmetic.input_shift - arithmetic.threshold_shift)
            )
        return IntegerLIF(
            v_threshold=threshold,
            decay_v=decay_mantissa(self.decay_factor, arithmetic),
            decay_u=decay_mantissa(0.0 if self.current_decay is None else self.current_decay, arithmetic),
            bias=mantissa,
            bias_exp=exponent,
            bias_u=np.rint(bias / fine) if in_current and bias.any() else None,
            fire=self.fire,
            reset=self.reset,
            reset_timing=self.reset_timing,
            v_reset=unless_zero(self.v_reset / (gain * fine)),
            v_start=unless_zero(self.v_start / (gain * fine)),
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Of the membrane's decay, absolute."""
        return decay_error(neuron.decay_v, self.decay_factor, arithmetic)


@dataclass(frozen=True, eq=False)
class IntegerLIF(IntegerNeuron):
    """The same neuron on the chip; every array int64, broadcasting against the population's shape.

    Args:
        v_threshold: mantissa; compared as ``v_threshold << threshold_shift``. None: never fires, the output is v.
        decay_v: in 1/2**decay_bits; 0 keeps everything, 2**decay_bits nothing.
        decay_u: likewise for the current; 2**decay_bits means that the current has no memory.
        bias, bias_exp: ``bias << bias_exp`` is added to the membrane at every step.
        bias_u: added to the current at every step, in the current's unit.
        v_reset, v_start: in the membrane's unit.
    """

    v_threshold: Array | None
    decay_v: Array
    decay_u: Array
    bias: Array
    bias_exp: int = 6
    bias_u: Array | None = None
    fire: Fire = ">"
    reset: Reset = "hard"
    reset_timing: ResetTiming = "same"
    v_reset: Array | None = None
    v_start: Array | None = None

    def __post_init__(self) -> None:
        hold(self, np.int64, "v_threshold", "decay_v", "decay_u", "bias", "bias_u", "v_reset", "v_start")

    @property
    def kind(self) -> str:  # type: ignore[override]
        """LIF, or LI where it never fires."""
        return "LI" if self.v_threshold is None else "LIF"

    def describe(self) -> str:
        """Every choice, in one line."""
        parts = [f"decay u {values(self.decay_u)} v {values(self.decay_v)}"]
        if self.v_threshold is not None:
            parts += [f"v {self.fire} {values(self.v_threshold)}", reset_in_words(self.reset, self.reset_timing)]
        if self.bias.any():
            parts.append(f"bias {values(self.bias)}<<{self.bias_exp}")
        if self.bias_u is not None and self.bias_u.any():
            parts.append(f"bias u {values(self.bias_u)}")
        return ", ".join(parts)

    @property
    def native(self) -> bool:
        """Whether the fixed LIF of Loihi and Lava computes exactly this: strict, hard reset to zero, same step."""
        plain = self.v_threshold is None or (self.fire == ">" and self.reset == "hard" and self.reset_timing == "same")
        zero = all(x is None or not x.any() for x in (self.bias_u, self.v_reset, self.v_start))
        return plain and zero

    def parameters(self, arithmetic: Arithmetic) -> dict[str, Any]:
        """See :meth:`IntegerNeuron.parameters`; what is None is zero."""
        return {name: 0 if value is None else value for name, value in super().parameters(arithmetic).items()}

    def strict(self, arithmetic: Arithmetic) -> IntegerLIF:
        """``v ≥ θ`` as ``v > θ − 1`` where both are the same for every state that neither wraps nor saturates.

        So it is where the membrane only ever holds multiples of the threshold's step: nothing decays by a part, and
        biases and resets are such multiples. A soft reset subtracts the very number that would change.
        """
        if self.fire != ">=" or self.v_threshold is None or self.reset == "soft":
            return self
        step, one = 1 << arithmetic.threshold_shift, 1 << arithmetic.decay_bits
        offsets = (self.membrane_bias, self.bias_u, self.v_reset, self.v_start)
        partly = (self.decay_v % one).any() or (self.decay_u % one).any()
        if partly or 1 << arithmetic.input_shift < step or any(x is not None and (x % step).any() for x in offsets):
            return self
        return dataclasses.replace(self, fire=">", v_threshold=self.v_threshold - 1)

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """Itself."""
        return self

    def operations(self) -> Operations:
        """As the float neuron; the chip's two decays are multiplications whether or not they change anything."""
        return Operations(2, 3 + int(self.reset == "soft"))

    @property
    def input_bias(self) -> Array:
        """The bias of the current where it has one, else the membrane's."""
        return self.bias_u if self.bias_u is not None else super().input_bias

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """What u and v can reach in ``steps`` steps from rest when every step's sum lies in ``sums``.

        Both sides are followed apart: a reset caps the membrane from above, nothing caps it from below.
        """
        one = 1 << arithmetic.decay_bits
        # Rounding toward zero never enlarges a state; rounding down takes a negative one further by up to one per step.
        drift = 0 if arithmetic.decay_rounding == "zero" else 1
        keep_u, keep_v = one - int(np.min(self.decay_u)), one - int(np.min(self.decay_v))
        bias_low, bias_high = span(self.membrane_bias)
        bias_u_low, bias_u_high = span(self.bias_u)
        step_low = (min(sums[0], 0) << arithmetic.input_shift) + bias_u_low
        step_high = (max(sums[1], 0) << arithmetic.input_shift) + bias_u_high
        v_low, v_high = span(self.v_start)
        reset_low, reset_high = span(self.v_reset)
        resets = self.v_threshold is not None and self.reset != "none"
        low_theta, high_theta = (int(t) << arithmetic.threshold_shift for t in extremes(self.v_threshold))
        # Nothing has reset a start above the threshold before the first step.
        ceiling = max(high_theta, reset_high, v_high)
        u_low = u_high = 0
        peak_u, peak_v = 0, max(-v_low, v_high)
        for _ in range(steps):
            u_low = -(-u_low * keep_u >> arithmetic.decay_bits) - drift + step_low
            u_high = (u_high * keep_u >> arithmetic.decay_bits) + step_high
            late = 0
            if resets and self.reset == "hard":
                v_low, v_high = min(v_low, reset_low), min(v_high, ceiling)
            elif resets and self.reset_timing != "next":
                v_high = min(v_high, max(ceiling, v_high - low_theta))
            elif resets:
                # Subtracted after the decay: what fired loses θ, what did not was at most θ.
                v_high = min(v_high, max(ceiling, v_high - (low_theta << arithmetic.decay_bits) // max(keep_v, 1)))
                late = high_theta
            v_low = min(-(-v_low * keep_v >> arithmetic.decay_bits), (late * keep_v >> arithmetic.decay_bits) - late)
            v_low += u_low + bias_low - drift
            v_high = (v_high * keep_v >> arithmetic.decay_bits) + u_high + bias_high
            if resets and self.reset_timing == "next" and self.reset == "hard":
                v_low, v_high = min(v_low, reset_low), max(v_high, reset_high)
            peak_u, peak_v = max(peak_u, -u_low, u_high), max(peak_v, -v_low, v_high)
        return Bounds(max(abs(sums[0]), abs(sums[1])), peak_u, peak_v)


def lif_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step of the family in fixed point: (u, v after reset; spikes 0/1, or v where it never fires).

    With ``fire=">"``, ``reset="hard"``, ``reset_timing="same"`` and ``v_reset=0`` this is Lava's PyLifModelBitAcc.
    """
    v, theta = state["v"], p["threshold"]
    timing = p["reset_timing"] if p["fires"] and p["reset"] != "none" else "never"
    before = meets(v, theta, p["fire"])
    u = decayed(state["u"], p["decay_u"], p["decay_bits"], p["decay_rounding"]) + (a << p["input_shift"]) + p["bias_u"]
    u = fit(u, p["current_bits"], p["current_overflow"])
    if timing == "gate":
        v = np.where(before, p["v_reset"] if p["reset"] == "hard" else v - theta, v)
    v = decayed(v, p["decay_v"], p["decay_bits"], p["decay_rounding"]) + u + p["bias"]
    if timing == "next":
        v = np.where(before, p["v_reset"] if p["reset"] == "hard" else v - theta, v)
    v = fit(v, p["voltage_bits"], p["voltage_overflow"])
    if not p["fires"]:
        return {"u": u, "v": v}, v
    fired = meets(v, theta, p["fire"])
    if timing == "same":
        v = np.where(fired, p["v_reset"] if p["reset"] == "hard" else v - theta, v)
    return {"u": u, "v": v}, np.where(fired, 1, 0)


IntegerLIF.program = (lif_step,)
