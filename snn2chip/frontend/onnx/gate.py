"""The equality gate: the model, run step by step by ONNX's reference evaluator, and the graph must do the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.populations import ROUNDING, Population
from snn2chip.frontend.onnx.step import Step
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Array
from snn2chip.simulate import simulate

# Of a sample while comparing: ONNX's evaluator is slow, and all that a step does shows in a few.
_STEPS = 8
_SAMPLES = 2
# Sums in another order differ by this share of the largest value.
_TOLERANCE = 1e-4
# Input is made stronger until every population has fired, up to this.
_STRENGTHS = (1.0, 4.0, 16.0)


def check_equal(graph: Graph, step: Step, found: Sequence[Population], name: str) -> None:
    """Compare membranes and spikes of every population on random input, spikes and numbers, sample by sample.

    Raises:
        S2CError: they differ by more than rounding; the message names the first layer, step and neuron.
    """
    present = [p for p in found if p.name in graph.nodes]
    silent = {p.name for p in present if p.group.recurrence.threshold is not None}
    rng = np.random.default_rng(0)
    samples = max(_SAMPLES, step.batch)
    steps = min(graph.time_steps or _STEPS, _STEPS)
    graph = replace(graph, time_steps=steps)
    for strength in _STRENGTHS:
        for binary in (False, True):
            drawn = rng.normal(size=(samples, steps, *step.shape(step.data)))
            x = (strength * (drawn > 0.25 if binary else drawn)).astype(np.float32)
            if graph.coding == "direct":
                x = np.repeat(x[:, :1], steps, axis=1)
            silent &= _compare(graph, step, present, x, name)
        if not silent:
            return
    warnings.warn(f"{', '.join(sorted(silent))} never fired while the graph was compared with {name}", stacklevel=4)


def _compare(graph: Graph, step: Step, present: Sequence[Population], x: Array, name: str) -> set[str]:
    """Names of the populations that did not fire."""
    expected = [_run(step, present, x[i : i + step.batch]) for i in range(0, len(x) - step.batch + 1, step.batch)]
    used = len(expected) * step.batch
    result = simulate(graph, x[:used, 0] if graph.coding == "direct" else x[:used], record=("v", "h", "spikes"))
    excused = np.zeros(used, dtype=bool)
    silent = set()
    for position, population in enumerate(present):
        membranes, spikes = (np.concatenate([run[position][i] for run in expected]) for i in (0, 1))
        found = result[population.name]
        assert found.v is not None
        assert found.h is not None
        assert found.spikes is not None
        reach = max(float(np.abs(membranes).max()), float(np.abs(found.h).max()), 1e-6)
        model = population.model
        wrong = np.abs(found.v - membranes) > _TOLERANCE * reach
        if population.group.recurrence.fires is not None:
            wrong |= (found.spikes != 0) != spikes
        if not model.integrates_only and not found.spikes.any():
            silent.add(population.name)
        for sample in map(int, np.flatnonzero(wrong.reshape(used, -1).any(1) & ~excused)):
            t = int(np.flatnonzero(wrong[sample].reshape(wrong.shape[1], -1).any(1))[0])
            theta = np.zeros(()) if model.integrates_only else model.v_threshold
            near = np.abs(found.h[sample, t] - theta) <= ROUNDING * reach
            unexplained = wrong[sample, t] & ~(near & (not model.integrates_only))
            if unexplained.any():
                at = tuple(int(i) for i in np.argwhere(unexplained)[0])
                here = (sample, t, *at)
                raise S2CError(
                    f"the graph does not do what {name} does",
                    where=f"layer {population.name}, sample {sample}, step {t}, index {at}",
                    why=f"the file has the membrane at {membranes[here]:.6g}, the graph at {found.v[here]:.6g}",
                    fix="please report the model: this is a fault of snn2chip",
                )
            excused[sample] = True
    return silent


def _run(step: Step, present: Sequence[Population], x: Array) -> list[tuple[Array, Array]]:
    """Membranes and spikes [N, T, ...] of every population, from the file itself."""
    fires = [p.group.recurrence.fires or step.states[p.group.state].out for p in present]
    outs = [state.out for state in step.states.values()]
    run = step.evaluator([*outs, *fires], [step.data, *step.states])
    values = {
        name: np.broadcast_to(s.start, (len(x), *s.start.shape)).astype(np.float32) for name, s in step.states.items()
    }
    membranes: list[list[Array]] = [[] for _ in present]
    spikes: list[list[Array]] = [[] for _ in present]
    for t in range(x.shape[1]):
        got = run({**values, step.data: x[:, t]})
        values = dict(zip(step.states, got, strict=False))
        for i, population in enumerate(present):
            membranes[i].append(values[population.group.state])
            spikes[i].append(np.asarray(got[len(outs) + i]) != 0)
    return [(np.stack(v, 1), np.stack(s, 1)) for v, s in zip(membranes, spikes, strict=True)]
