"""Operators as layers: one row of a table per operator that is no elementwise one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.step import Op, Step
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Shape


@dataclass(frozen=True)
class Converted:
    """The tensors that enter, and layers one behind the other; none where the operator changes nothing."""

    inputs: tuple[str, ...]
    layers: tuple[L.Layer, ...]


def convert(op: Op, step: Step, output: str) -> Converted:
    """An operator as layers; ``output`` is the one of its outputs that is wanted.

    Raises:
        S2CError: there is no layer that does the same.
    """
    if op.kind not in _READERS:
        raise S2CError(
            f"there is no layer for the operator {op.kind}",
            where=op.where,
            why=_REASONS.get(op.kind, f"known are {', '.join(sorted(_READERS))}, and elementwise arithmetic"),
            fix="replace it in the model and export again",
        )
    try:
        converted = _READERS[op.kind](_Reader(op, step, output))
    except S2CError as error:
        raise S2CError(error.what, where=error.where or op.where, why=error.why, fix=error.fix) from None
    return converted


_UNROLLED = "loops are read as Scan, or as a model of one step with its states as inputs and outputs"
_REASONS = {
    "Loop": _UNROLLED,
    "If": "a network is the same for all data",
    "Scan": "a Scan inside a step is a loop inside the time loop",
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), "export the float model; snn2chip quantizes it"),
}


@dataclass(frozen=True)
class _Reader:
    """One operator, with readers of its constants and attributes."""

    op: Op
    step: Step
    output: str

    def attribute(self, name: str, default: Any) -> Any:
        return self.op.attributes.get(name, default)

    def given(self, position: int) -> bool:
        return position < len(self.op.inputs) and bool(self.op.inputs[position])

    def constant(self, position: int, what: str) -> Array:
        value = self.step.constant(self.op.inputs[position])
        if value is None:
            raise S2CError(
                f"its {what} changes from step to step",
                why=f"{self.op.inputs[position]} is no constant of the file",
                fix="export the model in evaluation mode, with its weights in the file",
            )
        return value

    def shape(self, position: int = 0) -> Shape:
        return self.step.shape(self.op.inputs[position])

    @property
    def result(self) -> Shape:
        return self.step.shape(self.output)

    def one(self, layer: L.Layer) -> Converted:
        """A layer on the first input."""
        return Converted(self.op.inputs[:1], (layer,))

    def refuse(self, what: str, why: str = "", fix: str = "") -> S2CError:
        return S2CError(what, where=self.op.where, why=why, fix=fix)


def _conv(r: _Reader) -> Converted:
    weight = r.constant(1, "weight")
    axes = weight.ndim - 2
    cls: type[L.Conv] | None = {1: L.Conv1d, 2: L.Conv2d}.get(axes)
    if cls is None:
        raise r.refuse(f"a convolution over {axes} axes", why="one or two are supported")
    bias = r.constant(2, "bias") if r.given(2) else None
    stride, dilation = (tuple(r.attribute(n, [1] * axes)) for n in ("strides", "dilations"))
    padding = _padding(r, weight.shape[2:], stride, dilation)
    return r.one(cls(weight, bias, stride, padding, dilation, r.attribute("group", 1)))


def _padding(r: _Reader, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    """Padding per axis, the same on both sides.

    Raises:
        S2CError: the two sides differ.
    """
    automatic = r.attribute("auto_pad", "NOTSET")
    before: Sequence[int] = r.attribute("pads", [0] * (2 * len(kernel)))[: len(kernel)]
    after: Sequence[int] = r.attribute("pads", [0] * (2 * len(kernel)))[len(kernel) :]
    if automatic.startswith("SAME"):
        sizes = zip(r.shape()[1:], r.result[1:], kernel, stride, dilation, strict=True)
        total = [max(0, (out - 1) * s + d * (k - 1) + 1 - n) for n, out, k, s, d in sizes]
        before, after = [t // 2 for t in total], [t - t // 2 for t in total]
    if list(before) != list(after):
        raise r.refuse(
            f"padding {tuple(before)} in front and {tuple(after)} behind",
            why="a layer pads both sides alike",
            fix="use a kernel of odd size, or pad both sides alike",
        )
    return tuple(int(p) for p in before)


def _gemm(r: _Reader) -> Converted:
    if r.attribute("transA", 0):
        raise r.refuse("Gemm with transA mixes samples")
    weight = r.constant(1, "weight")
    weight = weight if r.attribute("transB", 0) else weight.T
    alpha, beta = (np.asarray(r.attribute(name, 1.0), dtype=weight.dtype) for name in ("alpha", "beta"))
    weight = np.ascontiguousarray(weight if alpha == 1 else alpha * weight)
    bias = None
    if r.given(2):
        bias = r.constant(2, "bias")
        bias = np.broadcast_to(bias if beta == 1 else beta * bias, (1, weight.shape[0]))[0].copy()
    return r.one(L.Linear(weight, bias))


def _matmul(r: _Reader) -> Converted:
    left, right = (r.step.constant(name) for name in r.op.inputs)
    if left is not None:
        raise r.refuse("a constant matrix is multiplied from the left", why="a linear layer acts on the last axis")
    if right is None:
        return Converted(r.op.inputs, (L.MatMul(),))
    if right.ndim != 2:
        raise r.refuse(f"a matrix product with a constant of shape {right.shape}", why="a weight has two axes")
    return r.one(L.Linear(np.ascontiguousarray(right.T)))


def _batch_norm(r: _Reader) -> Converted:
    if r.attribute("training_mode", 0) or len([name for name in r.op.outputs if name]) > 1:
        raise r.refuse(
            "a batch norm in training mode",
            why="it would normalise with the statistics of the batch",
            fix="call model.eval() and export again (a fresh wrapper around a model needs its own .eval())",
        )
    weight, bias, mean, var = (r.constant(i, "statistics") for i in range(1, 5))
    return r.one(L.BatchNorm(weight, bias, mean, var, r.attribute("epsilon", 1e-5)))


def _pool(r: _Reader) -> Converted:
    kernel = tuple(r.attribute("kernel_shape", ()))
    stride = tuple(r.attribute("strides", [1] * len(kernel)))
    dilation = tuple(r.attribute("dilations", [1] * len(kernel)))
    if set(dilation) != {1} or r.attribute("storage_order", 0) or len([n for n in r.op.outputs if n]) > 1:
        raise r.refuse("pooling with dilation, or that returns indices", fix="pool without")
    padding = _padding(r, kernel, stride, dilation)
    ceil_mode = bool(r.attribute("ceil_mode", 0))
    if r.op.kind == "MaxPool":
        return r.one(L.MaxPool(kernel, stride, padding, ceil_mode))
    return r.one(L.AvgPool(kernel, stride, padding, ceil_mode, bool(r.attribute("count_include_pad", 0))))


def _global_pool(r: _Reader) -> Converted:
    kernel = r.shape()[1:]
    cls = L.MaxPool if r.op.kind == "GlobalMaxPool" else L.AvgPool
    return r.one(cls(kernel, kernel, (0,) * len(kernel)))


def _mean(r: _Reader) -> Converted:
    shape = r.shape()
    axes = r.constant(1, "axes") if r.given(1) else np.asarray(r.attribute("axes", ()))
    if sorted(int(a) % (len(shape) + 1) for a in axes.ravel()) != list(range(2, len(shape) + 1)) or len(shape) < 2:
        raise r.refuse(f"a mean over the axes {axes.ravel().tolist()}", why="a pooling layer takes the axes of space")
    kernel = shape[1:]
    pool = L.AvgPool(kernel, kernel, (0,) * len(kernel))
    return Converted(r.op.inputs[:1], (pool, *view(pool.output_shape(shape), r.result)))


def _view(r: _Reader) -> Converted:
    return Converted(r.op.inputs[:1], view(r.shape(), r.result))


def view(shape: Shape, wanted: Shape) -> tuple[L.Layer, ...]:
    """The layer that views one shape as another, or none."""
    if shape == wanted:
        return ()
    return (L.Flatten() if len(wanted) == 1 else L.Reshape(wanted),)


def _transpose(r: _Reader) -> Converted:
    dimensions = len(r.shape()) + 1
    order = r.attribute("perm", list(reversed(range(dimensions))))
    if order[0] != 0:
        raise r.refuse("a transposition moves the batch axis", why=f"perm is {tuple(order)}")
    if order == list(range(dimensions)):
        return Converted(r.op.inputs, ())
    return r.one(L.Permute(tuple(axis - 1 for axis in order[1:])))


def _concat(r: _Reader) -> Converted:
    axis = r.attribute("axis", 1) % (len(r.shape()) + 1)
    if axis == 0:
        raise r.refuse("samples are joined into one batch", why="axis 0 is the batch")
    return Converted(r.op.inputs, (L.Concat(axis - 1),))


def _moved(r: _Reader) -> Converted:
    """What an operator takes of its input, repeats or puts zeros around: it is run on the elements' own numbers."""
    for position in range(1, len(r.op.inputs)):
        if r.given(position):
            r.constant(position, "choice of elements")
    fills = r.op.kind == "Pad" and r.attribute("mode", "constant") == "constant"
    if fills and r.given(2) and r.constant(2, "value").any():
        raise r.refuse("padding with other values than zeros", fix="pad with zeros")
    source, shape, batch = r.op.inputs[0], r.shape(), r.step.batch
    numbers = np.arange(1, batch * math.prod(shape) + 1).reshape(batch, *shape)
    (found,) = r.step.evaluator([r.output], [source])({source: numbers})
    first, samples = found[0].astype(np.int64), np.arange(batch).reshape(-1, *(1,) * (found.ndim - 1))
    if (found != np.where(first, first + samples * math.prod(shape), 0)).any():
        raise r.refuse("what becomes of an element is not the same for every sample")
    index = first - 1
    same = index.shape == shape and (index.ravel() == np.arange(index.size)).all()
    return Converted((source,), () if same else (L.Gather(index),))


_READERS: dict[str, Callable[[_Reader], Converted]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _mean,
    "Flatten": _view,
    "Reshape": _view,
    "Squeeze": _view,
    "Unsqueeze": _view,
    "Transpose": _transpose,
    "Concat": _concat,
    **dict.fromkeys(("Slice", "Split", "Gather", "Pad", "Expand", "Tile"), _moved),
}


def with_constant(layer: L.Layer, constant: Array, shape: Shape) -> L.Layer | None:
    """A linear layer or convolution of this output shape with a constant added; None where it has no such bias."""
    if not isinstance(layer, (L.Linear, L.Conv)):
        return None
    axis = len(shape) - 1 if isinstance(layer, L.Linear) else 0
    added = per_entry(constant, shape, axis)
    if added is not None:
        return replace(layer, bias=added if layer.bias is None else layer.bias + added)
    if isinstance(layer, L.Linear):
        return None
    per_place = np.broadcast_to(unbatched(constant, shape), shape)
    return replace(layer, bias=per_place + (0 if layer.spread_bias is None else layer.spread_bias))


def shifted(constant: Array, shape: Shape) -> L.Layer | None:
    """A layer that adds a constant per channel, or per place of a map; None where there are no places."""
    added = per_entry(constant, shape, 0)
    if added is None:
        maps = len(shape) in (2, 3)
        return L.added(np.ascontiguousarray(np.broadcast_to(unbatched(constant, shape), shape))) if maps else None
    ones, zeros = np.ones_like(added), np.zeros_like(added)
    return L.BatchNorm(ones, added, zeros, ones, 0.0)


def per_entry(constant: Array, shape: Shape, axis: int) -> Array | None:
    """A constant that broadcasts to ``shape`` as one number per entry of ``axis``, or None."""
    full = np.broadcast_to(unbatched(constant, shape), shape)
    along = np.moveaxis(full, axis, 0).reshape(shape[axis], -1)
    return np.array(along[:, 0]) if (along == along[:, :1]).all() else None


def unbatched(constant: Array, shape: Shape) -> Array:
    """A constant without the batch axis of the tensor it is combined with.

    Raises:
        S2CError: it differs from sample to sample.
    """
    if constant.ndim <= len(shape):
        return constant
    if (constant != constant[:1]).any():
        raise S2CError(
            "a constant differs from sample to sample",
            why=f"its shape is {constant.shape}",
            fix="export with a batch of one, or with a free batch axis",
        )
    return cast(Array, constant[0])
