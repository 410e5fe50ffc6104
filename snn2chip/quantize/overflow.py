"""Worst-case ranges, from the integers alone: what no input can exceed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Conv, Linear, Neuron
from snn2chip.neurons.base import IntegerNeuron, Range
from snn2chip.simulate import ranges as intervals

# What an integrator sends: any membrane of the widest chip.
_MEMBRANE = intervals.Range(-(2**23), 2**23)


def sum_range(layer: Linear | Conv, source: Range) -> Range:
    """Smallest and largest sum a synapse can deliver, over its output features, for inputs in ``source``, or none."""
    out = intervals.sum_range(layer, intervals.Range(*source)).out
    return out.low, out.high


def ranges(network: Network, data: Range) -> Callable[[str], Range]:
    """Name of a node → the range of its output; populations fire what their model can, whatever reaches them.

    Args:
        network: a Program; or a Graph, asked for nothing behind its synapses, whose weights are no integers yet.
        data: what enters.
    """
    found = intervals.NetworkRanges(network, intervals.Range(*data), lambda node, summed: {"out": _sent(node)})

    def of(name: str) -> Range:
        out = found.of(name)
        return out.low, out.high

    return of


def _sent(population: Node) -> intervals.Range:
    layer = population.layer
    assert isinstance(layer, Neuron)
    model = layer.model
    integrates = model.v_threshold is None if isinstance(model, IntegerNeuron) else model.integrates_only
    return _MEMBRANE if integrates else intervals.Range(*model.spikes)


def register_limits(arithmetic: Arithmetic, accumulator_bits: int) -> Mapping[str, int]:
    """The largest magnitude each register holds."""
    return {
        "accumulator": (1 << (accumulator_bits - 1)) - 1,
        "u": (1 << (arithmetic.current_bits - 1)) - 1,
        "v": (1 << (arithmetic.voltage_bits - 1)) - 1,
    }
