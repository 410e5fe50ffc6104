"""Choices, one per population → the Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Graph, Node, in_order
from snn2chip.ir.layers import Linear, Neuron, Readout, Rescale, Scale
from snn2chip.ir.program import Format, LayerQuantization, PassRecord, Program
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.neurons.per_step import IntegerPerStepLIF
from snn2chip.quantize.groups import PASSING, PRODUCTS, Group
from snn2chip.quantize.host import HOSTED, head
from snn2chip.quantize.neuron import APPROXIMATIONS, on_fixed_core
from snn2chip.quantize.record import record
from snn2chip.quantize.search import Quantized
from snn2chip.quantize.setting import HOST_BITS, Setting, bias_of

# Width of the host's integers.
INTEGER_BITS = 63


@dataclass
class _Made:
    """The Program as far as it is made."""

    nodes: dict[str, Node]
    formats: dict[str, Format]
    worth: dict[str, float]
    records: list[LayerQuantization]
    notes: list[str]

    def port_worth(self, edge: Edge) -> float:
        """The float value of one unit of what an edge carries."""
        return self.worth[edge.source] if edge.port == "out" else self.formats[f"{edge.source}.{edge.port}"].scale


def assembled(
    setting: Setting,
    choices: Mapping[str, Quantized],
    approximate: Collection[str] = (),
    host: Collection[str] = (),
    passes: Iterable[PassRecord] = (),
    notes: Iterable[str] = (),
) -> Program:
    """The Program with these choices, one per population; what is left after the populations is the host's.

    Args:
        setting: the float network.
        choices: population → how it is quantized.
        approximate: what a fixed neuron may do differently, by name.
        host: what the host computes between the chip's layers, by name.
        passes: what was done before, to be kept with the Program.
        notes: what was said before, likewise.

    Raises:
        S2CError: the chip's neuron cannot do what a population needs, and that was not allowed by name.
    """
    graph = setting.graph
    made = _Made({}, {graph.input.name: setting.input_format}, dict(setting.worth), [], list(notes))
    for group in setting.groups:
        _add_population(made, setting, group, choices[group.population.name], approximate)
    scale = 1.0
    multiplied = _multiplied(graph)
    for node in graph:
        if node.name in made.nodes:
            continue
        if node.layer.synaptic:
            _add_head(made, node)
        elif isinstance(node.layer, Readout):
            worth = made.port_worth(node.inputs[0])
            mean = node.layer.how == "mean"
            scale = worth / setting.steps if mean else worth
            made.nodes[node.name] = dataclasses.replace(
                node, layer=Readout("sum") if mean else node.layer, placement="host"
            )
        elif node.name in multiplied:
            _add_multiplied(made, setting, node)
        elif node.name == graph.output.name:
            if not isinstance(graph[node.inputs[0].source].layer, Readout):
                scale = made.port_worth(node.inputs[0])
            made.nodes[node.name] = dataclasses.replace(node, placement="host")
        else:
            made.nodes[node.name] = node
            if node.name not in made.worth:
                made.worth[node.name] = made.port_worth(node.inputs[0])
    if products := [node.name for node in graph if isinstance(node.layer, PRODUCTS)]:
        made.notes.append(f"{', '.join(products)}: {HOSTED['products']} (--host products)")
    nodes = [made.nodes[name] for node in graph for name in _names(node.name) if name in made.nodes]
    return Program(
        nodes=in_order(_past_scales(node, graph) for node in nodes if not isinstance(node.layer, Scale)),
        time_steps=graph.time_steps,
        coding=graph.coding,
        target=setting.target,
        formats=dict(sorted(made.formats.items())),
        output_scale=np.asarray(scale, dtype=np.float64),
        passes=tuple(passes),
        quantization=tuple(made.records),
        notes=tuple(made.notes),
        options={
            "weight_bits": setting.bits,
            "encoder": setting.encoder,
            "approximate": ",".join(sorted(approximate)),
            "host": ",".join(sorted(host)),
            "calibration_samples": len(setting.data),
        },
        origin=graph.origin,
    ).verify()


def _add_population(made: _Made, setting: Setting, group: Group, best: Quantized, approximate: Collection[str]) -> None:
    node, target = group.population, setting.target
    arithmetic = target.arithmetic
    model = node.layer.model  # type: ignore[attr-defined]
    neuron, edges = best.neuron, node.inputs
    if best.proved and isinstance(neuron, IntegerLIF):
        neuron = neuron.strict(arithmetic)
    if isinstance(neuron, IntegerPerStepLIF):
        made.notes.append(
            f"{node.name}: input scaled per step: not one network repeated T times; needs a programmable neuron"
        )
    if not target.limits.custom_neurons:
        neuron, used = on_fixed_core(neuron, node.where(), approximate, target.limits, arithmetic)
        made.notes += [f"{node.name}: {APPROXIMATIONS[name]} (--approximate {name})" for name in used]
    if best.host is not None:
        (synapse,) = group.synapses
        rescale = _names(synapse.name)[1]
        edges = (Edge(rescale),)
        worth = setting.worth[synapse.inputs[0].source]
        made.nodes[synapse.name] = dataclasses.replace(synapse, layer=best.host.layer, placement="host")
        made.nodes[rescale] = Node(rescale, Rescale(best.host.shift), (Edge(synapse.name),), synapse.source, "host")
        made.formats[f"{synapse.name}.weight"] = Format(
            HOST_BITS, True, best.unit / 2.0**best.host.shift / worth, overflow="error"
        )
        bits = arithmetic.current_bits - arithmetic.input_shift
        made.formats[rescale] = Format(bits, True, best.unit, overflow="error", rounding="nearest")
    else:
        for synapse in group.synapses:
            float_layer = cast(Linear, synapse.layer)
            layer = dataclasses.replace(float_layer, weight=best.weights[synapse.name], bias=None)
            made.nodes[synapse.name] = dataclasses.replace(synapse, layer=layer)
            # Even mantissas: one bit wider than the number of weights they tell apart.
            made.formats[f"{synapse.name}.weight"] = Format(
                target.weights.bits + 1,
                True,
                best.unit / setting.worth[synapse.inputs[0].source],
                best.exponents[synapse.name],
                overflow="error",
            )
    made.nodes[node.name] = dataclasses.replace(node, layer=Neuron(neuron), inputs=edges)
    fine = best.unit / (1 << arithmetic.input_shift)
    gain = float(np.mean(model.input_gain))
    made.formats[f"{node.name}.u"] = Format(
        arithmetic.current_bits, True, fine, 0, arithmetic.current_overflow, arithmetic.decay_rounding
    )
    made.formats[f"{node.name}.v"] = Format(
        arithmetic.voltage_bits,
        True,
        gain * fine,
        0,
        arithmetic.voltage_overflow,
        arithmetic.decay_rounding,
    )
    if model.integrates_only:
        made.worth[node.name] = gain * fine
    made.records.append(record(group, bias_of(group), best, target))


def _multiplied(graph: Graph) -> set[str]:
    """The products and what is only moved, added or scaled behind them."""
    found: set[str] = set()
    for node in graph:
        behind = isinstance(node.layer, PASSING) and any(edge.source in found for edge in node.inputs)
        if behind or isinstance(node.layer, PRODUCTS):
            found.add(node.name)
    return found


def _add_multiplied(made: _Made, setting: Setting, node: Node) -> None:
    """A product, whose format is the width in which it comes back to the chip, or what is moved behind it."""
    made.nodes[node.name] = dataclasses.replace(node, placement="host")
    if isinstance(node.layer, PRODUCTS):
        low, high = setting.span_of(node.name)
        bits = max(1, high.bit_length(), (~low).bit_length() if low < 0 else 0) + int(low < 0)
        if bits > INTEGER_BITS:
            raise S2CError(
                f"this product may need {bits} bits",
                where=node.where(),
                why=f"it spans {low}…{high}, and integers have {INTEGER_BITS} bits",
                fix="put a neuron before it, so that spikes are multiplied",
            )
        made.formats[node.name] = Format(bits, low < 0, setting.worth[node.name], overflow="error")


def _past_scales(node: Node, graph: Graph) -> Node:
    """The node reading what a Scale reads instead of the Scale, which only says what a unit is worth."""
    edges = []
    for edge in node.inputs:
        while edge.source in graph.nodes and isinstance(graph[edge.source].layer, Scale):
            (before,) = graph[edge.source].inputs
            edge = Edge(before.source, before.delay + edge.delay, before.recurrent or edge.recurrent, before.port)
        edges.append(edge)
    return dataclasses.replace(node, inputs=tuple(edges))


def _names(name: str) -> tuple[str, str]:
    """A graph node's name, and that of the shift that follows it where the host computes it."""
    return name, f"{name}.rescale"


def _add_head(made: _Made, node: Node) -> None:
    """A synaptic layer after the last population: the host multiplies, in its own width."""
    worth = made.port_worth(node.inputs[0])
    layer, scale = head(cast(Linear, node.layer), worth)
    made.nodes[node.name] = dataclasses.replace(node, layer=layer, placement="host")
    made.formats[f"{node.name}.weight"] = Format(HOST_BITS, True, scale, overflow="error")
    made.worth[node.name] = scale * worth
