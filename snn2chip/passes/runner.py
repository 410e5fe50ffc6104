"""Runs a pipeline of passes and proves each: the graph before and after is run on the same data and compared."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Array, Layer, Neuron
from snn2chip.ir.program import PassRecord
from snn2chip.passes.absorb import AbsorbAdd, AbsorbPad, AbsorbPart, AbsorbScale
from snn2chip.passes.base import VIEWS, Pass
from snn2chip.passes.commute_maxpool import CommuteMaxPool
from snn2chip.passes.distribute import Distribute
from snn2chip.passes.fold_batchnorm import FoldBatchNorm
from snn2chip.passes.fuse_linear import FuseLinear
from snn2chip.passes.lower_maxpool import LowerMaxPool
from snn2chip.passes.merge_pool import MergePool
from snn2chip.passes.move_views import MoveViews
from snn2chip.passes.prune import Prune
from snn2chip.passes.retime import Retime
from snn2chip.simulate import Result, simulate
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.result import Recording

_IN_ORDER: tuple[type[Pass], ...] = (
    Prune,
    Retime,
    AbsorbPart,
    CommuteMaxPool,
    Distribute,
    FoldBatchNorm,
    MoveViews,
    AbsorbAdd,
    AbsorbScale,
    AbsorbPad,
    MergePool,
    FuseLinear,
    LowerMaxPool,
)
PASSES = {cls.name: cls for cls in _IN_ORDER}
DEFAULT_PIPELINE = ",".join(PASSES)

# Relative distance of a membrane from its threshold that float32 rounding of a rewritten sum can account for.
ROUNDING = 2e-5
# More samples than this prove nothing more about a rewrite.
PROOF_SAMPLES = 32


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """``"prune,fold_batchnorm"`` as passes; options go in braces: ``name{option=value}``.

    Raises:
        UsageError: no pass of that name, or an option it does not have.
    """
    passes: list[Pass] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})?", item)
        name = match.group(1) if match else item
        if match is None or name not in PASSES:
            near = difflib.get_close_matches(name, PASSES, 1)
            raise UsageError(
                f"there is no pass {item!r}",
                fix=f"did you mean {near[0]}?" if near else f"passes: {', '.join(PASSES)}",
            )
        options = dict(pair.split("=", 1) for pair in (match.group(2) or "").split(";") if "=" in pair)
        try:
            usual = PASSES[name]()
            given = {key: type(getattr(usual, key))(value) for key, value in options.items()}
            passes.append(dataclasses.replace(usual, **given))
        except AttributeError:
            raise UsageError(f"the pass {name} has no option {', '.join(options)}") from None
        except ValueError as error:
            raise UsageError(f"an option of the pass {name} is of the wrong kind", why=str(error)) from None
    return tuple(passes)


def run_passes(
    graph: Graph, calibration: Any, pipeline: str | Iterable[Pass] = DEFAULT_PIPELINE
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """Apply the passes in order, each proved on up to 32 samples of ``calibration``.

    Raises:
        S2CError: a pass that promises the same function changed it by more than float rounding.
    """
    data = calibration[:PROOF_SAMPLES]
    before = simulate(graph, data, record=("spikes", "h"))
    records: list[PassRecord] = []
    for step in parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline:
        rewritten, changed = step.apply(graph)
        rewritten.verify()
        after = simulate(rewritten, data, record=("spikes", "h")) if changed else before
        record = _compare(step, changed, graph, before, after)
        records.append(record)
        if step.exact and record.differing > record.explained:
            raise S2CError(
                f"the pass {step} changed {record.differing - record.explained} spikes that rounding does not explain",
                where=", ".join(changed[:4]),
                why=f"{record.differing} of {record.spikes} differ on the calibration data",
                fix="leave the pass out with --passes, and report the network: an exact pass must not do this",
            )
        graph, before = rewritten, after
    return graph, tuple(records)


def laid_out(graph: Graph, passes: Sequence[PassRecord]) -> Graph:
    """The graph with its populations named and laid out as after these passes, to be compared with what came of it.

    It is rewritten up to the last pass that moved a view, and the graph itself where none did.
    """
    moved = [i for i, record in enumerate(passes) if record.name == MoveViews.name and record.changed]
    for record in passes[: moved[-1] + 1 if moved else 0]:
        (step,) = parse_pipeline(record.name)
        graph, _ = step.apply(graph)
    return graph


def _compare(step: Pass, changed: tuple[str, ...], graph: Graph, before: Result, after: Result) -> PassRecord:
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
    """The recordings as they were before: zeros first of populations that work earlier now, and where a view has the
    name of a population, what it shows of the neurons.
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
