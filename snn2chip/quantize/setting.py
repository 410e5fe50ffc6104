"""The float network as quantization sees it: what is known before a scale is chosen."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Array, Conv, Linear, MaxPool, Neuron, Scale
from snn2chip.ir.program import Format
from snn2chip.ir.target import Target
from snn2chip.neurons.base import FloatNeuron
from snn2chip.quantize.groups import KEEPING, PASSING, PRODUCTS, Group, factor, groups, is_binary
from snn2chip.quantize.overflow import ranges
from snn2chip.quantize.pools import feature_bias, late
from snn2chip.quantize.search import Branch, Problem
from snn2chip.simulate import Result

Encoder = Literal["host", "chip"]

# Width of integers on the host, where a multiplier is there anyway.
HOST_BITS = 16
# Values of one population over all steps and samples that a candidate scale is judged on at most.
SEARCH_VALUES = 2_500_000


class Setting:
    """What every population is quantized with.

    Args:
        graph: after the passes, every population fed by synapses.
        target, bits, encoder: the chip, the width of its weights, and where a direct-coded first layer runs.
        data: calibration samples.
        reference: the float run on them, with "spikes", "v", "a" and "out" recorded.
        input_bits: widest code of analog input on the chip.

    Attributes:
        groups: the populations with their synapses.
        on_host: the synapses that the host computes.
        input_format: how the data becomes integers.
        span_of: the range of a node's integers.
        worth: what one unit of a node's output is worth in the float network, where that is known beforehand.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        bits: int,
        encoder: Encoder,
        data: Array,
        reference: Result,
        input_bits: int,
    ) -> None:
        self.input_bits = input_bits
        self.graph, self.target, self.bits, self.encoder = graph, target, bits, encoder
        # Fixed by the data where the source left it open.
        self.steps = cast(int, graph.time_steps)
        self.data, self.reference = data, reference
        self.groups = groups(graph)
        self._on_the_way = {step.name for group in self.groups for arm in group.pooled for step in arm.between}
        self.on_host = self._host_prefix()
        self.input_format = self._input_format()
        self.span_of = ranges(_in_units(graph), self.input_format.range)
        self.worth: dict[str, float] = {}
        for node in graph:
            self._value_of(node)

    def _host_prefix(self) -> frozenset[str]:
        """The synapses of a direct-coded input that the host computes."""
        if self.encoder == "chip":
            return frozenset()
        static = self.graph.static()
        return frozenset(n.name for n in self.graph if n.name in static and n.layer.synaptic)

    def _input_format(self) -> Format:
        data, whole = self.data, bool((self.data == np.rint(self.data)).all())
        fed_by_host = bool(self.on_host)
        if is_binary(data) and not fed_by_host:
            return Format(1, False, 1.0, overflow="error")
        low, high = float(data.min()), float(data.max())
        room = HOST_BITS if fed_by_host else min(self.input_bits, self.target.limits.input_bits)
        if whole and low >= 0 and high < 256 and room >= 8:
            return Format(8, False, 1.0, overflow="error" if self.graph.coding == "steps" else "saturate")
        if room == 1 and self.target.limits.input_bits == 1:
            raise S2CError(
                f"{self.target.title} takes binary spikes, and the data is not binary",
                where=self.graph.input.where(),
                why=f"the calibration data spans {low:.4g} to {high:.4g}",
                fix="encode the input as spikes, or use a target with graded spikes (loihi2)",
            )
        largest = max(abs(low), abs(high)) or 1.0
        if largest < np.finfo(np.float32).tiny:
            raise S2CError(
                "the calibration data is as good as zero",
                where=self.graph.input.where(),
                why=f"its largest value is {largest:.4g}, and float32 begins at {np.finfo(np.float32).tiny:.4g}",
                fix="give samples as the network takes them in use",
            )
        signed = low < 0
        room = max(room, 1 + signed)
        top = (1 << (room - 1)) - 1 if signed else (1 << room) - 1
        return Format(room, signed, largest / top, overflow="saturate", rounding="nearest")

    def _value_of(self, node: Node) -> None:
        """Note what one unit of the node's output is worth in the float network, where that is known beforehand."""
        layer = node.layer
        if node.name == self.graph.input.name:
            self.worth[node.name] = self.input_format.scale
        elif isinstance(layer, Neuron) and not layer.model.integrates_only:
            self.worth[node.name] = layer.model.spike_value
        elif isinstance(layer, Neuron) and layer.model.trained_unit is not None:
            self.worth[node.name] = layer.model.trained_unit / (1 << self.target.arithmetic.input_shift)
        elif isinstance(layer, PASSING) and node.name not in self._on_the_way:
            if isinstance(layer, KEEPING) and len(node.inputs) == 1 and self._known(node.inputs[0]) is None:
                # A view of membranes or of sums, or their maxima, whose unit is chosen with their population.
                return
            units = [self._value_on(edge, node) for edge in node.inputs]
            if isinstance(layer, MaxPool) and units[0] < 0:
                raise S2CError(
                    f"the largest of spikes that are worth {units[0]:.4g} is not the largest number of spikes",
                    where=node.where(),
                    fix="train with spikes of a positive value",
                )
            if isinstance(layer, KEEPING) and len(set(units)) > 1:
                raise S2CError(
                    "values of different scales are added or joined",
                    where=node.where(),
                    why="only spikes of equal value can meet outside a neuron",
                    fix="put a synapse (linear or conv layer) on each branch, so that they meet in the neuron after it",
                )
            self.worth[node.name] = math.prod(units if isinstance(layer, PRODUCTS) else units[:1]) * (
                factor(layer) or 1.0
            )

    def _known(self, edge: Edge) -> float | None:
        return self.worth.get(edge.source) if edge.port == "out" else None

    def _value_on(self, edge: Edge, reader: Node) -> float:
        worth = self._known(edge)
        if worth is None:
            carried = "membranes" if isinstance(self.graph[edge.source].layer, Neuron) else "sums"
            raise S2CError(
                f"the {carried} of {edge.source} are read by a {reader.layer.kind} layer",
                where=reader.where(),
                why=f"{carried} have the scale of one population, and get it with that population",
                fix="put a neuron between them, so that spikes are read; where branches are added, let each end in a "
                "synapse (linear or conv layer), so that they meet in the neuron after it",
            )
        return worth

    def reads_input(self, group: Group) -> bool:
        """Whether a synapse of the group carries the input, moved or multiplied at most, and runs on the chip."""
        names = {self.graph.input.name}
        for node in self.graph:
            if isinstance(node.layer, PASSING) and any(e.source in names for e in node.inputs):
                names.add(node.name)
        return any(e.source in names for s in group.synapses if s.name not in self.on_host for e in s.inputs)

    def problem(self, group: Group) -> Problem:
        """A population and its synapses as the search sees them, on the calibration data."""
        model: FloatNeuron = group.population.layer.model  # type: ignore[attr-defined]
        name = group.population.name
        recorded = self.reference[name]
        bias = bias_of(group)
        branches = []
        for synapse in group.synapses:
            layer = synapse.layer
            assert isinstance(layer, Linear | Conv)
            edge = synapse.inputs[0]
            worth = self._value_on(edge, synapse)
            scaled = dataclasses.replace(layer, weight=layer.weight.astype(np.float64) * worth, bias=None)
            inputs = None if synapse in group.recurrent else self._integers(edge)
            branches.append(Branch(synapse.name, scaled, inputs, self.span_of(edge.source)))
        target = recorded.v if model.integrates_only else recorded.spikes
        assert recorded.a is not None
        assert target is not None
        spikes = target if model.integrates_only else np.rint(target / model.spike_value).astype(np.int64)
        sums = recorded.a.astype(np.float64) - bias
        # A large layer says all it has to say with few samples: it has many neurons.
        enough = max(4, SEARCH_VALUES // max(1, sums[0].size))
        judging = [dataclasses.replace(b, inputs=None if b.inputs is None else b.inputs[:enough]) for b in branches]
        return Problem(
            tuple(judging),
            model,
            bias,
            sums[:enough],
            spikes[:enough],
            self.target,
            self.bits,
            self.steps,
            group.pooled,
        )

    def _integers(self, edge: Edge) -> Array:
        """What an edge carries on the calibration data, [N, T, ...], as the integers of the Program."""
        node = self.graph[edge.source]
        worth = self.worth[edge.source]
        if node.name == self.graph.input.name:
            x = self.data if self.graph.coding == "steps" else self.data[:, None]
            values = np.clip(np.rint(x / worth), *self.input_format.range)
        else:
            held = self.reference.recordings[node.name]
            found = held.spikes if isinstance(node.layer, Neuron) else held.out
            assert found is not None
            values = np.rint(found / worth)
        values = np.broadcast_to(values, (len(values), self.steps, *values.shape[2:]))
        return late(values, edge.delay).astype(np.uint8 if is_binary(values) else np.int64)


def _in_units(graph: Graph) -> Graph:
    """The graph whose values are counted in units: a Scale changes what one is worth, not how many there are."""
    one = Scale(np.ones((), np.int64))
    return graph.with_nodes(dataclasses.replace(n, layer=one) if isinstance(n.layer, Scale) else n for n in graph)


def bias_of(group: Group) -> Array:
    """The float biases of a population's synapses, summed, broadcasting against it."""
    inside = {synapse.name for arm in group.pooled for synapse in arm.synapses}
    direct = [feature_bias(synapse.layer) for synapse in group.synapses if synapse.name not in inside]
    total: Array = sum((*direct, *(arm.bias for arm in group.pooled)), start=np.zeros(()))
    return total
