"""The first look at a model: its neurons, its number of steps, and who runs the loop over them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.doubts import no_neuron
from snn2chip.frontend.torch.job import Job, Run
from snn2chip.frontend.torch.layout import Layout, ambiguous
from snn2chip.frontend.torch.plain import thresholds
from snn2chip.frontend.torch.running import RunError, as_it_is, recorded, step_by_step
from snn2chip.frontend.torch.state import preserved
from snn2chip.frontend.torch.survey import Survey, survey


@dataclass(frozen=True)
class Look:
    """What the first look showed.

    Args:
        run: how one batch is run.
        driven: the layout of the loop that ``run`` makes around a model of a single step; None where the model loops.
        steps: T.
    """

    survey: Survey
    run: Run
    driven: Layout | None
    steps: int


def look(job: Job) -> Look:
    """Run the model, and once more step by step if it turns out to compute a single one.

    Raises:
        S2CError: it does not run, shows no neuron, or its steps cannot be told or are not ``time_steps``.
    """
    run = as_it_is(job)
    frames = _frame_layouts(job, run) if job.run is None else []
    found = _surveyed_as_it_is(job, run, frames)
    if found is not None and (job.run is not None or job.time_steps == 1 or found.loops or found.steps != [1]):
        return Look(found, run, None, _steps(job, found))
    driven = _driven(job, [*([Layout(None, 0)] if found is not None else []), *frames])
    run = step_by_step(job, driven)
    found = _surveyed(job, run)
    return Look(found, run, driven, _steps(job, found))


def _frame_layouts(job: Job, run: Run) -> list[Layout]:
    """Layouts whose frames the model takes one by one."""
    found = []
    for axis in (0, 1):
        wanted = job.time_steps == job.x.shape[axis] and job.input_time_axis in (..., axis)
        if wanted and job.x.ndim > 2 and _runs(job, run, job.x.select(axis, 0)):
            found.append(Layout(axis, 1 - axis))
    return found


def _runs(job: Job, run: Run, x: Tensor) -> bool:
    try:
        with torch.no_grad(), preserved(job.model):
            run(job.model, x.clone())
    except RunError:
        return False
    return True


def _surveyed_as_it_is(job: Job, run: Run, frames: list[Layout]) -> Survey | None:
    """The survey of one call for all steps; None where the model takes frames only."""
    # A state that nothing resets would be there in the next run already, and hide what its neuron is.
    again = job.run is None and job.time_steps is not None
    try:
        with preserved(job.model) if again else nullcontext():
            return _surveyed(job, run)
    except RunError:
        if not frames:
            raise
        return None


def _surveyed(job: Job, run: Run) -> Survey:
    """The neuron modules; where there is none, the lines of plain code that compare like neurons."""
    found = survey(job.model, run, job.x.clone())
    if not found.cells:
        found.lines = thresholds(recorded(job.model, run, job.x, found.cells))
    return found


def _driven(job: Job, options: list[Layout]) -> Layout:
    """The layout of the loop to make around a model of a single step."""
    if job.time_steps is None:
        raise S2CError(
            "the number of time steps is not known",
            where=job.name,
            why="the model computes one step per call",
            fix="give time_steps=T (--time-steps T), or run=my_run that resets the model and loops over time",
        )
    if job.input_time_axis is not ...:
        options = [layout for layout in options if layout.time_axis == job.input_time_axis]
    if len(options) != 1:
        raise ambiguous(job.x, options)
    return options[0]


def _steps(job: Job, found: Survey) -> int:
    if not found.cells and not found.lines:
        raise no_neuron(job.model, found.doubts)
    steps = job.time_steps or found.steps[0]
    if steps not in found.steps:
        counts = {**found.calls, **found.loops, **found.lines}
        raise S2CError(
            f"time_steps is {steps}, but that is not what the model does",
            why=", ".join(f"{path} runs {n} steps" for path, n in list(counts.items())[:4]),
            fix="correct time_steps, or let run= loop over that many steps",
        )
    return steps
