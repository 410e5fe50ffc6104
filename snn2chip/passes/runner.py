"""The passes there are, the pipelines they make, and the run of one, each pass proved."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Graph
from snn2chip.ir.program import PassRecord
from snn2chip.passes.absorb import AbsorbAdd, AbsorbPad, AbsorbPart, AbsorbScale
from snn2chip.passes.base import Pass
from snn2chip.passes.commute_maxpool import CommuteMaxPool
from snn2chip.passes.distribute import Distribute
from snn2chip.passes.fold_batchnorm import FoldBatchNorm
from snn2chip.passes.fuse_linear import FuseLinear
from snn2chip.passes.lower_maxpool import LowerMaxPool
from snn2chip.passes.merge_pool import MergePool
from snn2chip.passes.move_views import MoveViews
from snn2chip.passes.proof import proved
from snn2chip.passes.prune import Prune
from snn2chip.passes.retime import Retime
from snn2chip.simulate import simulate

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
        usual = PASSES[name]()
        known = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
        shown = ", ".join(f"{key}={value}" for key, value in known.items()) or "none"
        unknown = [key for key in options if key not in known]
        if unknown:
            raise UsageError(f"the pass {name} has no option {', '.join(unknown)}", fix=f"its options: {shown}")
        try:
            given = {key: type(known[key])(value) for key, value in options.items()}
        except ValueError as error:
            raise UsageError(
                f"an option of the pass {name} is of the wrong kind", why=str(error), fix=f"its options: {shown}"
            ) from None
        passes.append(dataclasses.replace(usual, **given))
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
        record = proved(step, changed, graph, before, after)
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
