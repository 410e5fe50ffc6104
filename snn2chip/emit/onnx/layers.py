"""Layers without a state as exact integer operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from snn2chip.emit.onnx.graph import Writer, summed
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Shape, windows


def entry(w: Writer, node: Node, layer: L.Input) -> None:
    """The data of one step."""
    w.inputs.append((node.name, layer.shape))


def linear(w: Writer, node: Node, layer: L.Linear) -> None:
    """A product of matrices; with synaptic delays, one for each delay."""
    name, (edge,) = node.name, node.inputs
    if layer.delay is None:
        parts = [(0, layer.weight)]
    else:
        parts = [(int(steps), layer.weight * (layer.delay == steps)) for steps in np.unique(layer.delay)]
    products = []
    for steps, weight in parts:
        label = f"{name}.weight" if len(parts) == 1 else f"{name}.weight[t-{steps}]"
        w.constant(label, weight.T)
        products.append(w.op("MatMul", [w.source(edge, steps), label], f"{label}.product"))
    summed(w, name, products, layer.bias)


def _windows(w: Writer, node: Node, size: Shape, spans: Sequence[tuple[int, int, int, int]], fill: int) -> str:
    """Windows of the input [N, C, P, K]: P positions in row-major order, K entries of one channel each.

    Args:
        size: spatial shape of the output.
        spans: (kernel, stride, padding, dilation) per axis.
        fill: what the padding holds.
    """
    name, (edge,) = node.name, node.inputs
    channels, *space = w.shapes[edge.source]
    # On the far side the padding goes as far as windows reach, as in the reference engine.
    after = [
        max(p, (o - 1) * s + d * (k - 1) + 1 - n - p) for n, o, (k, s, p, d) in zip(space, size, spans, strict=True)
    ]
    before = [p for _, _, p, _ in spans]
    x = w.source(edge)
    if any(before) or any(after):
        pads = w.constant(f"{name}.pads", [0, 0, *before, 0, 0, *after])
        x = w.op("Pad", [x, pads, w.constant(f"{name}.fill", fill)], f"{name}.padded")
    padded = [b + n + a for b, n, a in zip(before, space, after, strict=True)]
    strides = [math.prod(padded[i + 1 :]) for i in range(len(padded))]
    grids = zip(size, spans, strides, strict=True)
    starts, offsets = np.zeros((), np.int64), np.zeros((), np.int64)
    for count, (k, s, _, d), stride in grids:
        starts = starts[..., None] + np.arange(count) * s * stride
        offsets = offsets[..., None] + np.arange(k) * d * stride
    flat = w.op("Reshape", [x, w.constant(f"{name}.flat", [0, channels, -1])], f"{name}.rows")
    places = w.constant(f"{name}.places", starts.reshape(-1, 1))
    index = w.op("Add", [places, w.constant(f"{name}.offsets", offsets.reshape(1, -1))], f"{name}.index")
    return w.op("Gather", [flat, index], f"{name}.windows", axis=2)


def conv(w: Writer, node: Node, layer: L.Conv) -> None:
    """Windows, gathered, times the weights of each group."""
    name, groups = node.name, layer.groups
    out, each = layer.weight.shape[:2]
    size = windows(w.shapes[node.inputs[0].source][1:], layer.kernel, layer.stride, layer.padding, layer.dilation)
    spans = list(zip(layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True))
    gathered = _windows(w, node, size, spans, 0)
    places, entries = math.prod(size), math.prod(layer.kernel)
    # [N, C, P, K] → [N, groups, P, C/groups · K]
    split = w.op(
        "Reshape", [gathered, w.constant(f"{name}.split", [0, groups, each, places, entries])], f"{name}.split5"
    )
    moved = w.op("Transpose", [split], f"{name}.moved", perm=[0, 1, 3, 2, 4])
    rows = w.op("Reshape", [moved, w.constant(f"{name}.rowed", [0, groups, places, each * entries])], f"{name}.patches")
    weight = layer.weight.reshape(groups, out // groups, each * entries).transpose(0, 2, 1)
    product = w.op("MatMul", [rows, w.constant(f"{name}.weight", weight)], f"{name}.product")
    back = w.op("Transpose", [product], f"{name}.back", perm=[0, 1, 3, 2])
    total = w.op("Reshape", [back, w.constant(f"{name}.shape", [0, out, *size])], f"{name}.convolved")
    summed(w, name, [total], layer.spread_bias)


def pool(w: Writer, node: Node, layer: L.Pool) -> None:
    """The sum or the largest of every window."""
    name = node.name
    maximum = isinstance(layer, L.MaxPool)
    _, *size = w.shapes[name]
    spans = [(k, s, p, 1) for k, s, p in zip(layer.kernel, layer.stride, layer.padding, strict=True)]
    gathered = _windows(w, node, tuple(size), spans, np.iinfo(np.int64).min if maximum else 0)
    axes = w.constant(f"{name}.axes", [3])
    reduced = w.op("ReduceMax" if maximum else "ReduceSum", [gathered, axes], f"{name}.pooled", keepdims=0)
    w.op("Reshape", [reduced, w.constant(f"{name}.shape", [0, *w.shapes[name]])], name)


def view(w: Writer, node: Node, layer: L.Layer) -> None:
    """Flatten and Reshape."""
    shape = w.constant(f"{node.name}.shape", [0, *w.shapes[node.name]])
    w.op("Reshape", [w.source(node.inputs[0]), shape], node.name)


def permute(w: Writer, node: Node, layer: L.Permute) -> None:
    """Axes in another order."""
    w.op("Transpose", [w.source(node.inputs[0])], node.name, perm=[0, *(d + 1 for d in layer.dims)])


def concat(w: Writer, node: Node, layer: L.Concat) -> None:
    """Inputs behind each other."""
    axis = layer.axis % len(w.shapes[node.name]) + 1
    w.op("Concat", [w.source(edge) for edge in node.inputs], node.name, axis=axis)


def gather(w: Writer, node: Node, layer: L.Gather) -> None:
    """Elements by index; −1 stands for a zero."""
    name, (edge,) = node.name, node.inputs
    flat = w.op("Reshape", [w.source(edge), w.constant(f"{name}.flat", [0, -1])], f"{name}.row")
    if (layer.index < 0).any():
        # Index −1 finds the zero behind the elements.
        flat = w.op(
            "Pad", [flat, w.constant(f"{name}.pads", [0, 0, 0, 1]), w.constant(f"{name}.fill", 0)], f"{name}.padded"
        )
    w.op("Gather", [flat, w.constant(f"{name}.index", layer.index)], name, axis=1)


def add(w: Writer, node: Node, layer: L.Add) -> None:
    """The sum of the inputs."""
    summed(w, node.name, [w.source(edge) for edge in node.inputs], None)


def product(kind: str) -> Callable[[Writer, Node, Any], None]:
    """A writer of an operator on two inputs."""

    def write(w: Writer, node: Node, layer: Any) -> None:
        w.op(kind, [w.source(edge) for edge in node.inputs], node.name)

    return write


def scale(w: Writer, node: Node, layer: L.Scale) -> None:
    """Times constants."""
    w.op("Mul", [w.source(node.inputs[0]), w.constant(f"{node.name}.scale", layer.scale)], node.name)


def delay(w: Writer, node: Node, layer: L.Delay) -> None:
    """The input of some steps ago."""
    w.op("Identity", [w.source(node.inputs[0], layer.steps)], node.name)


def rescale(w: Writer, node: Node, layer: L.Rescale) -> None:
    """A shift to the right that rounds half up."""
    name, divisor = node.name, w.constant(f"{node.name}.divisor", 1 << layer.shift)
    half = w.constant(f"{name}.half", (1 << layer.shift) >> 1)
    raised = w.op("Add", [w.source(node.inputs[0]), half], f"{name}.raised")
    rest = w.op("Mod", [raised, divisor], f"{name}.rest")
    w.op("Div", [w.op("Sub", [raised, rest], f"{name}.multiple"), divisor], name)


def readout(w: Writer, node: Node, layer: L.Readout) -> None:
    """Over T, so no part of a step: its input is the step's output."""
    w.op("Identity", [w.source(node.inputs[0])], node.name)


def exit_(w: Writer, node: Node, layer: L.Output) -> None:
    """What the read-out reads in this step."""
    w.op("Identity", [w.source(node.inputs[0])], node.name)
    w.outputs.append((node.name, w.shapes[node.name]))
