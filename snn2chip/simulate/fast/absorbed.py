"""Synapses whose sums are never stored as a whole, because one population alone reads them.

A shortcut that multiplies every value by a number is a factor in the population's kernel. A small recurrent layer runs
in that kernel too, event by event, which spares a cycle the calls of every single step. The sums of every other such
synapse are streamed: computed for a few samples at a time, and read by the population while they are in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Array, Conv, Linear, Neuron
from snn2chip.ir.program import Program
from snn2chip.simulate.fast.components import Component
from snn2chip.simulate.fast.populations.population import Recurrent, compilable
from snn2chip.simulate.ranges import NetworkRanges, Range, sum_range

# Recurrent synapses of all samples computed at once (128 at most), beyond which 8-bit products of whole matrices, step
# by step, are faster than events at rates of 10 to 30 %. Below, the calls of a step cost more than the step.
_EVENT_DRIVEN = 1 << 22
_AT_ONCE = 128
# What a population may send to itself event by event: spikes and small payloads, no membranes.
_SENT = Range(-128, 255)


@dataclass(frozen=True)
class Read:
    """What a population reads on the way in: ``edge``, times ``gain`` where there is one, which makes ``total``."""

    edge: Edge
    total: Range
    gain: Array | None = None


@dataclass(frozen=True)
class Absorbed:
    """What populations compute beside their own step.

    Args:
        reads: of every population; behind a gain, the input of that synapse.
        recurrent: of a population, what it sends to itself.
        synapses: the names of all that are not computed by themselves.
        streamed: the names of those whose sums are computed as their population needs them, and its name.
    """

    reads: Mapping[str, tuple[Read, ...]]
    recurrent: Mapping[str, Recurrent]
    synapses: frozenset[str]
    streamed: Mapping[str, str]

    def runs(self, component: Component) -> bool:
        """Whether a cycle is one population's own."""
        return any(node.name in self.recurrent for node in component.nodes)


def absorb(
    program: Program, components: Sequence[Component], ranges: NetworkRanges, samples: int, alone: bool
) -> Absorbed:
    """What every population of a program computes itself; nothing where synapses are to stand ``alone``."""
    loops: dict[str, tuple[Node, ...]] = {}
    gains: dict[str, Array] = {}
    if not alone:
        cycles = [_own_cycle(program, c, ranges, samples) for c in components if c.stepped]
        loops = dict(cycle for cycle in cycles if cycle is not None)
    inside = {node.name for synapses in loops.values() for node in synapses}
    for node in () if alone else program:
        gain = None if node.name in inside else _gain(program, node)
        if gain is not None:
            gains[node.name] = gain
    reads = {}
    for node in program.neurons:
        reads[node.name] = tuple(
            Read(program[edge.source].inputs[0] if edge.source in gains else edge, total, gains.get(edge.source))
            for edge, total in zip(node.inputs, ranges.inputs(node), strict=True)
            if edge.source not in inside
        )
    recurrent = {name: _recurrent(synapses, ranges) for name, synapses in loops.items()}
    return Absorbed(reads, recurrent, frozenset({*gains, *inside}), _streamed(program, components, reads, alone))


def _streamed(
    program: Program, components: Sequence[Component], reads: Mapping[str, tuple[Read, ...]], alone: bool
) -> dict[str, str]:
    """The synapses of populations outside cycles that nobody else reads and that differ from step to step."""
    if alone:
        return {}
    stepped = {node.name for component in components if component.stepped for node in component.nodes}
    outside = [name for name in reads if name not in stepped]
    pairs = [(program[read.edge.source], name) for name in outside for read in reads[name] if read.gain is None]
    static = program.static()
    return {
        node.name: name
        for node, name in pairs
        if isinstance(node.layer, Linear | Conv) and node.name not in static and _reader(program, node) is not None
    }


def _reader(program: Program, node: Node) -> Node | None:
    """The population that alone reads a node, without delay."""
    edges = [(reader, edge) for reader in program for edge in reader.inputs if edge.source == node.name]
    if len(edges) != 1 or edges[0][1].delay or not isinstance(edges[0][0].layer, Neuron):
        return None
    return edges[0][0]


# --- factors ---


def _gain(program: Program, node: Node) -> Array | None:
    """The numbers a synapse multiplies its input by, value by value, on the way into one population; else None."""
    return _multiplier(node.layer) if isinstance(node.layer, Linear | Conv) and _reader(program, node) else None


def _multiplier(layer: Linear | Conv) -> Array | None:
    """The number each value is multiplied by, where that is all a synapse does, as (C, 1, …); None where it is not."""
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    out, per_group = weight.shape[:2]
    plain = layer.bias is None and all(k == 1 for k in weight.shape[2:]) and getattr(layer, "delay", None) is None
    if isinstance(layer, Conv):
        plain = plain and all(s == 1 for s in layer.stride) and not any(layer.padding)
    if not plain or out != groups * per_group:
        return None
    blocks = weight.reshape(groups, per_group, per_group)
    gain = np.diagonal(blocks, axis1=1, axis2=2).ravel()
    if np.count_nonzero(gain) != np.count_nonzero(blocks):
        return None
    return gain.reshape(-1, *(1,) * (weight.ndim - 2))


# --- cycles ---


def _own_cycle(
    program: Program, cycle: Component, ranges: NetworkRanges, samples: int
) -> tuple[str, tuple[Node, ...]] | None:
    """A population of few neurons in a row and the plain synapses from it to itself, where they are the whole cycle."""
    populations = [node for node in cycle.nodes if isinstance(node.layer, Neuron)]
    synapses = tuple(node for node in cycle.nodes if not isinstance(node.layer, Neuron))
    if len(populations) != 1 or not synapses:
        return None
    (population,) = populations
    for node in synapses:
        layer, edge = node.layer, node.inputs[0]
        plain = isinstance(layer, Linear) and layer.delay is None and layer.bias is None
        if not plain or (edge.source, edge.port) != (population.name, "out") or _reader(program, node) is None:
            return None
    shape = program.shapes()[population.name]
    small = len(shape) == 1 and min(samples, _AT_ONCE) * shape[0] ** 2 * len(synapses) <= _EVENT_DRIVEN
    read_from_outside = any(edge.source not in {n.name for n in cycle.nodes} for edge in population.inputs)
    reads_itself = any(edge.source == population.name for edge in population.inputs)
    model = population.layer.model  # type: ignore[attr-defined]
    fits = ranges.of(population.name).within(_SENT) and compilable(model, program.target.arithmetic)
    return (population.name, synapses) if small and read_from_outside and not reads_itself and fits else None


def _recurrent(synapses: Sequence[Node], ranges: NetworkRanges) -> Recurrent:
    rows, sums = [], []
    for node in synapses:
        assert isinstance(node.layer, Linear)
        rows.append(node.layer.weight.T)
        sums.append(sum_range(node.layer, ranges.inputs(node)[0]))
    total = Range(sum(s.out.low for s in sums), sum(s.out.high for s in sums))
    delays = np.array([node.inputs[0].delay for node in synapses])
    return Recurrent(np.stack(rows), delays, total, sum(s.partial * s.out.step for s in sums))
