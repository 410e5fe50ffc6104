"""Choices, one per population → the Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Graph, Node, in_order
from snn2chip.ir.layers import Conv, Linear, MaxPool, Neuron, Readout, Rescale, Scale
from snn2chip.ir.program import Format, PassRecord, Program
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.neurons.per_step import IntegerPerStepLIF
from snn2chip.quantize.groups import PASSING, PRODUCTS, Group
from snn2chip.quantize.host import HOSTED, head
from snn2chip.quantize.neuron import APPROXIMATIONS, on_fixed_core
from snn2chip.quantize.overflow import sum_range
from snn2chip.quantize.pools import Pooled
from snn2chip.quantize.record import record
from snn2chip.quantize.search import HostLayer, Quantized
from snn2chip.quantize.setting import HOST_BITS, Setting, bias_of

# Width of the host's integers.
INTEGER_BITS = 63


@dataclass
class _Made:
    """The Program as far as it is made.

    Args:
        worth: layer → float value of one unit of its output.
        output_scale: that of the network's output.
    """

    nodes: dict[str, Node]
    formats: dict[str, Format]
    worth: dict[str, float]
    notes: list[str]
    output_scale: float = 1.0

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
    program = network(setting, choices, approximate)
    return dataclasses.replace(
        program,
        passes=tuple(passes),
        quantization=tuple(
            record(group, bias_of(group), choices[group.population.name], setting.target) for group in setting.groups
        ),
        notes=(*notes, *program.notes),
        options={
            "weight_bits": setting.bits,
            "encoder": setting.encoder,
            "approximate": ",".join(sorted(approximate)),
            "host": ",".join(sorted(host)),
            "calibration_samples": len(setting.data),
        },
    ).verify()


def network(setting: Setting, choices: Mapping[str, Quantized], approximate: Collection[str] = ()) -> Program:
    """The same to be run only: not verified, and without what was measured and done on the way to it."""
    graph = setting.graph
    made = _Made({}, {graph.input.name: setting.input_format}, dict(setting.worth), [])
    for group in setting.groups:
        _add_population(made, setting, group, choices[group.population.name], approximate)
    on_host = _on_host(graph)
    pooling = {step.name for group in setting.groups for arm in group.pooled for step in (*arm.between, arm.entry)}
    for node in graph:
        if node.name in made.nodes or node.name in pooling:
            continue
        if node.layer.synaptic:
            _add_head(made, node)
        elif isinstance(node.layer, Readout):
            _add_readout(made, setting, node)
        elif node.name in on_host:
            _add_hosted(made, setting, node)
        elif node.name == graph.output.name:
            _add_output(made, graph, node)
        else:
            made.nodes[node.name] = node
            if node.name not in made.worth:
                made.worth[node.name] = made.port_worth(node.inputs[0])
    for option, kinds in (("products", PRODUCTS), ("pools", (MaxPool,))):
        named = [node.name for node in graph if isinstance(node.layer, kinds) and node.name not in pooling]
        if named:
            made.notes.append(f"{', '.join(named)}: {HOSTED[option]} (--host {option})")
    nodes = [made.nodes[name] for node in graph for name in _names(node.name) if name in made.nodes]
    return Program(
        nodes=in_order(_past_scales(node, graph) for node in nodes if not isinstance(node.layer, Scale)),
        time_steps=graph.time_steps,
        coding=graph.coding,
        target=setting.target,
        formats=dict(sorted(made.formats.items())),
        output_scale=np.asarray(made.output_scale, dtype=np.float64),
        notes=tuple(made.notes),
        origin=graph.origin,
    )


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
        edges = (_add_handed_over(made, setting, group, best.unit, best.host),)
    else:
        inside = {synapse.name for arm in group.pooled for synapse in arm.synapses}
        for synapse in group.synapses:
            if synapse.name not in inside:
                _add_synapse(made, setting, synapse, best)
        for arm in group.pooled:
            _add_pooled(made, setting, node, arm, best)
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


def _add_synapse(made: _Made, setting: Setting, synapse: Node, best: Quantized) -> None:
    layer = dataclasses.replace(cast(Linear, synapse.layer), weight=best.weights[synapse.name], bias=None)
    made.nodes[synapse.name] = dataclasses.replace(synapse, layer=layer)
    # Even mantissas: one bit wider than the number of weights they tell apart.
    made.formats[f"{synapse.name}.weight"] = Format(
        setting.target.weights.bits + 1,
        True,
        best.unit / setting.worth[synapse.inputs[0].source],
        best.exponents[synapse.name],
        overflow="error",
    )


def _add_handed_over(made: _Made, setting: Setting, group: Group, unit: float, host: HostLayer) -> Edge:
    """What the host computes of a direct-coded input, once per sample; the edge by which the population takes it."""
    (synapse,) = group.synapses
    rescale, arithmetic = _names(synapse.name)[1], setting.target.arithmetic
    made.nodes[synapse.name] = dataclasses.replace(synapse, layer=host.layer, placement="host")
    last = synapse.name
    for arm in group.pooled:
        entry = dataclasses.replace(arm.entry, layer=_weighing(arm, 1))
        steps = (*arm.between, *([entry] if (arm.signs < 0).any() else []))
        made.nodes |= {step.name: dataclasses.replace(step, placement="host") for step in steps}
        last = steps[-1].name
        made.notes.append(_pooling(group.population, arm) + ", once per sample (--host pools)")
    made.nodes[rescale] = Node(rescale, Rescale(host.shift), (Edge(last),), synapse.source, "host")
    made.formats[f"{synapse.name}.weight"] = Format(
        HOST_BITS,
        True,
        unit / 2.0**host.shift / setting.worth[synapse.inputs[0].source],
        overflow="error",
    )
    bits = arithmetic.current_bits - arithmetic.input_shift
    made.formats[rescale] = Format(bits, True, unit, overflow="error", rounding="nearest")
    return Edge(rescale)


def _add_pooled(made: _Made, setting: Setting, population: Node, arm: Pooled, best: Quantized) -> None:
    """Synapses that the host sums with the chip's weights, in steps of these, and the synapse of one step behind."""
    exponent = min(best.exponents[synapse.name] for synapse in arm.synapses)
    step = setting.target.weights.step(setting.bits) << exponent
    spans = {}
    for synapse in arm.synapses:
        source = synapse.inputs[0].source
        layer = dataclasses.replace(cast(Linear, synapse.layer), weight=best.weights[synapse.name] // step, bias=None)
        spans[synapse.name] = sum_range(layer, setting.span_of(source))
        made.nodes[synapse.name] = dataclasses.replace(synapse, layer=layer, placement="host")
        made.formats[f"{synapse.name}.weight"] = Format(
            setting.bits,
            True,
            best.unit * step / setting.worth[source],
            best.exponents[synapse.name] - exponent,
            overflow="error",
        )
    made.nodes |= {node.name: dataclasses.replace(node, placement="host") for node in arm.between}
    sent = arm.entry.inputs[0].source
    form = made.formats[sent] = _integers(arm.spans(spans)[sent], best.unit * step)
    made.notes.append(_pooling(population, arm) + f", {form.bits} bits at every step (--host pools)")
    made.nodes[arm.entry.name] = dataclasses.replace(arm.entry, layer=_weighing(arm, step))
    made.formats[f"{arm.entry.name}.weight"] = Format(
        setting.target.weights.bits + 1, True, 1 / step, exponent, overflow="error"
    )


def _pooling(population: Node, arm: Pooled) -> str:
    """What the host does for a population, for people."""
    pools = ", ".join(node.name for node in arm.between if isinstance(node.layer, MaxPool))
    synapses = ", ".join(node.name for node in arm.synapses)
    return f"{population.name}: fed by the host, which sums {synapses} and hands over the maxima of {pools}"


def _weighing(arm: Pooled, step: int) -> Linear | Conv:
    """The entry of an arm with weights of ``step`` and −``step``."""
    layer = cast(Linear, arm.entry.layer)
    return dataclasses.replace(layer, weight=layer.weight.astype(np.int64) * step, bias=None)


def _integers(span: tuple[int, int], scale: float) -> Format:
    """The format of whole numbers in a range."""
    low, high = span
    bits = max(1, high.bit_length(), (~low).bit_length() if low < 0 else 0) + int(low < 0)
    return Format(bits, low < 0, scale, overflow="error")


def _on_host(graph: Graph) -> set[str]:
    """The products and maxima, and what is only moved, added or scaled behind them."""
    found: set[str] = set()
    for node in graph:
        behind = isinstance(node.layer, PASSING) and any(edge.source in found for edge in node.inputs)
        if behind or isinstance(node.layer, (*PRODUCTS, MaxPool)):
            found.add(node.name)
    return found


def _add_hosted(made: _Made, setting: Setting, node: Node) -> None:
    """A product or maximum, whose format is the width in which it comes back to the chip, or what is moved behind."""
    made.nodes[node.name] = dataclasses.replace(node, placement="host")
    if node.name not in made.worth:
        # Behind the last population: maxima of membranes, or of what the host sums there.
        made.worth[node.name] = made.port_worth(node.inputs[0])
    elif isinstance(node.layer, (*PRODUCTS, MaxPool)):
        form = _integers(setting.span_of(node.name), made.worth[node.name])
        if form.bits > INTEGER_BITS:
            low, high = setting.span_of(node.name)
            raise S2CError(
                f"this product may need {form.bits} bits",
                where=node.where(),
                why=f"it spans {low}…{high}, and integers have {INTEGER_BITS} bits",
                fix="put a neuron before it, so that spikes are multiplied",
            )
        made.formats[node.name] = form


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


def _add_readout(made: _Made, setting: Setting, node: Node) -> None:
    """A mean is a sum of integers, whose unit is worth a T-th."""
    assert isinstance(node.layer, Readout)
    mean = node.layer.how == "mean"
    made.output_scale = made.port_worth(node.inputs[0]) / (setting.steps if mean else 1)
    layer = Readout("sum") if mean else node.layer
    made.nodes[node.name] = dataclasses.replace(node, layer=layer, placement="host")


def _add_output(made: _Made, graph: Graph, node: Node) -> None:
    if not isinstance(graph[node.inputs[0].source].layer, Readout):
        made.output_scale = made.port_worth(node.inputs[0])
    made.nodes[node.name] = dataclasses.replace(node, placement="host")
