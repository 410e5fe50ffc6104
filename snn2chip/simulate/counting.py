"""What operation counts rest on: synapses per input position, products, and which populations send spikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Array, Conv, Layer, Linear, MatMul, Mul, Shape, windows


def fan_out(layer: Any, shape: Shape) -> Array:
    """Synapses leaving every input position of a synaptic layer, int64 of the input's shape.

    Windows are separable, so a convolution's count is a product of one count per axis.
    """
    if isinstance(layer, Linear):
        return np.full(shape, layer.weight.shape[0], dtype=np.int64)
    assert isinstance(layer, Conv)
    counts = np.asarray(layer.weight.shape[0] // layer.groups, dtype=np.int64)
    sizes = windows(shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation)
    for n, k, s, p, d, out in zip(
        shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, sizes, strict=True
    ):
        positions = (np.arange(out)[:, None] * s + np.arange(k)[None, :] * d - p).ravel()
        covered = np.bincount(positions[(positions >= 0) & (positions < n)], minlength=n)
        counts = counts[..., None] * covered
    return np.broadcast_to(counts, shape)


def dense_macs(layer: Layer, inputs: Sequence[Shape], output: Shape) -> int:
    """Multiply-accumulates, one step of one sample, where every input and weight counts, padding too."""
    if isinstance(layer, Linear | Conv):
        return math.prod(output) * math.prod(map(int, layer.weight.shape[1:]))
    return product_macs(layer, inputs, output)


def product_macs(layer: Layer, inputs: Sequence[Shape], output: Shape) -> int:
    """Multiply-accumulates of a product of two tensors, one step of one sample; 0 for other layers."""
    if isinstance(layer, MatMul):
        return math.prod(output) * inputs[0][-1]
    return math.prod(output) if isinstance(layer, Mul) else 0


def host_macs(network: Network) -> dict[str, int]:
    """Multiply-accumulates of every layer the host computes, one step of one sample; additions are not counted."""
    shapes, found = network.shapes(), {}
    for node in network:
        if node.placement == "host":
            inputs = [shapes[edge.source] for edge in node.inputs]
            synapses = int(fan_out(node.layer, inputs[0]).sum()) if node.layer.synaptic else 0
            found[node.name] = synapses or product_macs(node.layer, inputs, shapes[node.name])
    return found


def silent(node: Node) -> bool:
    """Whether the population is an integrator, whose output is a membrane and no spike."""
    return str(node.layer.kind).endswith("LI")
