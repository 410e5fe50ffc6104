"""Worst-case ranges, from the integers alone: what no input can exceed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Add, Array, Concat, Conv, Input, Linear, Neuron, Rescale, SumPool
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

    Both sides are followed apart: a reset caps the membrane from above, nothing caps it from below.
    """
    one = 1 << arithmetic.decay_bits
    # Rounding toward zero never enlarges a state; rounding down takes a negative one further by up to one per step.
    drift = 0 if arithmetic.decay_rounding == "zero" else 1
    keep_u, keep_v = one - int(np.min(neuron.decay_u)), one - int(np.min(neuron.decay_v))
    bias = neuron.bias << neuron.bias_exp if neuron.bias_exp >= 0 else neuron.bias >> -neuron.bias_exp
    bias_low, bias_high = _span(bias)
    bias_u_low, bias_u_high = _span(neuron.bias_u)
    step_low = (min(sums[0], 0) << arithmetic.input_shift) + bias_u_low
    step_high = (max(sums[1], 0) << arithmetic.input_shift) + bias_u_high
    v_low, v_high = _span(neuron.v_start)
    reset_low, reset_high = _span(neuron.v_reset)
    resets = neuron.v_threshold is not None and neuron.reset != "none"
    low_theta, high_theta = (int(t) << arithmetic.threshold_shift for t in _extremes(neuron.v_threshold))
    # Nothing has reset a start above the threshold before the first step.
    ceiling = max(high_theta, reset_high, v_high)
    u_low = u_high = 0
    peak_u, peak_v = 0, max(-v_low, v_high)
    for _ in range(steps):
        u_low = -(-u_low * keep_u >> arithmetic.decay_bits) - drift + step_low
        u_high = (u_high * keep_u >> arithmetic.decay_bits) + step_high
        late = 0
        if resets and neuron.reset == "hard":
            v_low, v_high = min(v_low, reset_low), min(v_high, ceiling)
        elif resets and neuron.reset_timing != "next":
            v_high = min(v_high, max(ceiling, v_high - low_theta))
        elif resets:
            # Subtracted after the decay: what fired loses θ, what did not was at most θ.
            v_high = min(v_high, max(ceiling, v_high - (low_theta << arithmetic.decay_bits) // max(keep_v, 1)))
            late = high_theta
        v_low = min(-(-v_low * keep_v >> arithmetic.decay_bits), (late * keep_v >> arithmetic.decay_bits) - late)
        v_low += u_low + bias_low - drift
        v_high = (v_high * keep_v >> arithmetic.decay_bits) + u_high + bias_high
        if resets and neuron.reset_timing == "next" and neuron.reset == "hard":
            v_low, v_high = min(v_low, reset_low), max(v_high, reset_high)
        peak_u, peak_v = max(peak_u, -u_low, u_high), max(peak_v, -v_low, v_high)
    return Bounds(max(abs(sums[0]), abs(sums[1])), peak_u, peak_v)


def _extremes(threshold: Array | None) -> Range:
    return (0, 0) if threshold is None else (int(np.min(threshold)), int(np.max(threshold)))


def _span(values: Array | None) -> Range:
    """Smallest and largest of the values and zero."""
    return (0, 0) if values is None else (min(0, int(np.min(values))), max(0, int(np.max(values))))


def register_limits(arithmetic: Arithmetic, accumulator_bits: int) -> Mapping[str, int]:
    """The largest magnitude each register holds."""
    return {
        "accumulator": (1 << (accumulator_bits - 1)) - 1,
        "u": (1 << (arithmetic.current_bits - 1)) - 1,
        "v": (1 << (arithmetic.voltage_bits - 1)) - 1,
    }
