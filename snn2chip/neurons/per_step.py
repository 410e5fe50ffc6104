"""A LIF whose input is scaled and shifted anew at every step: what batch norm per time step leaves behind.

TEBN (Duan et al. 2022) multiplies the normalized input by a factor per step, BNTT (Kim & Panda 2021) normalizes every
step with statistics of its own. Both come to

    y[t] = f[t]·x[t] + o[t],    t = 0 … T − 1 counted from the start of the sample

in front of a :class:`~snn2chip.neurons.lif.LIF`. Steps beyond T are taken like the last. One step is then not like the
next: the neuron counts steps, which no chip with a fixed neuron does.

Integer: see :func:`integer_step`. Its product stays below 2**62: registers of 24 bits, a shift by 6, factors of 30.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.target import Limits
from snn2chip.neurons.arithmetic import shift_right
from snn2chip.neurons.base import (
    ArrayNamespace,
    Bounds,
    FloatNeuron,
    IntegerNeuron,
    Operations,
    Range,
    State,
    check_fits,
    hold,
    values,
)
from snn2chip.neurons.fixed_point import bias_mantissa
from snn2chip.neurons.lif import LIF, IntegerLIF, lif_step

Steps = tuple[Array, ...]
_KIND = "PerStepLIF"
_LARGEST_FACTOR_BITS = 30


def _check(model: PerStepLIF | IntegerPerStepLIF, shape: Shape) -> None:
    """Raise unless the LIF fits the population, and every step's factor and offset do."""
    if not model.factor or len(model.factor) != len(model.offset):
        raise S2CError(
            f"{len(model.factor)} factors and {len(model.offset)} offsets of steps",
            fix="give one of each for every time step",
        )
    model.lif.check(shape)
    for name, arrays in (("factor", model.factor), ("offset", model.offset)):
        for t, array in enumerate(arrays):
            check_fits(f"{name} of step {t}", array, shape)


def _scaled(factors: Steps, one: float) -> str:
    low, high = (f(x / one for array in factors for x in (array.min(), array.max())) for f in (min, max))
    return f"input times {low:.4g}…{high:.4g}, another factor at each of {len(factors)} steps"


@dataclass(frozen=True, eq=False)
class PerStepLIF(FloatNeuron):
    """A float LIF behind factors and offsets of its input that differ from step to step.

    Args:
        lif: the neuron.
        factor: f[t], an array per step that broadcasts against the population's shape.
        offset: o[t], likewise.
    """

    lif: LIF
    factor: Steps
    offset: Steps
    kind = _KIND

    def __post_init__(self) -> None:
        for name in ("factor", "offset"):
            object.__setattr__(self, name, tuple(np.asarray(x, np.float64) for x in getattr(self, name)))

    @property
    def v_threshold(self) -> Array:  # type: ignore[override]
        """The LIF's."""
        return self.lif.v_threshold

    @property
    def spike_value(self) -> float:  # type: ignore[override]
        """The LIF's."""
        return self.lif.spike_value

    @property
    def integrates_only(self) -> bool:
        """Whether it never fires."""
        return self.lif.integrates_only

    @property
    def input_gain(self) -> Array:
        """The LIF's: factors are beside it."""
        return self.lif.input_gain

    @property
    def leak_bias(self) -> Array:
        """The LIF's."""
        return self.lif.leak_bias

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape and describe a neuron."""
        _check(self, shape)

    def describe(self) -> str:
        """Every choice, in one line."""
        return f"{_scaled(self.factor, 1.0)}; {self.lif.describe()}"

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """The LIF's state, and ``t``, which counts steps."""
        return {**self.lif.start(x, xp), "t": 0}

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One step."""
        t = min(state["t"], len(self.factor) - 1)
        y = xp.const(self.factor[t], x) * x + xp.const(self.offset[t], x)
        new, out = self.lif.step({k: v for k, v in state.items() if k != "t"}, y, xp)
        return {**new, "t": state["t"] + 1}, out

    def operations(self) -> Operations:
        """The LIF's, and a multiply-add for the step's factor and offset."""
        own = self.lif.operations()
        return Operations(own.multiplications + 1, own.additions + 1)

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerPerStepLIF:
        """See :meth:`FloatNeuron.quantized`; the bias stands before the factors, as the weights do."""
        fine = unit / (1 << arithmetic.input_shift)
        return IntegerPerStepLIF(
            self.lif.quantized(np.zeros(()), unit, limits, arithmetic),
            tuple(np.rint(f * (1 << arithmetic.decay_bits)) for f in self.factor),
            tuple(np.rint(o / fine) for o in self.offset),
            arithmetic.decay_bits,
            *bias_mantissa(bias / fine, limits),
        )

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Of the decay and of the factors, absolute."""
        one = 1 << neuron.factor_bits
        factors = (
            float(np.max(np.abs(held / one - real))) for held, real in zip(neuron.factor, self.factor, strict=True)
        )
        return max(self.lif.rounding_error(neuron.lif, unit, arithmetic), *factors)


@dataclass(frozen=True, eq=False)
class IntegerPerStepLIF(IntegerNeuron):
    """The same neuron on the chip; every array int64, broadcasting against the population's shape.

    Args:
        lif: the neuron; its own bias is what its leak adds.
        factor: mantissas, an array per step; ``factor[t] / 2**factor_bits`` multiplies the input.
        offset: added to the input after that, in the current's unit, an array per step.
        bias, bias_exp: ``bias << bias_exp`` is added to the input before it is multiplied.
    """

    lif: IntegerLIF
    factor: Steps
    offset: Steps
    factor_bits: int
    bias: Array
    bias_exp: int = 6
    kind = _KIND

    def __post_init__(self) -> None:
        for name in ("factor", "offset"):
            object.__setattr__(self, name, tuple(np.asarray(x, np.int64) for x in getattr(self, name)))
        hold(self, np.int64, "bias")

    @property
    def v_threshold(self) -> Array | None:  # type: ignore[override]
        """The LIF's."""
        return self.lif.v_threshold

    def check(self, shape: Shape) -> None:
        """Raise unless the parameters fit the shape."""
        _check(self, shape)
        super().check(shape)

    def describe(self) -> str:
        """Every choice, in one line."""
        bias = f"bias {values(self.bias)}<<{self.bias_exp}, " if self.bias.any() else ""
        return f"{bias}{_scaled(self.factor, 2.0**self.factor_bits)}; {self.lif.describe()}"

    def parameters(self, arithmetic: Arithmetic) -> dict[str, Any]:
        """Those of the LIF, which is fed in the current's unit, and ``factor``, ``offset`` and ``input_bias``."""
        return {
            **self.lif.parameters(arithmetic),
            "input_shift": 0,
            "fed_shift": arithmetic.input_shift,
            "input_bias": self.membrane_bias,
            "factor": self.factor,
            "factor_bits": self.factor_bits,
            "offset": self.offset,
        }

    def start(self, shape: Shape) -> State:
        """The LIF's state, and the step count."""
        return {**self.lif.start(shape), "t": np.zeros(shape, dtype=np.int64)}

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerLIF:
        """The LIF fed with the mean of the steps' offsets, and without their factors."""
        shift = np.rint(self.membrane_bias + np.mean(np.broadcast_arrays(*self.offset), axis=0)).astype(np.int64)
        if self.lif.bias_u is not None or (self.lif.decay_u != 1 << arithmetic.decay_bits).any():
            return dataclasses.replace(self.lif, bias_u=shift + (0 if self.lif.bias_u is None else self.lif.bias_u))
        return dataclasses.replace(self.lif, bias=shift + self.lif.membrane_bias, bias_exp=0)

    def operations(self) -> Operations:
        """The LIF's; bias, factor and offset of the input; the step count."""
        own = self.lif.operations()
        return Operations(own.multiplications + 1, own.additions + 3)

    def representable(self, limits: Limits, arithmetic: Arithmetic) -> bool:
        """Whether the LIF and the bias are, and no product can leave 62 bits."""
        largest = max(int(np.abs(f).max()) for f in self.factor)
        fits = largest < 1 << _LARGEST_FACTOR_BITS and arithmetic.current_bits + arithmetic.input_shift <= 32
        return fits and super().representable(limits, arithmetic) and self.lif.representable(limits, arithmetic)

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """Those of the LIF for the largest and smallest input that any step's factor and offset leave."""
        low, high = (min(sums[0], 0) << arithmetic.input_shift), (max(sums[1], 0) << arithmetic.input_shift)
        reached: list[int] = []
        for factor, offset in zip(self.factor, self.offset, strict=True):
            for end in (low, high):
                scaled = shift_right((end + self.membrane_bias) * factor, self.factor_bits, arithmetic.decay_rounding)
                reached += [int(np.min(scaled + offset)), int(np.max(scaled + offset))]
        fed = dataclasses.replace(arithmetic, input_shift=0)
        own = self.lif.bounds((min(reached), max(reached)), fed, steps)
        return Bounds(max(abs(sums[0]), abs(sums[1])), own.u, own.v)


def integer_step(state: dict[str, Any], a: Any, p: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One step in fixed point: (u, v, step count; spikes 0/1, or v where it never fires)."""
    t = state["t"]
    factor, offset = p["factor"][0], p["offset"][0]
    for step in range(1, len(p["factor"])):
        factor = np.where(t >= step, p["factor"][step], factor)
        offset = np.where(t >= step, p["offset"][step], offset)
    fed = (a << p["fed_shift"]) + p["input_bias"]
    fed = shift_right(fed * factor, p["factor_bits"], p["decay_rounding"]) + offset
    new, out = lif_step({"u": state["u"], "v": state["v"]}, fed, p)
    # What comes after the last step is taken like it: the count need not grow on.
    return {**new, "t": np.minimum(t + 1, len(p["factor"]))}, out


IntegerPerStepLIF.program = (lif_step, integer_step)
