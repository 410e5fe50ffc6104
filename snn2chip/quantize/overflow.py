"""Worst-case ranges, from the integers alone: what no input can exceed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Add, Concat, Conv, Input, Linear, Neuron, Rescale, SumPool
from snn2chip.neurons.lif import IntegerLIF

Range = tuple[int, int]


@dataclass(frozen=True)
class Bounds:
    """Largest magnitudes a population's registers can reach within T steps of a sample.

    ``accumulator`` in the unit of the summed input, ``u`` and ``v`` in the membrane's.
    """

    accumulator: int
    u: int
    v: int


def sum_range(layer: Linear | Conv, source: Range) -> Range:
    """Smallest and largest sum a synapse can deliver, over its output features, for inputs in ``source``."""
    flat = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
    positive, negative = np.maximum(flat, 0).sum(axis=1), np.minimum(flat, 0).sum(axis=1)
    low, high = source
    bias = 0 if layer.bias is None else layer.bias
    return int((positive * low + negative * high + bias).min()), int((positive * high + negative * low + bias).max())


def ranges(network: Network, input_range: Range) -> dict[str, Range]:
    """The range of every node's output; populations fire 0 or 1, integrators anything a membrane holds."""
    found: dict[str, Range] = {}
    for node in network:
        found[node.name] = _range(node, [found.get(e.source, (0, 1)) for e in node.inputs], input_range)
    return found


def _range(node: Node, inputs: list[Range], input_range: Range) -> Range:
    layer = node.layer
    if isinstance(layer, Input):
        return input_range
    if isinstance(layer, Neuron):
        fires = not isinstance(layer.model, IntegerLIF) or layer.model.v_threshold is not None
        return (0, 1) if fires else (-(2**23), 2**23)
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


def bounds(neuron: IntegerLIF, sums: Range, arithmetic: Arithmetic, steps: int) -> Bounds:
    """What u and v can reach in ``steps`` steps from rest when every step's sum lies in ``sums``.

    Rounding toward zero never enlarges a state; rounding down can by one per step, which is added.
    """
    one = 1 << arithmetic.decay_bits
    keep_u, keep_v = one - int(np.min(neuron.decay_u)), one - int(np.min(neuron.decay_v))
    drift = 0 if arithmetic.decay_rounding == "zero" else 1
    bias_u = 0 if neuron.bias_u is None else int(np.abs(neuron.bias_u).max(initial=0))
    bias_v = int(np.abs(neuron.bias).max(initial=0))
    bias_v = bias_v << neuron.bias_exp if neuron.bias_exp >= 0 else bias_v >> -neuron.bias_exp
    start = 0 if neuron.v_start is None else int(np.abs(neuron.v_start).max(initial=0))
    step_u = (max(abs(sums[0]), abs(sums[1])) << arithmetic.input_shift) + bias_u
    u, v, peak_u, peak_v = 0, start, 0, start
    for _ in range(steps):
        u = (u * keep_u >> arithmetic.decay_bits) + drift + step_u
        v = (v * keep_v >> arithmetic.decay_bits) + drift + u + bias_v
        peak_u, peak_v = max(peak_u, u), max(peak_v, v)
    return Bounds(max(abs(sums[0]), abs(sums[1])), peak_u, peak_v)


def register_limits(arithmetic: Arithmetic, accumulator_bits: int) -> Mapping[str, int]:
    """The largest magnitude each register holds."""
    return {
        "accumulator": (1 << (accumulator_bits - 1)) - 1,
        "u": (1 << (arithmetic.current_bits - 1)) - 1,
        "v": (1 << (arithmetic.voltage_bits - 1)) - 1,
    }
