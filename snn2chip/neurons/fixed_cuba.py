"""CUBA-LIF that computes in the chip's fixed point while it trains: lava-dl's slayer.

One step, u and v whole multiples of 1/(64·scale), ``⌊·⌉₀`` rounding toward zero (lava-dl
``neuron/dynamics/leaky_integrator.py`` ``_li_dynamics_fwd``, ``neuron/cuba.py``, ``neuron/norm.py``):

    u[t] = ⌊u[t−1]·(1 − decay_u/4096)⌉₀ + ⌊x[t]⌉₀
    h[t] = ⌊v[t−1]·(1 − decay_v/4096)⌉₀ + u[t] + b
    s[t] = h[t] > θ
    v[t] = h[t]·(1 − s[t])

That is Lava's LIF (``proc/lif/models.py``) on weights and thresholds times ``scale``, except that slayer's registers
have no width: whether u and v stay in the chip's is proved when the Program is made, as for every population.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.target import Limits
from snn2chip.neurons.base import ArrayNamespace, FloatNeuron, Operations, State, constant, hold, values
from snn2chip.neurons.fixed_point import unless_zero
from snn2chip.neurons.lif import IntegerLIF

DECAY_BITS = 12
# Bits of a state behind those of a weight.
STATE_SHIFT = 6


@dataclass(frozen=True, eq=False)
class FixedCubaLIF(FloatNeuron):
    """A CUBA-LIF trained in fixed point; arrays broadcast against the population's shape.

    Args:
        v_threshold: θ, a multiple of 1/scale; ``np.inf``: it never fires and its output is the membrane.
        decay_u, decay_v: of current and membrane, in 1/4096, whole numbers.
        bias: b, added to the membrane at every step, a multiple of 1/scale.
        scale: weight mantissas per unit of the summed input.
        spike_value: what a spike is worth to the next layer.
    """

    v_threshold: Array
    decay_u: Array
    decay_v: Array
    bias: Array = field(default_factory=constant(0.0))
    scale: int = 64
    spike_value: float = 1.0

    def __post_init__(self) -> None:
        hold(self, np.float64, "v_threshold", "bias")
        hold(self, np.int64, "decay_u", "decay_v")

    @property
    def kind(self) -> str:  # type: ignore[override]
        """CubaLIF or CubaLI, in fixed point."""
        return "FixedCubaLI" if self.integrates_only else "FixedCubaLIF"

    @property
    def integrates_only(self) -> bool:
        """Whether it never fires; its output is then the membrane."""
        return bool(np.isinf(self.v_threshold).all())

    @property
    def leak_bias(self) -> Array:
        """What is added to the membrane beside the current."""
        return self.bias

    @property
    def trained_unit(self) -> float:
        """One weight mantissa."""
        return 1 / self.scale

    @property
    def rests(self) -> bool:
        """Without a bias, no input leaves both states at zero."""
        return not self.bias.any()

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and are the integers they stand for."""
        super().check(shape)
        one = 1 << DECAY_BITS
        if any(((d < 0) | (d > one)).any() for d in (self.decay_u, self.decay_v)):
            raise S2CError(f"a decay of a fixed-point neuron lies outside 0…{one}", why=self.describe())
        for name, value in (("v_threshold", self.v_threshold), ("bias", self.bias)):
            mantissas = value[np.isfinite(value)] * self.scale
            if (mantissas != np.rint(mantissas)).any():
                raise S2CError(f"{name} of a fixed-point neuron is no multiple of 1/{self.scale}", why=values(value))

    def describe(self) -> str:
        """Every choice, in one line."""
        parts = [f"decay u {values(self.decay_u)}/4096 v {values(self.decay_v)}/4096"]
        if not self.integrates_only:
            parts.append(f"v > {values(self.v_threshold)}, hard reset")
        if self.bias.any():
            parts.append(f"bias {values(self.bias)}")
        return ", ".join(parts)

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """Integer states of zero for input like ``x`` [N, ...]."""
        zero = xp.truncated(xp.full_like(x, 0.0))
        return {"u_mantissa": zero, "v_mantissa": zero}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step; ``u``, ``v`` and ``h`` are the mantissas' values."""
        fine = self.scale << STATE_SHIFT
        u = _kept(state["u_mantissa"], xp.integers(self.decay_u, x), xp) + xp.truncated(x * fine)
        bias = xp.integers(np.rint(self.bias * fine).astype(np.int64), x)
        h = _kept(state["v_mantissa"], xp.integers(self.decay_v, x), xp) + u + bias
        zero = xp.full_like(x, 0.0)
        v = h
        if not self.integrates_only:
            theta = xp.integers(np.rint(self.v_threshold * fine).astype(np.int64), x)
            fired = h > theta
            v = xp.where(fired, 0 * h, h)
        new = {"u_mantissa": u, "v_mantissa": v, "u": zero + u / fine, "v": zero + v / fine}
        if self.integrates_only:
            return {**new, "h": new["v"]}, new["v"]
        return {**new, "h": zero + h / fine}, self.spike_value * xp.where(fired, zero + 1, zero)

    def operations(self) -> Operations:
        """Two multiply-adds and an addition, as the integer neuron."""
        return Operations(2, 3)

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerLIF:
        """The integers it was trained in.

        Raises:
            S2CError: the chip rounds or shifts otherwise, or ``unit`` is not the unit of the training.
        """
        wanted = {"decay_bits": DECAY_BITS, "decay_rounding": "zero", "input_shift": STATE_SHIFT}
        found = {name: getattr(arithmetic, name) for name in wanted} | {"unit": unit * self.scale}
        differing = [name for name, value in (wanted | {"unit": 1.0}).items() if found[name] != value]
        if arithmetic.threshold_shift != STATE_SHIFT or differing:
            raise S2CError(
                "the chip does not compute as the neuron was trained",
                why=f"it was trained in Loihi's fixed point; here differ: {', '.join(differing) or 'threshold_shift'}",
                fix="use the target loihi or loihi2",
            )
        return IntegerLIF(
            v_threshold=None if self.integrates_only else np.rint(self.v_threshold * self.scale),
            decay_v=self.decay_v,
            decay_u=self.decay_u,
            bias=np.rint(self.bias * self.scale),
            bias_exp=STATE_SHIFT,
            bias_u=unless_zero(bias * (self.scale << STATE_SHIFT)),
            fire=">",
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Nothing is rounded."""
        return 0.0


def _kept(state: Any, decay: Any, xp: ArrayNamespace) -> Any:
    """What is left of a mantissa after one step's decay, rounded toward zero."""
    product = state * ((1 << DECAY_BITS) - decay)
    return xp.where(product < 0, -(-product >> DECAY_BITS), product >> DECAY_BITS)
