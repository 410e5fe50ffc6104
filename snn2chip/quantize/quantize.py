"""Graph + Target + calibration data → Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Array, Conv, Linear, Neuron, Readout, Rescale
from snn2chip.ir.program import Format, LayerQuantization, Program
from snn2chip.ir.target import Target, load_target
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.passes import DEFAULT_PIPELINE, run_passes
from snn2chip.quantize.groups import TRANSPARENT, Group, check_form, groups, is_binary, with_identity_synapses
from snn2chip.quantize.neuron import APPROXIMATIONS, on_fixed_core, strict_where_equal
from snn2chip.quantize.overflow import ranges, register_limits, sum_range
from snn2chip.quantize.search import HEADROOM, Branch, Problem, Quantized, judged, preferred, search, snapped
from snn2chip.simulate import Result, simulate
from snn2chip.simulate.data import as_samples
from snn2chip.simulate.ops import NumpyOps, apply

Encoder = Literal["host", "chip"]

# Width of integers on the host, where a multiplier is there anyway.
HOST_BITS = 16
# Calibration samples that are run; more refine nothing that 8-bit weights can show.
CALIBRATION_SAMPLES = 128

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
    graph, records = run_passes(graph, data, passes)
    graph = with_identity_synapses(graph).verify()
    check_form(graph)
    data = data[:CALIBRATION_SAMPLES]
    reference = simulate(graph, data, record=("spikes", "v", "a", "out"))
    builder = _Builder(graph, chip, weight_bits, encoder, frozenset(approximate), data, reference)
    for group in groups(graph):
        builder.add_group(group)
        if progress is not None:
            progress(group.population.name)
    return builder.program(records)


class _Builder:
    """The Program as far as it is made: integer layers, formats, and what one unit of each node's output is worth."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        bits: int,
        encoder: Encoder,
        approximate: frozenset[str],
        data: Array,
        reference: Result,
    ) -> None:
        self.graph, self.target, self.bits, self.encoder = graph, target, bits, encoder
        self.approximate, self.data, self.reference = approximate, data, reference
        self.nodes: dict[str, Node] = {}
        self.formats: dict[str, Format] = {}
        self.worth: dict[str, float] = {}
        self.records: list[LayerQuantization] = []
        self.notes: list[str] = []
        self.on_host = self._host_prefix()
        self.formats[graph.input.name] = self._input_format()
        self.spans = ranges(graph, self.formats[graph.input.name].range)
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
        if whole and low >= 0 and high < 256 and (fed_by_host or self.target.limits.input_bits >= 8):
            return Format(8, False, 1.0, overflow="error" if self.graph.coding == "steps" else "saturate")
        bits = HOST_BITS if fed_by_host else min(8, self.target.limits.input_bits)
        if bits == 1:
            raise S2CError(
                f"{self.target.title} takes binary spikes, and the data is not binary",
                where=self.graph.input.where(),
                why=f"the calibration data spans {low:.4g} to {high:.4g}",
                fix="encode the input as spikes, or use a target with graded spikes (loihi2)",
            )
        signed = low < 0
        top = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
        largest = max(abs(low), abs(high)) or 1.0
        return Format(bits, signed, largest / top, overflow="saturate", rounding="nearest")

    def _value_of(self, node: Node) -> None:
        """Note what one unit of the node's output is worth in the float network, where that is known beforehand."""
        layer = node.layer
        if node.name == self.graph.input.name:
            self.worth[node.name] = self.formats[node.name].scale
        elif isinstance(layer, Neuron) and isinstance(layer.model, LIF) and not layer.model.integrates_only:
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

    def add_group(self, group: Group) -> None:
        """Quantize one population and its synapses."""
        model = group.population.layer.model  # type: ignore[attr-defined]
        if not isinstance(model, LIF):
            raise S2CError(f"a {model.kind} neuron has no integer form", where=group.population.where())
        problem = self._problem(group, model)
        hosted = [s for s in group.synapses if s.name in self.on_host]
        try:
            if hosted:
                if len(hosted) != len(group.synapses):
                    raise S2CError(
                        "a population is fed by the host and by the chip at once",
                        where=group.population.where(),
                        fix='use encoder="chip" (--encoder chip)',
                    )
                best = self._host_fed(group, problem)
            else:
                best = search(problem)
                for synapse in group.synapses:
                    self._add_synapse(synapse, best)
        except S2CError as error:
            if error.where:
                raise
            raise S2CError(error.what, where=group.population.where(), why=error.why, fix=error.fix) from None
        self._add_population(group, model, problem, best)

    def _problem(self, group: Group, model: LIF) -> Problem:
        name = group.population.name
        recorded = self.reference[name]
        bias: Array = np.zeros(())
        branches = []
        for synapse in group.synapses:
            layer = synapse.layer
            assert isinstance(layer, Linear | Conv)
            if layer.bias is not None:
                shape = (-1, *(1,) * layer.axes) if isinstance(layer, Conv) else (-1,)
                bias = bias + layer.bias.astype(np.float64).reshape(shape)
            edge = synapse.inputs[0]
            worth = self.worth[edge.source]
            scaled = dataclasses.replace(layer, weight=layer.weight.astype(np.float64) * worth, bias=None)
            inputs = None if edge.recurrent else self._integers(edge)
            branches.append(Branch(synapse.name, scaled, inputs, self.spans[edge.source]))
        target = recorded.v if model.integrates_only else recorded.spikes
        assert recorded.a is not None and target is not None
        spikes = target if model.integrates_only else (target != 0)
        sums = recorded.a.astype(np.float64) - bias
        return Problem(tuple(branches), model, bias, sums, spikes, self.target, self.bits, self.graph.time_steps)

    def _integers(self, edge: Edge) -> Array:
        """What an edge carries on the calibration data, [N, T, ...], as the integers of the Program."""
        node = self.graph[edge.source]
        worth = self.worth[edge.source]
        if node.name == self.graph.input.name:
            x = self.data if self.graph.coding == "steps" else self.data[:, None]
            form = self.formats[node.name]
            values = np.clip(np.rint(x / worth), *form.range)
        else:
            held = self.reference.recordings[node.name]
            found = held.spikes if isinstance(node.layer, Neuron) else held.out
            assert found is not None
            values = np.rint(found / worth)
        steps = self.graph.time_steps
        values = np.broadcast_to(values, (len(values), steps, *values.shape[2:]))
        if edge.delay:
            values = np.concatenate([np.zeros_like(values[:, : edge.delay]), values[:, : -edge.delay]], axis=1)
        return values.astype(np.int64)

    def _add_synapse(self, synapse: Node, best: Quantized) -> None:
        exponent = best.exponents[synapse.name]
        layer = dataclasses.replace(synapse.layer, weight=best.weights[synapse.name], bias=None)
        self.nodes[synapse.name] = dataclasses.replace(synapse, layer=layer)
        # The grid's widest mantissa is one bit wider than the number of weights it distinguishes: they are even.
        width = self.target.weights.bits + 1
        scale = best.unit / self.worth[synapse.inputs[0].source]
        self.formats[f"{synapse.name}.weight"] = Format(width, True, scale, exponent, overflow="error")

    def _host_fed(self, group: Group, problem: Problem) -> Quantized:
        """A population whose sums the host computes in wide integers and hands over once per sample."""
        if len(group.synapses) != 1:
            raise S2CError("a population is fed by several layers on the host", fix='use encoder="chip"')
        (synapse,), (branch,) = group.synapses, problem.branches
        limits, arithmetic = self.target.limits, self.target.arithmetic
        room = register_limits(arithmetic, arithmetic.current_bits)["u"] >> arithmetic.input_shift
        smallest = max(
            HEADROOM * (float(np.abs(problem.sums).max(initial=0.0)) or 1.0) / room,
            float(np.max(problem.model.v_threshold / problem.model.input_gain)) / limits.threshold_max
            if not problem.model.integrates_only
            else 0.0,
        )
        # Coarser units leave more room above what the data reached, up to where the worst case fits.
        made = [self._handed_over(branch, problem, snapped(smallest * 2.0**k, problem.model)) for k in range(12)]
        fitting = [(best, layer, shift) for best, layer, shift in made if best is not None]
        if not fitting:
            raise S2CError("the sums of the host do not fit the chip's registers at any scale")
        chosen = preferred([best for best, _, _ in fitting])
        layer, shift = next((layer, shift) for best, layer, shift in fitting if best is chosen)
        rescale = f"{synapse.name}.rescale"
        self.nodes[synapse.name] = dataclasses.replace(synapse, layer=layer, placement="host")
        self.nodes[rescale] = Node(rescale, Rescale(shift), (Edge(synapse.name),), synapse.source, "host")
        scale = chosen.unit / 2.0**shift / self.worth[synapse.inputs[0].source]
        self.formats[f"{synapse.name}.weight"] = Format(HOST_BITS, True, scale, overflow="error")
        bits = arithmetic.current_bits - arithmetic.input_shift
        self.formats[rescale] = Format(bits, True, chosen.unit, overflow="error", rounding="nearest")
        return chosen

    def _handed_over(
        self, branch: Branch, problem: Problem, unit: float
    ) -> tuple[Quantized | None, Linear | Conv, int]:
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
        return judged(problem, unit, problem.bias, ((low >> shift) - 1, (high >> shift) + 1), outside), layer, shift

    def _add_population(self, group: Group, model: LIF, problem: Problem, best: Quantized) -> None:
        node, arithmetic = group.population, self.target.arithmetic
        neuron = best.neuron
        if best.proved:
            neuron = strict_where_equal(neuron, arithmetic)
        if not self.target.limits.custom_neurons:
            neuron, used = on_fixed_core(neuron, node.where(), self.approximate, self.target.limits, arithmetic)
            self.notes += [f"{node.name}: {APPROXIMATIONS[name]} (--approximate {name})" for name in used]
        edges = tuple(
            Edge(f"{e.source}.rescale") if e.source in self.on_host else e for e in node.inputs
        )
        self.nodes[node.name] = dataclasses.replace(node, layer=Neuron(neuron), inputs=edges)
        fine = best.unit / (1 << arithmetic.input_shift)
        gain = float(np.mean(model.input_gain))
        self.formats[f"{node.name}.u"] = Format(
            arithmetic.current_bits, True, fine, overflow=arithmetic.current_overflow, rounding=arithmetic.decay_rounding
        )
        self.formats[f"{node.name}.v"] = Format(
            arithmetic.voltage_bits, True, gain * fine, overflow=arithmetic.voltage_overflow, rounding=arithmetic.decay_rounding
        )
        if model.integrates_only:
            self.worth[node.name] = gain * fine
        self.records.append(_record(node.name, group, model, problem, best, self.target))

    def program(self, passes: Iterable[Any]) -> Program:
        """The finished Program: what is left after the populations is the host's."""
        scale: float = 1.0
        for node in self.graph:
            if node.name in self.nodes:
                continue
            if node.layer.synaptic:
                self._add_head(node)
            elif isinstance(node.layer, Readout):
                worth = self._port_worth(node.inputs[0])
                scale = worth / self.graph.time_steps if node.layer.how == "mean" else worth
                how = "sum" if node.layer.how == "mean" else node.layer.how
                self.nodes[node.name] = dataclasses.replace(node, layer=Readout(how), placement="host")
            elif node.name == self.graph.output.name:
                if not isinstance(self.graph[node.inputs[0].source].layer, Readout):
                    scale = self._port_worth(node.inputs[0])
                self.nodes[node.name] = dataclasses.replace(node, placement="host")
            else:
                self.nodes[node.name] = node
        return Program(
            nodes=self.graph.with_nodes(self._in_graph_order()).nodes,
            time_steps=self.graph.time_steps,
            coding=self.graph.coding,
            target=self.target,
            formats=dict(sorted(self.formats.items())),
            output_scale=np.asarray(scale, dtype=np.float64),
            passes=tuple(passes),
            quantization=tuple(self.records),
            notes=tuple(self.notes),
            options={
                "weight_bits": self.bits,
                "encoder": self.encoder,
                "approximate": ",".join(sorted(self.approximate)),
                "calibration_samples": len(self.data),
            },
            origin=self.graph.origin,
        ).verify()

    def _in_graph_order(self) -> list[Node]:
        ordered = []
        for node in self.graph:
            ordered.append(self.nodes[node.name])
            if f"{node.name}.rescale" in self.nodes:
                ordered.append(self.nodes[f"{node.name}.rescale"])
        return ordered

    def _port_worth(self, edge: Edge) -> float:
        return self.worth[edge.source] if edge.port == "out" else self.formats[f"{edge.source}.{edge.port}"].scale

    def _add_head(self, node: Node) -> None:
        """A synaptic layer after the last population: the host multiplies, in its own width."""
        layer = node.layer
        assert isinstance(layer, Linear | Conv)
        worth = self._port_worth(node.inputs[0])
        top = (1 << (HOST_BITS - 1)) - 1
        largest = float(np.abs(layer.weight).max(initial=0.0)) or 1.0
        scale = largest / top
        weight = np.rint(layer.weight.astype(np.float64) / scale).astype(np.int64)
        bias = None if layer.bias is None else np.rint(layer.bias.astype(np.float64) / (scale * worth)).astype(np.int64)
        self.nodes[node.name] = dataclasses.replace(
            node, layer=dataclasses.replace(layer, weight=weight, bias=bias), placement="host"
        )
        self.formats[f"{node.name}.weight"] = Format(HOST_BITS, True, scale, overflow="error")
        self.worth[node.name] = scale * worth


def _record(
    name: str, group: Group, model: LIF, problem: Problem, best: Quantized, target: Target
) -> LayerQuantization:
    """What was rounded, for the report."""
    neuron = best.neuron
    threshold_error = 0.0
    if neuron.v_threshold is not None:
        real = model.v_threshold / (model.input_gain * best.unit)
        threshold_error = float(np.max(np.abs(neuron.v_threshold - real) / real))
    fine = best.unit / (1 << target.arithmetic.input_shift)
    held = neuron.bias_u if neuron.bias_u is not None else neuron.bias * 2.0**neuron.bias_exp
    wanted = problem.bias / fine
    reach = float(np.max(np.abs(wanted), initial=0.0))
    bias_error = float(np.max(np.abs(held - wanted))) / reach if reach and not best.corrected else 0.0
    one = 1 << target.arithmetic.decay_bits
    decay_error = float(np.max(np.abs(neuron.decay_v / one - (1 - model.decay_factor))))
    register = register_limits(target.arithmetic, target.limits.accumulator_bits)
    remarks = [] if best.proved else [_overflow_remark(best, register)]
    if best.corrected:
        remarks.append("the mean rounding error of each channel's sum is taken back through its bias")
    return LayerQuantization(
        name=name,
        scale=best.unit,
        synapses={s.name: _weight_errors(b, s.name, best) for s, b in zip(group.synapses, problem.branches, strict=True) if s.name in best.weights},
        threshold=None if neuron.v_threshold is None else int(np.max(neuron.v_threshold)),
        threshold_error=threshold_error,
        bias_error=bias_error,
        decay_error=decay_error,
        spikes_differing=best.differing,
        worst_case=dataclasses.asdict(best.worst),
        observed=dataclasses.asdict(best.observed),
        register=dict(register),
        proved=best.proved,
        remarks=tuple(remarks),
    )


def _overflow_remark(best: Quantized, register: Any) -> str:
    over = [
        f"{name} could reach {getattr(best.worst, name) / limit:.2f} times its register ({getattr(best.observed, name) / limit:.0%} on the calibration data)"
        for name, limit in register.items()
        if getattr(best.worst, name) > limit
    ]
    return "not proved against overflow: " + "; ".join(over)


def _weight_errors(branch: Branch, name: str, best: Quantized) -> dict[str, float]:
    """Signal-to-noise ratio of the weights in dB, and the share that was clipped."""
    real = branch.layer.weight
    error = real - best.weights[name] * best.unit
    power, noise = float((real**2).sum()), float((error**2).sum())
    clipped = np.abs(real) > np.abs(best.weights[name]).max(initial=0) * best.unit * (1 + 1e-6)
    return {
        "sqnr_db": 10 * float(np.log10(power / noise)) if power and noise else float("inf"),
        "clipped": float(np.mean(clipped & (np.abs(error) > best.unit))),
        "exponent": float(best.exponents[name]),
    }


def _check_options(target: Target, calibration: Any, bits: int, encoder: str, approximate: Collection[str]) -> None:
    if calibration is None:
        raise UsageError("quantization needs calibration data", fix="give calibration=x, samples as the network takes them")
    if not 2 <= bits <= target.weights.bits:
        raise UsageError(f"{bits}-bit weights", why=f"{target.title} holds 2 to {target.weights.bits} bits", fix="choose --weight-bits in that range")
    if encoder not in ("host", "chip"):
        raise UsageError(f"there is no encoder {encoder!r}", fix='use "host" or "chip"')
    if unknown := set(approximate) - set(APPROXIMATIONS):
        raise UsageError(f"nothing to approximate is called {', '.join(sorted(unknown))}", fix=f"choose from {', '.join(APPROXIMATIONS)}")
