"""Populations that fire if any input of a window does: the maximum of bytes, in place of a convolution and a neuron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Conv, MaxPool, Neuron
from snn2chip.ir.program import Program
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.simulate.fast.absorbed import Absorbed
from snn2chip.simulate.fast.populations.symbolic import NotSymbolicError, trace_step
from snn2chip.simulate.fast.stateless import Operation, Site, operation
from snn2chip.simulate.ranges import SPIKES, NetworkRanges

# Inputs of a window up to which every sum is tried.
_LARGEST = 64


@dataclass(frozen=True)
class Maximum:
    """What a population sends: the maxima of ``windows``, computed by ``run`` from the bytes its synapse reads."""

    windows: MaxPool
    run: Operation


def maxima(program: Program, absorbed: Absorbed, ranges: NetworkRanges) -> Mapping[str, Maximum]:
    """The populations whose spikes are the maxima of the windows of one streamed synapse."""
    found = {}
    shapes = program.shapes()
    for synapse, name in absorbed.streamed.items():
        node, population = program[synapse], program[name]
        shape = shapes[node.inputs[0].source]
        if len(population.inputs) == 1 and ranges.inputs(node)[0].within(SPIKES):
            pool = _windows(node)
            if pool is not None and _fires_on_any(program, node, population):
                found[name] = Maximum(pool, operation(Site(pool, (shape,), (SPIKES,), SPIKES)))
    return found


def _windows(node: Node) -> MaxPool | None:
    """The windows a synapse sums with one positive weight, channel by channel; None where it does more."""
    layer = node.layer
    if not isinstance(layer, Conv) or layer.axes > 2 or layer.bias is not None or set(layer.dilation) != {1}:
        return None
    weight = layer.weight
    if weight.shape[:2] != (layer.groups, 1) or weight.flat[0] <= 0 or (weight != weight.flat[0]).any():
        return None
    inside = all(p < k for p, k in zip(layer.padding, layer.kernel, strict=True))
    return MaxPool(layer.kernel, layer.stride, layer.padding) if inside else None


def _fires_on_any(program: Program, synapse: Node, population: Node) -> bool:
    """Whether a population without memory sends 1 for every possible sum but 0, and for 0 nothing."""
    assert isinstance(synapse.layer, Conv)
    assert isinstance(population.layer, Neuron)
    model, arithmetic = population.layer.model, program.target.arithmetic
    assert isinstance(model, IntegerNeuron)
    try:
        step = trace_step(model, arithmetic)
    except NotSymbolicError:
        return False
    most = math.prod(synapse.layer.kernel)
    if step.live or most > _LARGEST:
        return False
    shape = program.shapes()[population.name]
    counts = np.arange(most + 1).reshape(-1, *(1,) * len(shape))
    sums = np.broadcast_to(counts * int(synapse.layer.weight.flat[0]), (most + 1, *shape))
    _, out = model.step(model.start(sums.shape), sums, arithmetic)
    return bool((out == (counts > 0)).all())
