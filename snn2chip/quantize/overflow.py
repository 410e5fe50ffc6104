"""Worst-case ranges, from the integers alone: what no input can exceed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Add, Concat, Conv, Input, Linear, Neuron, Rescale, SumPool
from snn2chip.neurons.base import IntegerNeuron, Range


def sum_range(layer: Linear | Conv, source: Range) -> Range:
    """Smallest and largest sum a synapse can deliver, over its output features, for inputs in ``source``."""
    flat = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
    positive, negative = np.maximum(flat, 0).sum(axis=1), np.minimum(flat, 0).sum(axis=1)
    low, high = source
    bias = 0 if layer.bias is None else layer.bias
    return int((positive * low + negative * high + bias).min()), int((positive * high + negative * low + bias).max())


def ranges(network: Network, input_range: Range) -> dict[str, Range]:
    """The range of every node's output; populations fire what their model can, integrators send any membrane."""
    found: dict[str, Range] = {}
    for node in network:
        found[node.name] = _range(node, [found.get(e.source, (0, 1)) for e in node.inputs], input_range)
    return found


def _range(node: Node, inputs: list[Range], input_range: Range) -> Range:
    layer = node.layer
    if isinstance(layer, Input):
        return input_range
    if isinstance(layer, Neuron):
        fires = not isinstance(layer.model, IntegerNeuron) or layer.model.v_threshold is not None
        spikes: Range = layer.model.spikes
        return spikes if fires else (-(2**23), 2**23)
    if isinstance(layer, Linear | Conv):
        return sum_range(layer, inputs[0])
    if isinstance(layer, Rescale):
        low, high = inputs[0]
        return (low >> layer.shift) - 1, (high >> layer.shift) + 1
    if isinstance(layer, Add):
        return sum(low for low, _ in inputs), sum(high for _, high in inputs)
    if isinstance(layer, SumPool):
        factor = int(np.prod(layer.kernel))
        return min(inputs[0][0] * factor, 0), max(inputs[0][1] * factor, 0)
    if isinstance(layer, Concat):
        return min(low for low, _ in inputs), max(high for _, high in inputs)
    return inputs[0] if inputs else input_range


def register_limits(arithmetic: Arithmetic, accumulator_bits: int) -> Mapping[str, int]:
    """The largest magnitude each register holds."""
    return {
        "accumulator": (1 << (accumulator_bits - 1)) - 1,
        "u": (1 << (arithmetic.current_bits - 1)) - 1,
        "v": (1 << (arithmetic.voltage_bits - 1)) - 1,
    }
