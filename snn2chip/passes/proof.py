"""The proof of a pass: the graph before and after it, run on the same data, compared spike by spike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Array, Layer, Neuron
from snn2chip.ir.program import PassRecord
from snn2chip.passes.base import VIEWS, Pass
from snn2chip.simulate import Result
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.result import Recording

# Relative distance of a membrane from its threshold that float32 rounding of a rewritten sum can account for.
ROUNDING = 2e-5


def proved(step: Pass, changed: tuple[str, ...], graph: Graph, before: Result, after: Result) -> PassRecord:
    """What a pass did to the outputs and spikes.

    A spike that differs is explained where a membrane stood within float rounding of its threshold, in either run, or
    where it follows in the same sample from one that is.

    Args:
        changed: the nodes it touched.
        graph: the graph before it.
        before, after: runs of both graphs on the same samples that recorded "spikes" and "h".
    """
    after = _aligned(after, step.earlier(graph) if changed else {})
    populations = [n.name for n in graph.neurons if n.name in after.recordings]
    slots = differing = explained = 0
    samples = len(before.outputs)
    # Per sample, the time step from which on a difference may be the consequence of an earlier one.
    excused = np.full(samples, np.iinfo(np.int64).max)
    for name in populations:
        a, b = before[name].spikes, after[name].spikes
        assert a is not None
        assert b is not None
        differ = a != b
        slots += a.size
        if not differ.any():
            continue
        differing += int(differ.sum())
        near = _near_threshold(graph, name, before, after)
        for sample in np.flatnonzero(differ.reshape(samples, -1).any(axis=1)):
            steps = differ[sample].reshape(differ.shape[1], -1)
            first = int(np.flatnonzero(steps.any(axis=1))[0])
            if first < excused[sample] and near[sample, first][differ[sample, first]].all():
                excused[sample] = first
            explained += int(steps[int(min(excused[sample], len(steps))) :].sum())
    deviation = float(np.max(np.abs(before.outputs - after.outputs), initial=0.0))
    return PassRecord(str(step), changed, step.exact, deviation, slots, differing, explained)


def _aligned(after: Result, earlier: Mapping[str, int]) -> Result:
    """The recordings as they were before.

    Zeros first of populations that work earlier now; where a view has the name of a population, what it shows of the
    neurons.
    """

    def later(x: Array | None, steps: int) -> Array | None:
        return None if x is None else np.concatenate([np.zeros_like(x[:, :steps]), x[:, :-steps]], axis=1)

    moved = {
        name: dataclasses.replace(r, spikes=later(r.spikes, earlier[name]), h=later(r.h, earlier[name]))
        for name, r in after.recordings.items()
        if name in earlier
    }
    views = [n for n in after.network if isinstance(n.layer, VIEWS) and n.inputs[0].source in after.recordings]
    seen = {
        view.name: Recording(spikes=_viewed(view.layer, r.spikes), h=_viewed(view.layer, r.h))
        for view in views
        for r in [after.recordings[view.inputs[0].source]]
    }
    return dataclasses.replace(after, recordings={**after.recordings, **moved, **seen})


def _viewed(view: Layer, x: Array | None) -> Array | None:
    """What a view shows of a recording [N, T, ...]."""
    if x is None:
        return None
    shown = apply(view, [x.reshape(-1, *x.shape[2:])], NumpyOps())
    return np.asarray(shown).reshape(*x.shape[:2], *shown.shape[1:])


def _near_threshold(graph: Graph, name: str, before: Result, after: Result) -> Array:
    """Where either run's membrane stood within rounding of the threshold; [N, T, ...] bool."""
    layer = graph[name].layer
    assert isinstance(layer, Neuron)
    theta = layer.model.v_threshold
    near = np.zeros((), dtype=bool)
    for result in (before, after):
        h = result[name].h
        assert h is not None
        near = near | (np.abs(h - theta) <= ROUNDING * np.maximum(np.abs(theta), np.abs(h).max(initial=1.0)))
    return near
