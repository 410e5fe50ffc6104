"""Graph + Target + calibration data → Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Edge, Graph, Node, in_order
from snn2chip.ir.layers import Array, Conv, Linear, Neuron, Readout, Rescale
from snn2chip.ir.program import Format, LayerQuantization, PassRecord, Program
from snn2chip.ir.target import Target, load_target
from snn2chip.neurons.base import FloatNeuron
from snn2chip.passes import DEFAULT_PIPELINE, run_passes
from snn2chip.quantize.groups import TRANSPARENT, Group, check_form, groups, is_binary, with_identity_synapses
from snn2chip.quantize.neuron import APPROXIMATIONS, on_fixed_core, strict_where_equal
from snn2chip.quantize.overflow import ranges, register_limits, sum_range
from snn2chip.quantize.search import (
    HEADROOM,
    Branch,
    HostLayer,
    NoScaleError,
    Problem,
    Quantized,
    judged,
    preferred,
    search,
    snapped,
)
from snn2chip.simulate import Result, simulate
from snn2chip.simulate.data import as_samples
from snn2chip.simulate.ops import NumpyOps, apply

Encoder = Literal["host", "chip"]

# Widest graded spikes that analog input is coded in on the chip.
INPUT_BITS = 8
# Width of integers on the host, where a multiplier is there anyway.
HOST_BITS = 16
# Calibration samples that are run at most; more refine nothing that 8-bit weights can show.
CALIBRATION_SAMPLES = 128
# Values of all layers over all steps and samples that a calibration run holds at most.
CALIBRATION_VALUES = 60_000_000
# Values of one population over all steps and samples that a candidate scale is judged on at most.
SEARCH_VALUES = 2_500_000
# Values of all layers that the whole network is run on for each alternative at most.
REFINING_VALUES = 20_000_000

_OPS = NumpyOps()


def quantize(
    graph: Graph,
    target: str | Target = "loihi2",
    calibration: Any = None,
    *,
    weight_bits: int = 8,
    encoder: Encoder = "host",
    passes: str = DEFAULT_PIPELINE,
    approximate: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Program:
    """The integer network the chip runs.

    Args:
        graph: the float network; the passes of ``passes`` are run on it first, each proved.
        target: name of a target, path of a ``.toml``, or a Target.
        calibration: samples as the network takes them; they choose scales, nothing else.
        weight_bits: width of the synaptic weights, sign included.
        encoder: where a direct-coded first layer runs: on the host, which then sends its sums to the chip once per
            sample, or on the chip, with the input as graded spikes.
        approximate: what a chip with a fixed neuron may do differently (``APPROXIMATIONS``); each is noted.
        progress: called with the name of each population when it is done.

    Raises:
        UsageError: calibration data or an option is missing or wrong.
        S2CError: the network cannot be represented; the message names the layer.
    """
    chip = load_target(target)
    _check_options(chip, calibration, weight_bits, encoder, approximate)
    data = as_samples(graph, calibration)
    if graph.time_steps is None:
        graph = dataclasses.replace(graph, time_steps=data.shape[1])
    graph, records = run_passes(graph, data, passes)
    graph = with_identity_synapses(graph).verify()
    check_form(graph)
    data = data[: affordable_samples(graph)]
    reference = simulate(graph, data, record=("spikes", "v", "a", "out"))
    make = partial(_Builder, graph, chip, weight_bits, encoder, frozenset(approximate), data, reference)
    builder, first = _with_input_that_fits(make)
    shortlists: dict[str, list[Quantized]] = {}
    for group in builder.groups:
        name = group.population.name
        shortlists[name] = first[name] if name in first else builder.shortlist(group)
        if progress is not None:
            progress(name)
    return builder.assembled(_refined(builder, shortlists, reference.outputs), records)


def _with_input_that_fits(make: Callable[[int], _Builder]) -> tuple[_Builder, dict[str, list[Quantized]]]:
    """A builder whose input is coded as finely as the sums of the layers that read it allow, and their scales.

    Graded input times 8-bit weights can exceed the current's register; fewer input bits then cost less than a wrap.
    """
    for bits in range(INPUT_BITS, 0, -1):
        builder = make(bits)
        try:
            return builder, {g.population.name: builder.shortlist(g) for g in builder.groups if builder.reads_input(g)}
        except NoScaleError:
            if builder.input_format.bits < bits or bits == 1:
                raise
    raise AssertionError("the loop returns or raises")


def affordable_samples(graph: Graph, limit: int = CALIBRATION_VALUES) -> int:
    """How many calibration samples are run: as many as hold ``limit`` values over all layers and steps, at least 4."""
    shapes = graph.shapes()
    values = (graph.time_steps or 1) * sum(int(np.prod(shapes[node.name])) for node in graph)
    return min(CALIBRATION_SAMPLES, max(4, limit // values))


def _refined(builder: _Builder, shortlists: dict[str, list[Quantized]], outputs: Array) -> dict[str, Quantized]:
    """One alternative per population: the local best, unless another brings the whole network closer to its float self.

    Populations are visited in order; each keeps the alternative with which the outputs on the calibration data deviate
    least. Labels are not looked at.
    """
    chosen = {name: shortlist[0] for name, shortlist in shortlists.items()}
    samples = affordable_samples(builder.graph, REFINING_VALUES)
    outputs = outputs[:samples]
    spread = float(((outputs - outputs.mean(axis=0)) ** 2).sum()) or 1.0

    def deviation(choices: dict[str, Quantized]) -> float:
        found = simulate(builder.assembled(choices), builder.data[:samples]).outputs
        return float(((found - outputs) ** 2).sum()) / spread

    least = deviation(chosen)
    for name, shortlist in shortlists.items():
        for alternative in shortlist[1:]:
            found = deviation(chosen | {name: alternative})
            if found < least:
                least, chosen = found, chosen | {name: alternative}
    return chosen


class _Builder:
    """What the parts of a Program are made from: the graph, its float run, and what one unit of each node is worth."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        bits: int,
        encoder: Encoder,
        approximate: frozenset[str],
        data: Array,
        reference: Result,
        input_bits: int,
    ) -> None:
        self.input_bits = input_bits
        self.graph, self.target, self.bits, self.encoder = graph, target, bits, encoder
        # Fixed by the data where the source left it open.
        self.steps = cast(int, graph.time_steps)
        self.approximate, self.data, self.reference = approximate, data, reference
        self.groups = groups(graph)
        self.on_host = self._host_prefix()
        self.input_format = self._input_format()
        self.spans = ranges(graph, self.input_format.range)
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
        signed = low < 0
        room = max(room, 1 + signed)
        top = (1 << (room - 1)) - 1 if signed else (1 << room) - 1
        largest = max(abs(low), abs(high)) or 1.0
        return Format(room, signed, largest / top, overflow="saturate", rounding="nearest")

    def _value_of(self, node: Node) -> None:
        """Note what one unit of the node's output is worth in the float network, where that is known beforehand."""
        layer = node.layer
        if node.name == self.graph.input.name:
            self.worth[node.name] = self.input_format.scale
        elif isinstance(layer, Neuron) and not layer.model.integrates_only:
            self.worth[node.name] = layer.model.spike_value
        elif isinstance(layer, TRANSPARENT):
            units = {self.worth.get(e.source) for e in node.inputs}
            if len(units) != 1 or None in units:
                raise S2CError(
                    "values of different scales are added or joined",
                    where=node.where(),
                    why="only spikes of equal value can meet outside a neuron",
                    fix="put a synapse (linear or conv layer) on each branch, so that they meet in the neuron after it",
                )
            self.worth[node.name] = units.pop() or 1.0

    def reads_input(self, group: Group) -> bool:
        """Whether a synapse of the group carries the input, moved at most, and runs on the chip."""
        names = {self.graph.input.name}
        for node in self.graph:
            if isinstance(node.layer, TRANSPARENT) and any(e.source in names for e in node.inputs):
                names.add(node.name)
        return any(e.source in names for s in group.synapses if s.name not in self.on_host for e in s.inputs)

    def shortlist(self, group: Group) -> list[Quantized]:
        """The best ways found to quantize one population and its synapses, best first."""
        model: FloatNeuron = group.population.layer.model  # type: ignore[attr-defined]
        problem = self._problem(group, model)
        hosted = [s for s in group.synapses if s.name in self.on_host]
        if hosted and len(group.synapses) > 1:
            raise S2CError(
                "a population is fed by several layers, one of them on the host",
                where=group.population.where(),
                fix='use encoder="chip" (--encoder chip)',
            )
        try:
            return [self._host_fed(problem)] if hosted else search(problem)
        except S2CError as error:
            raise type(error)(error.what, where=group.population.where(), why=error.why, fix=error.fix) from None

    def _problem(self, group: Group, model: FloatNeuron) -> Problem:
        name = group.population.name
        recorded = self.reference[name]
        bias = self._bias(group)
        branches = []
        for synapse in group.synapses:
            layer = synapse.layer
            assert isinstance(layer, Linear | Conv)
            edge = synapse.inputs[0]
            worth = self.worth[edge.source]
            scaled = dataclasses.replace(layer, weight=layer.weight.astype(np.float64) * worth, bias=None)
            inputs = None if edge.recurrent else self._integers(edge)
            branches.append(Branch(synapse.name, scaled, inputs, self.spans[edge.source]))
        target = recorded.v if model.integrates_only else recorded.spikes
        assert recorded.a is not None
        assert target is not None
        spikes = target if model.integrates_only else np.rint(target / model.spike_value).astype(np.int64)
        sums = recorded.a.astype(np.float64) - bias
        # A large layer says all it has to say with few samples: it has many neurons.
        enough = max(4, SEARCH_VALUES // max(1, sums[0].size))
        judging = [dataclasses.replace(b, inputs=None if b.inputs is None else b.inputs[:enough]) for b in branches]
        return Problem(tuple(judging), model, bias, sums[:enough], spikes[:enough], self.target, self.bits, self.steps)

    def _bias(self, group: Group) -> Array:
        """The float biases of a population's synapses, summed, broadcasting against it."""
        bias: Array = np.zeros(())
        for layer in (synapse.layer for synapse in group.synapses):
            if isinstance(layer, Linear | Conv) and layer.bias is not None:
                shape = (-1, *(1,) * layer.axes) if isinstance(layer, Conv) else (-1,)
                bias = bias + layer.bias.astype(np.float64).reshape(shape)
        return bias

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
        if edge.delay:
            values = np.concatenate([np.zeros_like(values[:, : edge.delay]), values[:, : -edge.delay]], axis=1)
        return values.astype(np.int64)

    def _host_fed(self, problem: Problem) -> Quantized:
        """A population whose sums the host computes in wide integers and hands over once per sample."""
        (branch,) = problem.branches
        limits, arithmetic, model = self.target.limits, self.target.arithmetic, problem.model
        room = register_limits(arithmetic, arithmetic.current_bits)["u"] >> arithmetic.input_shift
        smallest = HEADROOM * (float(np.abs(problem.sums).max(initial=0.0)) or 1.0) / room
        if not model.integrates_only:
            smallest = max(smallest, float(np.max(model.v_threshold / model.input_gain)) / limits.threshold_max)
        # Coarser units leave more room above what the data reached, up to where the worst case fits.
        units = [snapped(smallest * 2.0**k, model) for k in range(12)]
        fitting = [q for unit in units if (q := self._handed_over(branch, problem, unit)) is not None]
        if not fitting:
            raise S2CError("the sums of the host do not fit the chip's registers at any scale")
        return preferred(fitting)

    def _handed_over(self, branch: Branch, problem: Problem, unit: float) -> Quantized | None:
        """The host's integer layer and its shift at this unit, and the population judged on what they hand over."""
        largest = float(np.abs(branch.layer.weight).max(initial=0.0)) or 1.0
        top = (1 << (HOST_BITS - 1)) - 1
        shift = max(0, int(np.floor(np.log2(unit * top / largest))))
        weight = np.clip(np.rint(branch.layer.weight / (unit / 2.0**shift)), -top, top).astype(np.int64)
        layer = dataclasses.replace(branch.layer, weight=weight, bias=None)
        assert branch.inputs is not None
        # Direct coding: every step brings the same sums, so that the first says all.
        handed = apply(Rescale(shift), [apply(layer, [branch.inputs[:, 0]], _OPS)], _OPS)
        outside = np.broadcast_to(handed[:, None], problem.spikes.shape)
        low, high = sum_range(layer, branch.source)
        found = judged(problem, unit, problem.bias, ((low >> shift) - 1, (high >> shift) + 1), outside)
        return None if found is None else dataclasses.replace(found, host=HostLayer(layer, shift))

    def assembled(self, choices: dict[str, Quantized], passes: Iterable[PassRecord] = ()) -> Program:
        """The Program with these choices, one per population; what is left after the populations is the host's."""
        made = _Made({}, {self.graph.input.name: self.input_format}, dict(self.worth), [], [])
        for group in self.groups:
            self._add_population(made, group, choices[group.population.name])
        scale = 1.0
        for node in self.graph:
            if node.name in made.nodes:
                continue
            if node.layer.synaptic:
                _add_head(made, node)
            elif isinstance(node.layer, Readout):
                worth = made.port_worth(node.inputs[0])
                mean = node.layer.how == "mean"
                scale = worth / self.steps if mean else worth
                made.nodes[node.name] = dataclasses.replace(
                    node, layer=Readout("sum") if mean else node.layer, placement="host"
                )
            elif node.name == self.graph.output.name:
                if not isinstance(self.graph[node.inputs[0].source].layer, Readout):
                    scale = made.port_worth(node.inputs[0])
                made.nodes[node.name] = dataclasses.replace(node, placement="host")
            else:
                made.nodes[node.name] = node
        return Program(
            nodes=in_order(made.nodes[name] for node in self.graph for name in _names(node.name) if name in made.nodes),
            time_steps=self.graph.time_steps,
            coding=self.graph.coding,
            target=self.target,
            formats=dict(sorted(made.formats.items())),
            output_scale=np.asarray(scale, dtype=np.float64),
            passes=tuple(passes),
            quantization=tuple(made.records),
            notes=tuple(made.notes),
            options={
                "weight_bits": self.bits,
                "encoder": self.encoder,
                "approximate": ",".join(sorted(self.approximate)),
                "calibration_samples": len(self.data),
            },
            origin=self.graph.origin,
        ).verify()

    def _add_population(self, made: _Made, group: Group, best: Quantized) -> None:
        node, arithmetic = group.population, self.target.arithmetic
        model = node.layer.model  # type: ignore[attr-defined]
        neuron, edges = best.neuron, node.inputs
        if best.proved:
            neuron = strict_where_equal(neuron, arithmetic)
        if not self.target.limits.custom_neurons:
            neuron, used = on_fixed_core(neuron, node.where(), self.approximate, self.target.limits, arithmetic)
            made.notes += [f"{node.name}: {APPROXIMATIONS[name]} (--approximate {name})" for name in used]
        if best.host is not None:
            (synapse,) = group.synapses
            rescale = _names(synapse.name)[1]
            edges = (Edge(rescale),)
            worth = self.worth[synapse.inputs[0].source]
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
                    self.target.weights.bits + 1,
                    True,
                    best.unit / self.worth[synapse.inputs[0].source],
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
        made.records.append(_record(group, self._bias(group), best, self.target))


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


def _names(name: str) -> tuple[str, str]:
    """A graph node's name, and that of the shift that follows it where the host computes it."""
    return name, f"{name}.rescale"


def _add_head(made: _Made, node: Node) -> None:
    """A synaptic layer after the last population: the host multiplies, in its own width."""
    layer = node.layer
    assert isinstance(layer, Linear | Conv)
    worth = made.port_worth(node.inputs[0])
    top = (1 << (HOST_BITS - 1)) - 1
    scale = (float(np.abs(layer.weight).max(initial=0.0)) or 1.0) / top
    weight = np.rint(layer.weight.astype(np.float64) / scale).astype(np.int64)
    bias = None if layer.bias is None else np.rint(layer.bias.astype(np.float64) / (scale * worth)).astype(np.int64)
    made.nodes[node.name] = dataclasses.replace(
        node, layer=dataclasses.replace(layer, weight=weight, bias=bias), placement="host"
    )
    made.formats[f"{node.name}.weight"] = Format(HOST_BITS, True, scale, overflow="error")
    made.worth[node.name] = scale * worth


def _record(group: Group, bias: Array, best: Quantized, target: Target) -> LayerQuantization:
    """What was rounded, for the report."""
    neuron, model = best.neuron, group.population.layer.model  # type: ignore[attr-defined]
    threshold_error = 0.0
    if neuron.v_threshold is not None:
        real = model.v_threshold / (model.input_gain * best.unit)
        threshold_error = float(np.max(np.abs(neuron.v_threshold - real) / real))
    wanted = bias / (best.unit / (1 << target.arithmetic.input_shift))
    reach = float(np.max(np.abs(wanted), initial=0.0))
    compared = reach and not best.corrected and not model.leak_bias.any()
    register = register_limits(target.arithmetic, target.limits.accumulator_bits)
    remarks = [] if best.proved else [_overflow_remark(best, register)]
    if best.corrected:
        remarks.append("the mean rounding error of each channel's sum is taken back through its bias")
    return LayerQuantization(
        name=group.population.name,
        scale=best.unit,
        synapses={s.name: _weight_errors(s.layer.weight, best, s.name) for s in group.synapses},  # type: ignore[attr-defined]
        threshold=None if neuron.v_threshold is None else int(np.max(neuron.v_threshold)),
        threshold_error=threshold_error,
        bias_error=float(np.max(np.abs(neuron.input_bias - wanted))) / reach if compared else 0.0,
        decay_error=model.rounding_error(neuron, best.unit, target.arithmetic),
        spikes_differing=best.differing,
        worst_case=dataclasses.asdict(best.worst),
        observed=dataclasses.asdict(best.observed),
        register=dict(register),
        proved=best.proved,
        remarks=tuple(remarks),
    )


def _overflow_remark(best: Quantized, register: Any) -> str:
    over = [
        f"{name} could reach {getattr(best.worst, name) / limit:.2f} times its register "
        f"({getattr(best.observed, name) / limit:.0%} on the calibration data)"
        for name, limit in register.items()
        if getattr(best.worst, name) > limit
    ]
    return "not proved against overflow: " + "; ".join(over)


def _weight_errors(real: Array, best: Quantized, name: str) -> dict[str, float]:
    """Signal-to-noise ratio of the weights in dB, and the share that was clipped."""
    integers = best.host.layer.weight if best.host is not None else best.weights[name]
    # The factor between weights and integers that leaves the least error is the scale they were rounded with.
    scale = float((real * integers).sum() / max(float((integers.astype(np.float64) ** 2).sum()), 1e-300))
    error = real - integers * scale
    power, noise = float((real.astype(np.float64) ** 2).sum()), float((error**2).sum())
    largest = np.abs(integers).max(initial=0) * abs(scale)
    step = (best.unit if best.host is None else scale) or 1.0
    return {
        "sqnr_db": 10 * float(np.log10(power / noise)) if power and noise > 1e-12 * power else 120.0,
        "clipped": float(np.mean((np.abs(real) > largest) & (np.abs(error) > abs(step)))),
        "exponent": float(best.exponents.get(name, 0)),
    }


def _check_options(target: Target, calibration: Any, bits: int, encoder: str, approximate: Collection[str]) -> None:
    if calibration is None:
        raise UsageError(
            "quantization needs calibration data", fix="give calibration=x, samples as the network takes them"
        )
    if not 2 <= bits <= target.weights.bits:
        raise UsageError(
            f"{bits}-bit weights",
            why=f"{target.title} holds 2 to {target.weights.bits} bits",
            fix="choose --weight-bits in that range",
        )
    if encoder not in ("host", "chip"):
        raise UsageError(f"there is no encoder {encoder!r}", fix='use "host" or "chip"')
    if unknown := set(approximate) - set(APPROXIMATIONS):
        raise UsageError(
            f"nothing to approximate is called {', '.join(sorted(unknown))}",
            fix=f"choose from {', '.join(APPROXIMATIONS)}",
        )
