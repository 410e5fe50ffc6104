"""Fold inference batch norm into the linear map before it, or the one after it, wherever that is exact."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Array, BatchNorm, Conv, Conv1d, Conv2d, Layer, Linear, Permute, Shape
from snn2chip.passes.base import LocalPass, Rewrite, only_reader, only_source, rewired, with_layer


@dataclass(frozen=True, eq=False)
class FoldBatchNorm(LocalPass):
    """BN(Wx + b) = (fW)x + (fb + o), and W(BN(x)) = (Wf)x + (b + Wo) where no zero padding sees o.

    Tokens that are transposed for the batch norm, linear(x).transpose(−1, −2), are still the linear layer's features.

    A batch norm with no such neighbour becomes what it is: one synapse per channel, weight f and bias o. In front of
    zero padding fuse_linear then makes it part of the convolution, with a bias of its own for every place.
    """

    name: ClassVar[str] = "fold_batchnorm"
    kinds = (BatchNorm,)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite:
        """See :meth:`LocalPass.rewrite`."""
        layer, shape = node.layer, graph.shapes()[node.name]
        assert isinstance(layer, BatchNorm)
        factor, offset = layer.affine()
        before, after = _maps_features(graph, node), only_reader(graph, node.name)
        if before is not None:
            assert isinstance(before.layer, Linear | Conv)
            folded = with_layer(before, scaled_output(before.layer, factor, offset))
        elif after is not None and _takes_on_input(after.layer, shape, offset):
            folded = with_layer(after, _scaled_input(after.layer, factor, offset))
        else:
            synapse = with_layer(node, per_channel(factor, offset, shape, layer.mean.dtype))
            return rewired(graph, {node.name: synapse}), (node.name,)
        changed = {folded.name: folded, node.name: None}
        return rewired(graph, changed, {node.name: node.inputs[0].source}), changed


def _maps_features(graph: Graph, node: Node) -> Node | None:
    """The layer before, where its output features are the batch norm's channels, whatever was transposed between."""
    before, axis = only_source(graph, node), 0
    while before is not None and isinstance(view := before.layer, Permute):
        before, axis = only_source(graph, before), view.dims[axis]
    if before is None or not isinstance(before.layer, Linear | Conv):
        return None
    features = 0 if isinstance(before.layer, Conv) else len(graph.shapes()[before.name]) - 1
    return before if axis == features else None


def scaled_output(layer: Linear | Conv, factor: Array, offset: Array) -> Linear | Conv:
    """The layer with every output feature multiplied by ``factor`` and shifted by ``offset`` (both (features,))."""
    dtype = layer.weight.dtype
    weight = layer.weight.astype(np.float64) * factor.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    bias = offset
    if layer.bias is not None:
        bias = layer.bias.astype(np.float64) * _along(factor, layer.bias) + _along(offset, layer.bias)
    return dataclasses.replace(layer, weight=weight.astype(dtype), bias=bias.astype(dtype))


def _takes_on_input(layer: Layer, shape: Shape, offset: Array) -> bool:
    if isinstance(layer, Linear):
        return len(shape) == 1 and layer.delay is None
    return isinstance(layer, Conv) and (not any(layer.padding) or not offset.any())


def _scaled_input(layer: Layer, factor: Array, offset: Array) -> Linear | Conv:
    assert isinstance(layer, Linear | Conv)
    dtype, weight = layer.weight.dtype, layer.weight.astype(np.float64)
    groups = layer.groups if isinstance(layer, Conv) else 1
    per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    scaled = per_group * factor.reshape(groups, 1, -1, 1)
    shift = (per_group * offset.reshape(groups, 1, -1, 1)).sum(axis=(2, 3)).ravel()
    bias = shift if layer.bias is None else layer.bias.astype(np.float64) + _along(shift, layer.bias)
    return dataclasses.replace(layer, weight=scaled.reshape(weight.shape).astype(dtype), bias=bias.astype(dtype))


def _along(values: Array, bias: Array) -> Array:
    """One value per feature as it broadcasts against a bias, which may have one per feature and place."""
    return values.reshape(-1, *(1,) * (bias.ndim - 1))


def per_channel(factor: Array, offset: Array, shape: Shape, dtype: np.dtype) -> Linear | Conv:
    """The synapse that multiplies every channel of ``shape`` by its factor and adds its offset (both (C,))."""
    axes = len(shape) - 1
    if axes == 0:
        return Linear(np.diag(factor).astype(dtype), offset.astype(dtype))
    cls = {1: Conv1d, 2: Conv2d}[axes]
    weight = factor.reshape(-1, 1, *(1,) * axes).astype(dtype)
    return cls(weight, offset.astype(dtype), groups=len(factor))
