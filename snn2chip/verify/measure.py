"""The float network and its Program on the same data: rates, agreement, the first difference, and the culprit.

Everything is accumulated batch by batch, so that memory does not grow with the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Array, Neuron
from snn2chip.ir.program import Program
from snn2chip.passes import laid_out
from snn2chip.simulate import Counts, Result, simulate
from snn2chip.simulate.data import as_samples
from snn2chip.simulate.readout import predictions
from snn2chip.simulate.result import joined
from snn2chip.verify.compare import Divergence, Execution, compare, first_divergence
from snn2chip.verify.isolate import fires, part, tail

BATCH = 64
# Samples that are run once more per layer to find the culprit.
ISOLATED_SAMPLES = 512
MEMBRANE_BINS = 64


@dataclass
class LayerMeasure:
    """One population in both networks.

    Args:
        name, neurons, fires: the population.
        slots: spike slots compared: samples × time steps × neurons.
        equal: how many of them agree.
        spikes_float, spikes_fixed: spikes per time step, summed over samples, [T].
        signal, noise: sums of v² and of (v_float − v_fixed)² in the float network's unit.
        membrane: histogram of the fixed-point v after reset over its threshold, or None for an integrator.
        membrane_range: first and last edge of its bins, the outer of which hold everything beyond.
        own_slots, own_equal: as ``slots`` and ``equal``, with the float network's spikes as this layer's
            input; 0 where the layer cannot be cut out.
        prefix_right, prefix_same, prefix_samples: of samples run in fixed point up to this layer and in float after
            it: right answers, answers equal to the float network's, and how many there were.
    """

    name: str
    neurons: int
    fires: bool
    spikes_float: Array
    spikes_fixed: Array
    slots: int = 0
    equal: int = 0
    signal: float = 0.0
    noise: float = 0.0
    membrane: Array | None = None
    membrane_range: tuple[float, float] = (0.0, 1.0)
    own_slots: int = 0
    own_equal: int = 0
    prefix_right: int = 0
    prefix_same: int = 0
    prefix_samples: int = 0

    @property
    def sqnr(self) -> float | None:
        """Signal to quantization noise of the membrane in dB; None where either is zero."""
        return 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else None


@dataclass(frozen=True)
class SpikeDifference:
    """The first spike that differs: in the first sample with a difference the first step, in it the first layer.

    ``v_*`` are the membranes after the step, in units of their own thresholds.
    """

    layer: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    spike_float: bool
    spike_fixed: bool
    v_float: float
    v_fixed: float


@dataclass
class Measurement:
    """What :func:`measure` saw.

    Args:
        outputs_float, outputs_fixed: [N, ...], both in the units of the trained network.
        counts: operations of the Program, layer → [N, T].
        raster: population → spikes of the first sample in fixed point [T, neurons].
        saturated_inputs: input values that lay outside the input format.
    """

    samples: int
    steps: int
    layers: tuple[LayerMeasure, ...]
    first: SpikeDifference | None
    outputs_float: Array
    outputs_fixed: Array
    counts: dict[str, Counts]
    raster: dict[str, Array] = field(default_factory=dict)
    saturated_inputs: int = 0


def measure(
    graph: Graph, program: Program, x: Any, labels: Any = None, progress: Callable[[int], None] | None = None
) -> Measurement:
    """Run both networks on ``x`` and compare them layer by layer.

    Args:
        labels: [N] class indices, for the accuracy of the partly quantized networks.
        progress: called with the number of samples done.

    Raises:
        S2CError: the data does not fit the network.
    """
    samples = as_samples(graph, x)
    run = _Run(laid_out(graph, program.passes), program)
    for start in range(0, len(samples), BATCH):
        stop = min(start + BATCH, len(samples))
        run.add(samples[start:stop], None if labels is None else np.asarray(labels)[start:stop])
        if progress is not None:
            progress(stop)
    return run.result()


class _Run:
    """Sums over the batches seen so far."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph, self.program, self.seen = graph, program, 0
        shapes, there = program.shapes(), graph.shapes()
        names = [n.name for n in program.neurons if n.name in there and shapes[n.name] == there[n.name]]
        self.names = [name for name in names if isinstance(graph[name].layer, Neuron)]
        self.shapes = shapes
        self.layers: dict[str, LayerMeasure] = {}
        self.first: SpikeDifference | None = None
        self.parts: list[tuple[Result, Result]] = []
        self.raster: dict[str, Array] = {}
        between = {n.name for n in program.neurons} - set(self.names)
        self.own = {name: part(program, name, between) for name in self.names}
        self.tails = {name: tail(graph, name) for name in self.names if fires(graph[name])}

    def add(self, x: Array, labels: Array | None) -> None:
        real = simulate(self.graph, x, record=("spikes", "v"))
        fixed = simulate(self.program, x, record=("spikes", "v"))
        self._compare(real, fixed)
        isolated = min(len(x), ISOLATED_SAMPLES - self.seen)
        if isolated > 0:
            self._isolate(x[:isolated], None if labels is None else labels[:isolated], real, fixed)
        if not self.raster:
            self.raster = {n: _spikes(fixed, n)[0].reshape(len(_spikes(fixed, n)[0]), -1) for n in self.names}
        for result in (real, fixed):
            result.recordings.clear()
        self.parts.append((real, fixed))
        self.seen += len(x)

    def _compare(self, real: Result, fixed: Result) -> None:
        for name in self.names:
            a, b = _spikes(real, name), _spikes(fixed, name)
            layer = self.layers.setdefault(name, self._empty(name, a.shape[1]))
            form = self.program.formats.get(f"{name}.v")
            v_float, v_fixed = (_membrane(result, name) for result in (real, fixed))
            if form is not None:
                layer.signal += float(np.square(v_float, dtype=np.float64).sum())
                layer.noise += float(np.square(v_float - v_fixed * form.scale, dtype=np.float64).sum())
            if layer.fires:
                axes = (0, *range(2, a.ndim))
                layer.spikes_float += (a != 0).sum(axis=axes)
                layer.spikes_fixed += (b != 0).sum(axis=axes)
                relative = v_fixed / threshold(self.program, self.program[name])
                if layer.membrane is None:
                    layer.membrane, layer.membrane_range = np.zeros(MEMBRANE_BINS, np.int64), _range(relative[0])
                inside = np.clip(relative, *layer.membrane_range)
                layer.membrane += np.histogram(inside, MEMBRANE_BINS, layer.membrane_range)[0]
        firing = [name for name in self.names if self.layers[name].fires]
        if not firing:
            return
        compared = compare(
            Execution.of("float", real),
            Execution.of("fixed point", fixed),
            layers=firing,
            scales=dict.fromkeys(self.names, 1.0),
        )
        for row in compared:
            self.layers[row.name].slots += row.values["spikes"]
            self.layers[row.name].equal += row.values["spikes"] - row.differing["spikes"]
        first = first_divergence(compared)
        if self.first is None and first is not None:
            self.first = self._explained(first, real, fixed)

    def _empty(self, name: str, steps: int) -> LayerMeasure:
        none = np.zeros(steps, dtype=np.int64)
        return LayerMeasure(name, math.prod(self.shapes[name]), fires(self.program[name]), none, none.copy())

    def _explained(self, first: Divergence, real: Result, fixed: Result) -> SpikeDifference:
        at = (first.sample, first.step, *first.neuron)
        theta = self.graph[first.layer].layer.model.v_threshold  # type: ignore[attr-defined]
        chip = threshold(self.program, self.program[first.layer])
        shape = self.shapes[first.layer]
        return SpikeDifference(
            layer=first.layer,
            sample=self.seen + first.sample,
            step=int(first.step or 0),
            neuron=first.neuron,
            spike_float=bool(first.expected),
            spike_fixed=bool(first.found),
            v_float=float(_membrane(real, first.layer)[at] / np.broadcast_to(theta, shape)[first.neuron]),
            v_fixed=float(_membrane(fixed, first.layer)[at] / np.broadcast_to(chip, shape)[first.neuron]),
        )

    def _isolate(self, x: Array, labels: Array | None, real: Result, fixed: Result) -> None:
        n = len(x)
        best = predictions(real.outputs[:n])
        for name in self.names:
            layer, own = self.layers[name], self.own[name]
            if own is not None and layer.fires:
                cut, source = own
                data = x if source == self.program.input.name else np.sign(_spikes(real, source)[:n]).astype(np.int64)
                alone = np.sign(_spikes(simulate(cut, data, record="spikes"), name))
                layer.own_slots += alone.size
                layer.own_equal += int((alone == np.sign(_spikes(real, name)[:n])).sum())
            rest = self.tails.get(name)
            if rest is not None and best is not None:
                worth = self.graph[name].layer.model.spike_value  # type: ignore[attr-defined]
                mixed = predictions(simulate(rest, np.sign(_spikes(fixed, name)[:n]) * worth).outputs)
                assert mixed is not None
                layer.prefix_samples += n
                layer.prefix_same += int((mixed == best).sum())
                layer.prefix_right += 0 if labels is None else int((mixed == labels).sum())

    def result(self) -> Measurement:
        real, fixed = (joined(list(runs)) for runs in zip(*self.parts, strict=True))
        return Measurement(
            samples=self.seen,
            steps=next(iter(fixed.counts.values())).spikes.shape[1],
            layers=tuple(self.layers[name] for name in self.names),
            first=self.first,
            outputs_float=real.outputs,
            outputs_fixed=fixed.outputs,
            counts=fixed.counts,
            raster=self.raster,
            saturated_inputs=fixed.saturated_inputs,
        )


def threshold(program: Program, node: Node) -> Array:
    """The threshold of a population of a Program in the unit of its membrane."""
    mantissa = node.layer.model.v_threshold  # type: ignore[attr-defined]
    shifted: Array = mantissa << program.target.arithmetic.threshold_shift
    return shifted


def _range(relative: Array) -> tuple[float, float]:
    """Edges in half thresholds around zero, the threshold, and all but the outermost 2 % of the first sample."""
    low, high = np.percentile(relative, (1, 99))
    return min(0.0, math.floor(2 * low) / 2), max(1.5, math.ceil(2 * high) / 2)


def _spikes(result: Result, name: str) -> Array:
    spikes = result[name].spikes
    assert spikes is not None
    return spikes


def _membrane(result: Result, name: str) -> Array:
    v = result[name].v
    assert v is not None
    return v
