"""What every neuron model provides, float and integer, and the operation counts the energy report uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.structure import Struct
from snn2chip.ir.target import Limits

State = dict[str, Any]
Range = tuple[int, int]


class Operations(NamedTuple):
    """Arithmetic of one update of one neuron."""

    multiplications: int
    additions: int


@dataclass(frozen=True)
class Bounds:
    """Largest magnitudes a population's registers can reach within T steps of a sample.

    ``accumulator`` in the unit of the summed input, ``u`` and ``v`` in the membrane's.
    """

    accumulator: int
    u: int
    v: int


class ArrayNamespace(Protocol):
    """The part of numpy or torch a float step needs."""

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """``a`` where the condition holds, else ``b``."""

    def full_like(self, x: Any, value: float) -> Any:
        """A tensor like ``x`` filled with ``value``."""

    def const(self, value: Array, like: Any) -> Any:
        """A parameter as a tensor of ``like``'s dtype and device."""

    def integers(self, value: Array, like: Any) -> Any:
        """The same, as int64."""

    def truncated(self, x: Any) -> Any:
        """``x`` rounded toward zero, as int64."""

    def tanh(self, x: Any) -> Any:
        """Hyperbolic tangent."""


@dataclass(frozen=True, eq=False)
class NeuronModel(Struct):
    """Base of float and integer neuron models; parameters broadcast against the population's shape."""

    kind: ClassVar[str] = "Neuron"
    spikes: ClassVar[Range] = (0, 1)

    def check(self, shape: Shape) -> None:
        """Raise unless every array parameter broadcasts against ``shape``."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                check_fits(name, value, shape)

    def describe(self) -> str:
        """One line for people."""
        return ""


class FloatNeuron(NeuronModel):
    """A neuron as it was trained.

    Every model has the fields ``v_threshold`` (an array; ``np.inf``: it never fires) and ``spike_value`` (what a spike
    is worth to the next layer); some have ``gain``, a factor on their input.
    """

    v_threshold: Array
    spike_value: float
    gain: Array = np.ones(())

    @property
    def integrates_only(self) -> bool:
        """Whether it never fires; its output is then the membrane."""
        return False

    @property
    def input_gain(self) -> Array:
        """What the input is multiplied by before it adds to the membrane."""
        return self.gain

    @property
    def leak_bias(self) -> Array:
        """What the neuron itself adds to the membrane at every step, beside what decays."""
        return np.zeros(())

    @property
    def trained_unit(self) -> float | None:
        """What one unit of the integer sum is worth, where the training fixed it; None: quantization chooses."""
        return None

    @property
    def scale_advice(self) -> str:
        """What brings it into the chip's registers where no scale does."""
        return "rescale the layer: dividing weights, bias and threshold by one factor changes nothing else"

    @property
    def rests(self) -> bool:
        """Whether it is known to stay in its first state, and silent, for as long as its input is zero."""
        return False

    def scaled_input(self, x: Any, xp: ArrayNamespace) -> Any:
        """The input times ``gain``."""
        return x if (self.gain == 1).all() else xp.const(self.gain, x) * x

    def start(self, x: Any, xp: ArrayNamespace) -> State:
        """The state before the first step, for input like ``x``."""
        raise NotImplementedError

    def step(self, state: State, x: Any, xp: ArrayNamespace) -> tuple[State, Any]:
        """One time step: (new state, output).

        ``state["v"]`` is what the framework reports as the membrane, ``state["h"]`` what was compared with
        ``v_threshold``.
        """
        raise NotImplementedError

    def operations(self) -> Operations:
        """Multiplications and additions of one update."""
        raise NotImplementedError

    def quantized(self, bias: Array, unit: float, limits: Limits, arithmetic: Arithmetic) -> IntegerNeuron:
        """The neuron in integers, where one unit of its summed input is worth ``unit``.

        Args:
            bias: float bias of the summed input, broadcasting against the population.
            unit: float value of one unit of the summed input.
            limits, arithmetic: of the target.

        A membrane unit is worth input_gain · unit / 2**input_shift, a threshold mantissa input_gain · unit (where the
        chip shifts both alike). Whether the integers fit the chip is asked of the result, see
        :meth:`IntegerNeuron.representable`.
        """
        raise NotImplementedError

    def rounding_error(self, neuron: Any, unit: float, arithmetic: Arithmetic) -> float:
        """Largest error of a factor of the dynamics (decay, coefficient) after :meth:`quantized` rounded it."""
        raise NotImplementedError


class IntegerNeuron(NeuronModel):
    """A neuron as the chip computes it; int64 in, int64 out.

    Every model has the fields ``v_threshold`` (mantissas, or None: it never fires and its output is v), ``bias`` and
    ``bias_exp``: ``bias << bias_exp`` is added to the membrane at every step.

    ``program`` is what it computes: functions on integers with ``+ - * >> << & where minimum maximum`` and comparisons,
    which call one another and ``neurons/arithmetic.py``. The last one is the step, ``(state, a, parameters) -> (state,
    output)``. They and the parameters are all that an emitted process or a compiled kernel needs.
    """

    program: ClassVar[tuple[Callable[..., Any], ...]]
    v_threshold: Array | None
    bias: Array
    bias_exp: int

    @property
    def native(self) -> bool:
        """Whether the fixed LIF of Loihi and Lava computes exactly this."""
        return False

    @property
    def membrane_bias(self) -> Array:
        """What is added to the membrane at every step."""
        return self.bias << self.bias_exp if self.bias_exp >= 0 else self.bias >> -self.bias_exp

    @property
    def input_bias(self) -> Array:
        """The bias of the input, in the unit of the membrane."""
        return self.bias * 2.0**self.bias_exp

    def parameters(self, arithmetic: Arithmetic) -> dict[str, Any]:
        """What the program takes: the fields, threshold and bias shifted into place, and the chip's arithmetic.

        ``fires`` says whether there is a threshold.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        threshold = 0 if self.v_threshold is None else self.v_threshold << arithmetic.threshold_shift
        return {
            **fields,
            **vars(arithmetic),
            "threshold": threshold,
            "fires": self.v_threshold is not None,
            "bias": self.membrane_bias,
        }

    def start(self, shape: Shape) -> State:
        """The state before the first step, int64 [N, ...]: no current, the membrane at its start."""
        zero = np.zeros(shape, dtype=np.int64)
        v_start = getattr(self, "v_start", None)
        return {"u": zero, "v": zero if v_start is None else zero + v_start}

    def step(self, state: State, a: Array, arithmetic: Arithmetic) -> tuple[State, Array]:
        """One time step on the summed input ``a``: (new state, output)."""
        new: tuple[State, Array] = self.program[-1](state, a, self.parameters(arithmetic))
        return new

    def nearest_lif(self, arithmetic: Arithmetic) -> IntegerNeuron:
        """The ``IntegerLIF`` that comes closest, for readers who know no other; what it lacks is said beside it."""
        raise NotImplementedError

    def operations(self) -> Operations:
        """Multiplications and additions of one update."""
        raise NotImplementedError

    def representable(self, limits: Limits, arithmetic: Arithmetic) -> bool:
        """Whether every parameter lies in the chip's range for it."""
        if self.v_threshold is not None and (
            self.v_threshold.max() > limits.threshold_max or self.v_threshold.min() < 1
        ):
            return False
        return bool(np.abs(self.bias).max(initial=0) <= limits.bias_max) and self.bias_exp <= limits.bias_exp_max

    def bounds(self, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
        """What the registers can reach in ``steps`` steps from rest when every step's sum lies in ``sums``."""
        raise NotImplementedError


def check_fits(name: str, value: Array, shape: Shape) -> None:
    """Raise unless a parameter broadcasts against a population's shape."""
    try:
        fits = np.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise S2CError(
            f"{name} has shape {value.shape}, which does not fit {shape} neurons",
            fix="give one value, one per channel as (C, 1, 1), or one per neuron",
        )


def constant(value: float) -> Callable[[], Array]:
    """The default factory of a field that holds an array."""
    return lambda: np.asarray(value)


def hold(model: NeuronModel, dtype: Any, *names: str) -> None:
    """Make arrays of a frozen model's fields, where they are not None."""
    for name in names:
        value = getattr(model, name)
        if value is not None:
            object.__setattr__(model, name, np.asarray(value, dtype=dtype))


def values(x: Any) -> str:
    """A parameter for print: one number, or its range."""
    a = np.asarray(x)
    if a.size and (a == a.flat[0]).all():
        return f"{a.flat[0]:.6g}"
    return f"{a.min():.4g}…{a.max():.4g}"


def reset_in_words(reset: str, timing: str = "same", v_reset: Array | None = None) -> str:
    """A reset for print; its target where that is not zero, and its timing where it is not the step of the spike."""
    to = f" to {values(v_reset)}" if reset == "hard" and v_reset is not None and v_reset.any() else ""
    when = f" ({timing})" if timing != "same" and reset != "none" else ""
    return f"{reset} reset{to}{when}"


Fire = Literal[">", ">="]
Reset = Literal["hard", "soft", "none"]
ResetTiming = Literal["same", "gate", "next"]
