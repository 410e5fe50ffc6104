"""The layers of a network: what each one is, the arrays it holds, and the shape it gives.

Shapes carry neither batch nor time; images are PyTorch's (C, H, W). The same classes serve the float
:class:`~snn2chip.ir.graph.Graph`, where their arrays are floats, and the :class:`~snn2chip.ir.program.Program`, where
they are int64. To add a layer: a class here, and its arithmetic in ``snn2chip/simulate/ops.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.structure import Struct

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]


class NeuronModel(Protocol):
    """What the IR asks of a neuron: its name in print, and that its parameters fit a shape."""

    kind: ClassVar[str]

    def check(self, shape: Shape) -> None:
        """Raise :class:`S2CError` unless the parameters are sound for neurons of this shape."""

    def describe(self) -> str:
        """One line for people: every choice that papers disagree on."""


@dataclass(frozen=True, eq=False)
class Layer(Struct):
    """Base of all layers."""

    inputs_allowed: ClassVar[tuple[int, int | None]] = (1, 1)
    synaptic: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The layer's name in prints, reports and files."""
        return type(self).__name__

    def output_shape(self, *inputs: Shape) -> Shape:
        """The shape of the output for inputs of these shapes; :class:`S2CError` where they don't fit."""
        return inputs[0]

    def describe(self) -> str:
        """One short line for people: what a reader needs beside the kind and the shape."""
        return ""


@dataclass(frozen=True, eq=False)
class Input(Layer):
    """The data of one time step, ``shape`` without batch and time."""

    shape: Shape
    inputs_allowed: ClassVar[tuple[int, int | None]] = (0, 0)

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """``y = W x + b`` over the last axis. ``weight`` (out, in), ``bias`` (out,) or None.

    ``delay`` (out, in), whole time steps per synapse, or None: Loihi's synaptic delays
    (Lava ``proc/dense/models.py`` DelayDense).
    """

    weight: Array
    bias: Array | None = None
    delay: Array | None = None
    synaptic: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        out, width = self.weight.shape
        if not shape or shape[-1] != width:
            raise S2CError(
                f"a linear layer with {width} inputs is fed a tensor of shape {shape}",
                fix="flatten before it, or correct in_features",
            )
        return (*shape[:-1], out)

    def by_delay(self) -> list[tuple[int, Linear]]:
        """(steps, layer without delays) whose sum is this layer; the bias enters with the first."""
        if self.delay is None:
            return [(0, self)]
        weights = [(int(steps), self.weight * (self.delay == steps)) for steps in np.unique(self.delay)]
        return [(steps, Linear(weight, None if i else self.bias)) for i, (steps, weight) in enumerate(weights)]

    def describe(self) -> str:
        out, width = self.weight.shape
        return f"{width}→{out}" + ("" if self.bias is None else " +bias") + ("" if self.delay is None else " delays")


@dataclass(frozen=True, eq=False)
class Conv(Layer):
    """Cross-correlation as PyTorch defines it. ``weight`` (C_out, C_in/groups, *kernel).

    ``bias`` (C_out,), or the output's shape (C_out, *out) where it differs from place to place, or None.
    """

    weight: Array
    bias: Array | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    synaptic: ClassVar[bool] = True
    axes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        defaults = {"stride": 1, "padding": 0, "dilation": 1}
        for name, value in defaults.items():
            given = tuple(int(v) for v in getattr(self, name)) or (value,) * self.axes
            object.__setattr__(self, name, given)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size per spatial axis."""
        return tuple(self.weight.shape[2:])

    @property
    def spread_bias(self) -> Array | None:
        """The bias as it broadcasts against the output: (C_out, 1, …), or (C_out, *out)."""
        if self.bias is None or self.per_place:
            return self.bias
        return self.bias.reshape(-1, *(1,) * self.axes)

    @property
    def per_place(self) -> bool:
        """Whether every place of the output has a bias of its own."""
        return self.bias is not None and self.bias.ndim > 1

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        channels = self.weight.shape[1] * self.groups
        if len(shape) != self.axes + 1 or shape[0] != channels:
            raise S2CError(
                f"a {self.kind} layer with {channels} input channels is fed a tensor of shape {shape}",
                why=f"it takes (C, {', '.join('HW'[-self.axes :])}) with C = {channels}",
            )
        out = (self.weight.shape[0], *windows(shape[1:], self.kernel, self.stride, self.padding, self.dilation))
        if self.per_place and self.bias.shape != out:  # type: ignore[union-attr]
            raise S2CError(
                f"a bias of shape {self.bias.shape} for an output of shape {out}",  # type: ignore[union-attr]
                why="there is one number per channel, or one per place of the map it was made for",
            )
        return out

    def describe(self) -> str:
        parts = [
            f"{self.weight.shape[1] * self.groups}→{self.weight.shape[0]}",
            "×".join(map(str, self.kernel)),
        ]
        shown = {"stride": 1, "padding": 0, "dilation": 1}
        parts += [f"{k} {_short(getattr(self, k))}" for k, v in shown.items() if set(getattr(self, k)) != {v}]
        parts += [f"groups {self.groups}"] * (self.groups > 1) + ["+bias"] * (self.bias is not None)
        return " ".join(parts + ["per place"] * self.per_place)


@dataclass(frozen=True, eq=False)
class Conv1d(Conv):
    """One spatial axis: (C, L)."""

    axes: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class Conv2d(Conv):
    """Two spatial axes: (C, H, W)."""

    axes: ClassVar[int] = 2


def added(constant: Array) -> Conv:
    """The convolution that adds a constant (C, *space) to a map of that shape, weight one."""
    axes = constant.ndim - 1
    weight = np.ones((len(constant), 1, *(1,) * axes), constant.dtype)
    return {1: Conv1d, 2: Conv2d}[axes](weight, constant, groups=len(constant))


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """Inference batch norm over axis 0: ``weight·(x − mean)/√(var + eps) + bias``, all (C,)."""

    weight: Array
    bias: Array
    mean: Array
    var: Array
    eps: float = 1e-5

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if shape[0] != len(self.mean):
            raise S2CError(f"batch norm over {len(self.mean)} channels is fed a tensor of shape {shape}")
        return shape

    def affine(self) -> tuple[Array, Array]:
        """The per-channel factor and offset (float64) this layer amounts to."""
        factor = self.weight.astype(np.float64) / np.sqrt(self.var.astype(np.float64) + self.eps)
        return factor, self.bias.astype(np.float64) - self.mean.astype(np.float64) * factor


@dataclass(frozen=True, eq=False)
class Neuron(Layer):
    """A population of neurons; several inputs are summed before they enter, as in a dendrite."""

    model: Any
    inputs_allowed: ClassVar[tuple[int, int | None]] = (1, None)

    @property
    def kind(self) -> str:
        return str(self.model.kind)

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = _all_equal(self.kind, inputs)
        self.model.check(shape)
        return shape

    def describe(self) -> str:
        return str(self.model.describe())


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Base of the pooling layers; one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if len(shape) != len(self.kernel) + 1:
            raise S2CError(f"{self.kind} over {len(self.kernel)} axes is fed a tensor of shape {shape}")
        ones = (1,) * len(self.kernel)
        return (shape[0], *windows(shape[1:], self.kernel, self.stride, self.padding, ones, self.ceil_mode))

    def describe(self) -> str:
        text = f"{_short(self.kernel)} stride {_short(self.stride)}"
        return text + (f" padding {_short(self.padding)}" if any(self.padding) else "")


@dataclass(frozen=True, eq=False)
class AvgPool(Pool):
    """Mean over windows; padding counts as zeros in the mean unless ``count_include_pad`` is False."""

    count_include_pad: bool = True

    def divisors(self, shape: Shape) -> Array:
        """What the mean of every window over an input (C, *space) divides by (as ``torch.nn.AvgPool2d``), float64."""
        counted = self.padding if self.count_include_pad else (0,) * len(self.kernel)
        sizes = np.ones(())
        for n, k, s, real, pad, out in zip(
            shape[1:],
            self.kernel,
            self.stride,
            self.padding,
            counted,
            self.output_shape(shape)[1:],
            strict=True,
        ):
            starts = np.arange(out) * s - real
            sizes = sizes[..., None] * (np.minimum(starts + k, n + pad) - np.maximum(starts, -pad))
        return sizes


@dataclass(frozen=True, eq=False)
class SumPool(Pool):
    """Sum over windows."""


@dataclass(frozen=True, eq=False)
class MaxPool(Pool):
    """Maximum over windows; for binary spikes their OR."""


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Merge axes ``start_dim`` to ``end_dim`` (counted without the batch axis)."""

    start_dim: int = 0
    end_dim: int = -1

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        start, end = (d % len(shape) for d in (self.start_dim, self.end_dim))
        return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """View as ``shape``, row-major, as PyTorch does."""

    shape: Shape

    def output_shape(self, *inputs: Shape) -> Shape:
        if math.prod(inputs[0]) != math.prod(self.shape):
            raise S2CError(f"a tensor of shape {inputs[0]} cannot be viewed as {self.shape}")
        return self.shape

    def describe(self) -> str:
        return f"→{self.shape}"


@dataclass(frozen=True, eq=False)
class Permute(Layer):
    """Reorder the axes (batch not counted)."""

    dims: tuple[int, ...]

    def output_shape(self, *inputs: Shape) -> Shape:
        if sorted(self.dims) != list(range(len(inputs[0]))):
            raise S2CError(f"axes {self.dims} are not an order of a tensor of shape {inputs[0]}")
        return tuple(inputs[0][d] for d in self.dims)

    def describe(self) -> str:
        return str(self.dims)


@dataclass(frozen=True, eq=False)
class Gather(Layer):
    """Any elements of the input in any shape: slices, padding, repetitions.

    ``index``, of the output's shape: places in the flattened input (row-major), or −1 for a zero.
    """

    index: Array

    def output_shape(self, *inputs: Shape) -> Shape:
        size = math.prod(inputs[0])
        if self.index.size and not (self.index.min() >= -1 and self.index.max() < size):
            raise S2CError(f"elements {self.index.min()} to {self.index.max()} are taken from a tensor of {size}")
        return tuple(self.index.shape)

    def describe(self) -> str:
        zeros = int(np.count_nonzero(self.index < 0))
        return f"→{self.index.shape}" + (f" with {zeros} zeros" if zeros else "")


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """Elementwise sum."""

    inputs_allowed: ClassVar[tuple[int, int | None]] = (2, None)

    def output_shape(self, *inputs: Shape) -> Shape:
        return _all_equal(self.kind, inputs)


@dataclass(frozen=True, eq=False)
class Mul(Layer):
    """Elementwise product of two tensors of the network."""

    inputs_allowed: ClassVar[tuple[int, int | None]] = (2, 2)

    def output_shape(self, *inputs: Shape) -> Shape:
        return _all_equal(self.kind, inputs)


@dataclass(frozen=True, eq=False)
class MatMul(Layer):
    """Matrix product over the last two axes, leading axes broadcast."""

    inputs_allowed: ClassVar[tuple[int, int | None]] = (2, 2)

    def output_shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
            raise S2CError(f"matrices of shapes {a} and {b} cannot be multiplied")
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """Join along ``axis`` (batch not counted)."""

    axis: int = 0
    inputs_allowed: ClassVar[tuple[int, int | None]] = (1, None)

    def output_shape(self, *inputs: Shape) -> Shape:
        axis = self.axis % len(inputs[0])
        rests = {shape[:axis] + shape[axis + 1 :] for shape in inputs}
        if len(rests) != 1:
            raise S2CError(f"tensors of shapes {', '.join(map(str, inputs))} cannot be joined along axis {axis}")
        return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """Elementwise product with a constant that broadcasts against the shape."""

    scale: Array

    def output_shape(self, *inputs: Shape) -> Shape:
        try:
            fits = np.broadcast_shapes(self.scale.shape, inputs[0]) == inputs[0]
        except ValueError:
            fits = False
        if not fits:
            raise S2CError(f"a scale of shape {self.scale.shape} does not fit a tensor of shape {inputs[0]}")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Delay(Layer):
    """Every element arrives ``steps`` whole time steps later; zeros before."""

    steps: int

    def describe(self) -> str:
        return f"{self.steps} steps"


@dataclass(frozen=True, eq=False)
class Rescale(Layer):
    """Integer division by 2**shift, half rounded up: how the host hands a wide sum to the chip's membrane unit."""

    shift: int

    def describe(self) -> str:
        return f">>{self.shift}"


@dataclass(frozen=True, eq=False)
class Readout(Layer):
    """What becomes of the T outputs of one sample; always the last but one node, on the host."""

    how: Literal["mean", "sum", "last", "max"] = "mean"

    def describe(self) -> str:
        return f"{self.how} over T"


@dataclass(frozen=True, eq=False)
class Output(Layer):
    """What the deployed network returns."""


def windows(
    size: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool = False,
) -> Shape:
    """Number of sliding windows per axis (the formula of ``torch.nn.Conv2d`` and ``torch.nn.MaxPool2d``)."""
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= n + p:
            count -= 1
        if room < 0:
            raise S2CError(
                f"a window of {d * (k - 1) + 1} does not fit an axis of length {n} with padding {p}",
                fix="check the input size the model was traced with",
            )
        out.append(count)
    return tuple(out)


def _all_equal(kind: str, shapes: tuple[Shape, ...]) -> Shape:
    if len(set(shapes)) != 1:
        raise S2CError(f"{kind} is fed tensors of different shapes: {', '.join(map(str, shapes))}")
    return shapes[0]


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))
