"""Nodes of a NIR graph without a state, and delays, as layers."""

from __future__ import annotations

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.nir.choices import ROUNDING, Choices
from snn2chip.frontend.nir.fields import Fields, fitted
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Shape


def linear(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """Linear and Affine."""
    weight = node.array("weight")
    bias = node.array("bias") if node.fields["type"] == "Affine" or node.has("bias") else None
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shown = "" if bias is None else f" and a bias of shape {bias.shape}"
        raise S2CError(
            f"a weight of shape {weight.shape}{shown}",
            where=node.where,
            why="it takes (out, in) and (out,)",
            fix="export the matrix without batch and time axes, one bias per row",
        )
    return L.Linear(weight, bias)


def conv(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """Conv1d and Conv2d, with padding as numbers or by name."""
    cls: type[L.Conv] = {"Conv1d": L.Conv1d, "Conv2d": L.Conv2d}[node.fields["type"]]
    axes = cls.axes
    weight, bias = node.array("weight"), node.array("bias")
    (groups,) = node.integers("groups", 1)
    if weight.ndim != axes + 2 or bias.shape != weight.shape[:1] or groups < 1 or weight.shape[0] % groups:
        raise S2CError(
            f"a weight of shape {weight.shape}, a bias of shape {bias.shape} and {groups} groups do not fit",
            where=node.where,
            why=f"it takes (out, in/groups{', k' * axes}) and (out,)",
            fix="export the kernel and its bias in these shapes",
        )
    stride, dilation = node.integers("stride", axes), node.integers("dilation", axes)
    padding = _padding(node, weight.shape[2:], stride, dilation)
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise S2CError(
            f"stride {stride}, dilation {dilation}, padding {padding}",
            where=node.where,
            why="they count from 1, 1 and 0",
            fix="export the numbers the layer was trained with",
        )
    return cls(weight, bias if bias.any() else None, stride, padding, dilation, groups)


def _padding(node: Fields, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    named = node.fields.get("padding")
    if not isinstance(named, str):
        return node.integers("padding", len(kernel))
    if named == "valid":
        return (0,) * len(kernel)
    total = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    if named != "same" or set(stride) != {1} or any(t % 2 for t in total):
        raise S2CError(
            f"padding {named!r} with kernel {kernel}, stride {stride}, dilation {dilation}",
            where=node.where,
            why='"same" is supported with stride 1 and odd kernels, where it pads both sides alike',
            fix="train with an odd kernel, or export a padding that is alike on both sides, as numbers",
        )
    return tuple(t // 2 for t in total)


def pool(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """AvgPool2d and SumPool2d."""
    cls: type[L.Pool] = {"AvgPool2d": L.AvgPool, "SumPool2d": L.SumPool}[node.fields["type"]]
    kernel, stride, padding = (node.integers(f, 2) for f in ("kernel_size", "stride", "padding"))
    return cls(kernel, stride, padding)


def scale(node: Fields, shape: Shape | None, choices: Choices) -> L.Layer:
    """Scale."""
    return L.Scale(fitted(node.array("scale"), shape, node.where, "scale"))


def flatten(node: Fields, shape: Shape | None, consumers: list[Fields]) -> L.Layer:
    """NIR counts axes without the batch, and its default is 1: exporters write 0 or 1 and mean the whole tensor.

    A first axis of 1 or more is read as counting the batch wherever that suits the next layer, else as it stands.
    """
    start, end = node.integers("start_dim", 1)[0], node.integers("end_dim", 1)[0]
    if shape is None or start < 1:
        return L.Flatten(start, end)
    batch_counted = L.Flatten(start - 1, end - 1 if end > 0 else end)
    literal = L.Flatten(start, end)
    if start >= len(shape) or _suits(batch_counted.output_shape(shape), consumers):
        return batch_counted
    return literal if _suits(literal.output_shape(shape), consumers) else batch_counted


def _suits(shape: Shape, consumers: list[Fields]) -> bool:
    """Whether every consumer that says what it takes would take this shape."""
    takes = []
    for node in consumers:
        if node.fields["type"] in ("Linear", "Affine"):
            takes.append(shape == node.array("weight").shape[1:])
        elif sized := next((name for name in ("r", "threshold", "scale") if node.has(name)), None):
            values = node.array(sized)
            takes.append(values.size == 1 or values.shape == shape)
        elif node.has("shape"):
            takes.append(node.shape("shape") == shape)
    return bool(takes) and all(takes)


def delay(node: Fields, choices: Choices) -> int:
    """The steps of a Delay."""
    delays = np.unique(node.array("delay").astype(np.float64))
    if delays.size != 1:
        raise S2CError(
            "every element has a delay of its own",
            where=node.where,
            why=f"{delays.size} values from {delays[0]:.6g} to {delays[-1]:.6g} s; one delay per node is supported",
            fix="use one delay per node, or a node for each delay",
        )
    steps = float(delays[0]) / choices.step(node)
    if steps < 0 or abs(steps - round(steps)) > ROUNDING * max(1.0, steps):
        raise S2CError(
            f"a delay of {delays[0]:.6g} s is {steps:.6g} time steps",
            where=node.where,
            why="a delay is a whole number of steps",
            fix="give another dt",
        )
    return round(steps)
