"""Layers without a state as NIR nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.emit.nir.bias import bias_of
from snn2chip.emit.nir.view import NoWordError, View
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Shape


def entry(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Input."""
    return {"type": "Input", "shape": np.array(shape)}


def exit_(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Output."""
    return {"type": "Output", "shape": np.array(shape)}


def linear(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Linear, or Affine where there is a bias to carry."""
    layer = node.layer
    assert isinstance(layer, L.Linear)
    if layer.delay is not None and layer.delay.any():
        view.note(node, "synaptic delays are not in the NIR graph")
    if len(shape) > 1:
        view.note(node, "NIR's linear layers take one axis; this one acts on the last of several")
    fields: dict[str, Any] = {"type": "Linear", "weight": layer.weight * view.weight_scale(node)}
    bias = bias_of(view, node, layer.bias)
    return fields if bias is None else fields | {"type": "Affine", "bias": np.broadcast_to(bias, shape[-1:])}


def conv(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Conv1d and Conv2d, whose bias NIR asks for."""
    layer = node.layer
    assert isinstance(layer, L.Conv)
    bias = bias_of(view, node, layer.bias)
    if bias is not None and layer.per_place:
        view.note(node, "its bias differs from place to place; NIR adds one number per channel, here their median")
        bias = np.median(bias.reshape(len(bias), -1), axis=1)
    if len(set(layer.kernel)) > 1 or layer.groups > 1:
        view.note(node, "nir 1.0.8 infers a wrong shape (kernel not square, or groups): read with type_check=False")
    one = layer.axes == 1
    sizes = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    fields: dict[str, Any] = {name: value[0] if one else np.array(value) for name, value in sizes.items()}
    fields["input_shape"] = inputs[0][1] if one else np.array(inputs[0][1:])
    return fields | {
        "type": layer.kind,
        "weight": layer.weight * view.weight_scale(node),
        "groups": layer.groups,
        "bias": np.zeros(shape[0]) if bias is None else np.broadcast_to(bias, shape[:1]),
    }


def pool(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """SumPool2d and AvgPool2d; max pooling as the nearest of them."""
    layer = node.layer
    assert isinstance(layer, L.Pool)
    if len(layer.kernel) != 2:
        raise NoWordError(f"NIR pools over two axes only: {node.where()}")
    if isinstance(layer, L.MaxPool):
        view.note(node, "max pooling is written as sum pooling; NIR has no max pooling")
    if layer.ceil_mode:
        view.note(node, "NIR pools without ceil_mode")
    kind = "AvgPool2d" if isinstance(layer, L.AvgPool) else "SumPool2d"
    sizes = {"kernel_size": layer.kernel, "stride": layer.stride, "padding": layer.padding}
    return {"type": kind} | {name: np.array(value) for name, value in sizes.items()}


def flatten(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Flatten, and a Reshape to one axis."""
    layer = node.layer
    start, end = (layer.start_dim, layer.end_dim) if isinstance(layer, L.Flatten) else (0, -1)
    if isinstance(layer, L.Reshape) and len(layer.shape) != 1:
        raise NoWordError(f"NIR has no Reshape: {node.where()}")
    start, end = start % len(inputs[0]), end % len(inputs[0])
    last = -1 if end == len(inputs[0]) - 1 else end
    return {"type": "Flatten", "start_dim": start, "end_dim": last, "input_type": np.array(inputs[0])}


def scale(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Scale, and the shift of a Rescale as a Scale of 1."""
    layer = node.layer
    if isinstance(layer, L.Rescale):
        view.note(node, f"the rounding of the shift by {layer.shift} is not in the NIR graph")
        return {"type": "Scale", "scale": np.ones(shape)}
    assert isinstance(layer, L.Scale)
    return {"type": "Scale", "scale": np.broadcast_to(layer.scale.astype(np.float64), shape)}


def delay(view: View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """Delay, in seconds."""
    assert isinstance(node.layer, L.Delay)
    return {"type": "Delay", "delay": np.full(shape, node.layer.steps * view.dt)}
