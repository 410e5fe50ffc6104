"""Learnable neuron models: the membrane's dynamics are a polynomial of any degree (S002).

Float, one step, with f(c) = Σ θ_i·c^i over the bounded membrane c = clip(v, −1, 1), clip(v, −5, 5), tanh(v) or v
(Tab. 5):

    h[t] = v[t−1] + f(c[t−1]) + x[t]      form "added", Eq. 10
    h[t] = v[t−1] − f(c[t−1]) + x[t]      form "subtracted", Alg. 1
    h[t] = f(c[t−1]) + x[t]               form "absorbed", Eq. 16: θ_1 holds the 1 of the identity
    s[t] = h[t] ≥ θ

"added" and "absorbed" are not the same neuron once |v| leaves the bound, for Eq. 16 then bounds the identity too: which
one a checkpoint was trained with must be said. The reset is to ``v_reset`` in the step of the spike (Alg. 1), or a
gate (Eq. 4): what the dynamics make of a membrane that has fired counts as zero, [v + f(v)]·(1 − s) + x.

Integer: see :func:`integer_step`. The polynomial is evaluated by Horner's rule on z / 2**bits in [−1, 1] with
coefficients in membrane units and ``guard`` fraction bits: no product exceeds (Σ |coefficients| + their number) <<
bits, which ``quantized`` keeps below 2**62. tanh is a table of cubic pieces, within 2**−14 of tanh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.target import Limits
from snn2chip.neurons.arithmetic import fit, horner, meets, shift_right
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
from snn2chip.neurons.fixed_point import bias_mantissa, extremes, membrane_mantissa, span
from snn2chip.neurons.lif import IntegerLIF

Form = Literal["added", "subtracted", "absorbed"]
_KIND = "LNM"

# Fraction bits the coefficients get where there is room; more than the state has is of no use.
_GUARD = 12
_TANH_BITS = 20
# tanh reaches 1 − 2**−17 here; cubic pieces this wide are within 2**−15 of it.
_TANH_END, _TANH_PIECES = 6.0, 16


@dataclass(frozen=True, eq=False)
class LNM(FloatNeuron):
    """A float polynomial neuron.

    Args:
        v_threshold: θ; 0.5 in the paper.
        coefficients: θ_0, θ_1, … of f, one set for the layer.
        form: how f enters, see the module's text.
        bound: the membrane enters f clipped to ±bound; None: as it is.
        squash: it enters as tanh(v) instead; ``bound`` must then be None.
        fire: "≥" in the paper.
        gated: the reset is a gate in the next step (Eq. 4); else it acts in the step of the spike (Alg. 1).
        v_reset: where the reset in the step of the spike goes; 0 with a gate.
        spike_value: what a spike is worth to the next layer.
    """

    v_threshold: Array
    coefficients: tuple[float, ...]
    form: Form
    bound: float | None = 1.0
    squash: bool = False
    fire: Fire = ">="
    gated: bool = False
    v_reset: Array = field(default_factory=constant(0.0))
    spike_value: float = 1.0
    kind = _KIND

    def __post_init__(self) -> None:
        hold(self, np.float64, "v_threshold", "v_reset")
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        super().check(shape)
        wrong = {
            "it has no coefficients": not self.coefficients,
            "a coefficient or the threshold is no number": not (
                np.isfinite(self.coefficients).all() and np.isfinite(self.v_threshold).all()
            ),
            "its bound is not positive": self.bound is not None and not self.bound > 0,
            "it is bounded by clipping and by tanh": self.squash and self.bound is not None,
            "a gate resets to zero, not elsewhere": self.gated and bool((self.v_reset != 0).any()),
        }
        if found := [what for what, holds in wrong.items() if holds]:
            raise S2CError(f"a polynomial neuron that makes no sense ({self.describe()})", why="; ".join(found))

    def describe(self) -> str:
        """Every choice, in one line."""
        terms = " + ".join(f"{c:.4g}·c^{i}" for i, c in enumerate(self.coefficients) if c) or "0"
        lead = {"added": "v + (", "subtracted": "v − (", "absorbed": "("}[self.form]
        bounded = "tanh(v)" if self.squash else "v" if self.bound is None else f"clip(v, ±{self.bound:g})"
        reset = "gate to 0" if self.gated else f"hard reset to {values(self.v_reset)}"
        return f"{lead}{terms}), c = {bounded}, v {self.fire} {values(self.v_threshold)}, {reset}"

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """State before the first step for input like ``x`` [N, ...]."""
        return {"v": xp.full_like(x, 0.0)}

    @property
    def scale_advice(self) -> str:
        """See :meth:`FloatNeuron.scale_advice`."""
        degree = len(self.coefficients) - 1
        if self.bound is not None or self.squash or degree < 3:
            return super().scale_advice
        return (
            f"train with a polynomial of bounded input, LNM(bound=1.0) or LNM(squash=True): degree {degree} of "
            "everything a membrane register holds has more digits than the chip's integers"
        )

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step; the polynomial by Horner's rule (Eq. 15)."""
        v, theta, zero = state["v"], xp.const(self.v_threshold, x), xp.full_like(x, 0.0)
        c = v
        if self.squash:
            c = xp.tanh(v)
        elif self.bound is not None:
            c = xp.where(v > self.bound, zero + self.bound, xp.where(v < -self.bound, zero - self.bound, v))
        f = zero + self.coefficients[-1]
        for coefficient in reversed(self.coefficients[:-1]):
            f = coefficient + c * f
        driven = {"added": v + f, "subtracted": v - f, "absorbed": f}[self.form]
        if self.gated:
            driven = xp.where(meets(v, theta, self.fire), zero, driven)
        h = driven + x
        fired = meets(h, theta, self.fire)
        after = h if self.gated else xp.where(fired, xp.const(self.v_reset, x) + zero, h)
        return {"v": after, "h": h}, xp.where(fired, zero + self.spike_value, zero)

    def operations(self) -> Operations:
        """S002 §5.4: a polynomial of degree N takes N multiply-adds; identity and input are additions."""
        degree = len(self.coefficients) - 1
        return Operations(degree, degree + 1 + int(self.form != "absorbed"))

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerLNM:
        """See :meth:`FloatNeuron.quantized`."""
        fine = unit / (1 << arithmetic.input_shift)
        mantissa, exponent = bias_mantissa(bias / fine, limits)
        coefficients, bits, guard = self._scaled(fine, arithmetic)
        return IntegerLNM(
            v_threshold=membrane_mantissa(self.v_threshold / fine, arithmetic),
            coefficients=tuple(round(c * 2.0**guard) for c in coefficients),
            bits=bits,
            guard=guard,
            bound=None if self.bound is None else round(self.bound / fine),
            tanh=tanh_pieces(fine) if self.squash else (),
            carries=self.form != "absorbed",
            bias=mantissa,
            bias_exp=exponent,
            fire=self.fire,
            gated=self.gated,
            v_reset=np.rint(self.v_reset / fine),
        )

    def _scaled(self, fine: float, arithmetic: Arithmetic) -> tuple[list[float], int, int]:
        """Coefficients of z / 2**bits in membrane units, bits, and the fraction bits they have room for."""
        register = arithmetic.voltage_bits - 1
        if self.squash:
            bits, reach = _TANH_BITS, 1.0
        else:
            whole = (1 << register) - 1 if self.bound is None else min(round(self.bound / fine), (1 << register) - 1)
            bits = whole.bit_length()
            reach = fine * 2.0**bits
        sign = -1.0 if self.form == "subtracted" else 1.0
        coefficients = [sign * c * reach**i / fine for i, c in enumerate(self.coefficients)]
        total = sum(map(abs, coefficients)) + 2 * len(coefficients)
        return coefficients, bits, min(_GUARD, 61 - bits - math.ceil(math.log2(total)))

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Of the coefficients, relative to the largest."""
        wanted, _, guard = self._scaled(unit / (1 << arithmetic.input_shift), arithmetic)
        error = np.abs(np.asarray(neuron.coefficients, dtype=np.float64) * 2.0**-guard - wanted)
        return float(error.max() / (np.abs(wanted).max() or 1.0))


def tanh_pieces(fine: float) -> tuple[tuple[int, ...], ...]:
    """tanh(v · fine) · 2**20 over v ≥ 0: (first v, bits, c_0 … c_3) of Σ c_i · ((v − first) / 2**bits)^i.

    The last piece, the constant 2**20, has no end.
    """
    width = _TANH_END / _TANH_PIECES
    rows = []
    for k in range(_TANH_PIECES):
        first = round(k * width / fine)
        last = round((k + 1) * width / fine)
        bits = max(1, (last - first).bit_length())
        if last == first:
            continue
        piece = Chebyshev.interpolate(np.tanh, 3, domain=[first * fine, last * fine]).convert(kind=Polynomial)
        local = piece(Polynomial([first * fine, fine * 2.0**bits]))
        rows.append((first, bits, *(round(c * 2.0**_TANH_BITS) for c in [*local.coef, 0, 0, 0][:4])))
    return (*rows, (max(1, round(_TANH_END / fine)), 1, 1 << _TANH_BITS, 0, 0, 0))


@dataclass(frozen=True, eq=False)
class IntegerLNM(IntegerNeuron):
    """The same neuron on the chip.

    Args:
        v_threshold: mantissa; compared as ``v_threshold << threshold_shift``.
        coefficients: of z / 2**bits, in membrane units with ``guard`` fraction bits, the sign of the form included.
        bits: z of this many bits is 1.
        guard: fraction bits of the coefficients.
        bound: z is the membrane clipped to ±bound; None: the membrane.
        tanh: pieces of a table as :func:`tanh_pieces` makes it; empty: no tanh.
        carries: whether the membrane itself is added.
        bias, bias_exp: ``bias << bias_exp`` is added to the membrane at every step.
        gated: the reset to zero is a gate in the next step.
        v_reset: in the membrane's unit.
    """

    v_threshold: Array
    coefficients: tuple[int, ...]
    bits: int
    guard: int
    bound: int | None
    bias: Array
    bias_exp: int = 6
    tanh: tuple[tuple[int, ...], ...] = ()
    carries: bool = True
    fire: Fire = ">="
    gated: bool = False
    v_reset: Array = field(default_factory=constant(0))
    kind = _KIND

    def __post_init__(self) -> None:
        hold(self, np.int64, "v_threshold", "bias", "v_reset")

    def describe(self) -> str:
        """Every choice, in one line."""
        bounded = "tanh" if self.tanh else "v" if self.bound is None else f"clip ±{self.bound}"
        return (
            f"{'v + ' if self.carries else ''}polynomial of degree {len(self.coefficients) - 1} of {bounded}, "
            f"v {self.fire} {values(self.v_threshold)}, {'gate to 0' if self.gated else 'hard reset'}"
        )

    def operations(self) -> Operations:
        """Horner's rule, a cubic piece where there is a tanh, and the sums."""
        products = len(self.coefficients) - 1 + (3 if self.tanh else 0)
        return Operations(products, products + 2 + int(self.carries) + int(bool(self.tanh)))

    def representable(self, limits: Limits, arithmetic: Arithmetic) -> bool:
        """Whether the parameters fit, and no product can leave 63 bits."""
        total = sum(map(abs, self.coefficients)) + 2 * len(self.coefficients)
        half = 1 << (arithmetic.voltage_bits - 1)
        return (
            super().representable(limits, arithmetic)
            and self.guard >= 0
            and total << self.bits < 1 << 62
            and (self.bound is None or self.bound > 0)
            and bool((np.abs(self.v_reset) < half).all())
        )

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """With the slope that the polynomial has at zero."""
        one = 1 << arithmetic.decay_bits
        argument = self.tanh[0][3] / 2.0 ** self.tanh[0][1] if self.tanh else 1.0
        linear = self.coefficients[1] if len(self.coefficients) > 1 else 0
        slope = linear * argument / 2.0 ** (self.guard + self.bits) + int(self.carries)
        return IntegerLIF(
            self.v_threshold,
            np.rint((1 - np.clip(slope, 0, 1)) * np.asarray(one)),
            np.asarray(one),
            self.bias,
            self.bias_exp,
            fire=self.fire,
            reset_timing="gate" if self.gated else "same",
            v_reset=self.v_reset,
        )

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """Membrane and polynomial apart: each is extreme at an end of its interval or where its slope is zero."""
        p = self.parameters(arithmetic)
        limit = (1 << (arithmetic.voltage_bits - 1)) - 1
        u_low, u_high = min(sums[0], 0) << arithmetic.input_shift, max(sums[1], 0) << arithmetic.input_shift
        (bias_low, bias_high), (low_theta, theta) = span(self.membrane_bias), extremes(p["threshold"])
        reset_low, reset_high = span(self.v_reset)
        low = high = peak = 0
        for _ in range(steps):
            driven = self._image(low, high, p)
            if self.gated and high >= low_theta:
                kept = self._image(low, min(high, theta), p) if low <= theta else (0, 0)
                driven = min(kept[0], 0), max(kept[1], 0)
            low, high = driven[0] + u_low + bias_low, driven[1] + u_high + bias_high
            peak = max(peak, -low, high)
            low, high = max(low, -limit), min(high, limit)
            if not self.gated and high >= low_theta:
                low, high = min(low, reset_low), max(min(high, theta), reset_high)
        return Bounds(max(abs(sums[0]), abs(sums[1])), max(-u_low, u_high), peak)

    def _image(self, low: int, high: int, p: dict[str, Any]) -> Range:
        """What the dynamics make of membranes in [low, high], a few units wider for the rounding of every product."""
        ends = [int(bounded(np.asarray(v), p)) for v in (low, high)]
        slack = 2 + (2 * len(self.coefficients) >> max(self.guard, 0))
        f: Any = Polynomial([c * 2.0 ** -(self.guard + i * self.bits) for i, c in enumerate(self.coefficients)])
        follows = self.carries and not self.tanh
        if not follows:
            found = _extremes_of(f, *ends)
            reach = (low, high) if self.carries else (0, 0)
            return reach[0] + found[0] - slack, reach[1] + found[1] + slack
        # Inside the bound the membrane and the polynomial move together; beyond it only the membrane does.
        inner = _extremes_of(f + Polynomial([0, 1]), *ends)
        beyond = [v + f(z) for v, z in zip((low, high), ends, strict=True)]
        return math.floor(min(inner[0], *beyond)) - slack, math.ceil(max(inner[1], *beyond)) + slack


def _extremes_of(f: Polynomial, low: int, high: int) -> Range:
    """Smallest and largest value of a polynomial over an interval."""
    roots = np.asarray(f.deriv().roots() if f.degree() > 1 else [], dtype=np.complex128)
    # Rounding may give a double root an imaginary part; one candidate more does no harm.
    inside = roots.real[(roots.real > low) & (roots.real < high)].tolist()
    at: Any = f
    images = [float(at(v)) for v in (low, high, *inside)]
    return math.floor(min(images)), math.ceil(max(images))


def bounded(v: Any, p: dict[str, Any]) -> Any:
    """The membrane as the polynomial takes it: as it is, clipped, or tanh with 1 at 2**bits."""
    if not p["tanh"]:
        return v if p["bound"] is None else np.minimum(np.maximum(v, -p["bound"]), p["bound"])
    size = np.where(v < 0, -v, v)
    z: Any = 0
    for first, bits, *piece in p["tanh"]:
        beyond = np.minimum(np.maximum(size - first, 0), 1 << bits)
        z = np.where(size >= first, horner(beyond, piece, bits, "floor"), z)
    return np.where(v < 0, -z, z)


def integer_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step of the polynomial neuron in fixed point: (u, v; spikes 0/1)."""
    v, theta = state["v"], p["threshold"]
    u = fit(a << p["input_shift"], p["current_bits"], p["current_overflow"])
    f = horner(bounded(v, p), p["coefficients"], p["bits"], p["decay_rounding"])
    driven = shift_right(f, p["guard"], p["decay_rounding"]) + (v if p["carries"] else 0)
    if p["gated"]:
        driven = np.where(meets(v, theta, p["fire"]), 0, driven)
    h = fit(driven + u + p["bias"], p["voltage_bits"], p["voltage_overflow"])
    fired = meets(h, theta, p["fire"])
    return {"u": u, "v": h if p["gated"] else np.where(fired, p["v_reset"], h)}, np.where(fired, 1, 0)


IntegerLNM.program = (bounded, integer_step)
