"""How one batch of a model is run, from a reset to the deployed output, and recorded."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.deployed import state_to_hand_back
from snn2chip.frontend.torch.forwarding import forwarded
from snn2chip.frontend.torch.job import Job, Run
from snn2chip.frontend.torch.layout import Layout
from snn2chip.frontend.torch.recorder import record
from snn2chip.frontend.torch.recording import Recording
from snn2chip.frontend.torch.sites import told_apart
from snn2chip.frontend.torch.state import reset

_NOT_USER = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class RunError(S2CError):
    """The user's own code failed."""


def as_it_is(job: Job) -> Run:
    """One call for a whole sample: the user's ``run``, or the model's own after a reset."""
    return _reporting(lambda model, x: job.deployed.output(job.run or _called, model, x))


def _called(model: nn.Module, x: Any) -> Any:
    reset(model)
    return model(x)


def step_by_step(job: Job, layout: Layout) -> Run:
    """One call per step of a model that computes a single one, read out over time."""
    steps, how = job.time_steps or 1, job.readout or "mean"

    def run(model: nn.Module, x: Tensor) -> Tensor:
        reset(model)
        frames = [x] * steps if layout.time_axis is None else x.unbind(layout.time_axis)
        state: tuple[Any, ...] = ()
        found = []
        for frame in frames:
            with job.deployed.watched() as given:
                returned = model(frame, *state)
            state = state_to_hand_back(model, returned)
            found.append(job.deployed.of(returned, given))
        outputs = torch.stack(found)
        if how == "last":
            return outputs[-1]
        combined: Tensor = outputs.amax(0) if how == "max" else getattr(outputs, how)(0)
        return combined

    return _reporting(run)


def _reporting(run: Run) -> Run:
    """``run``, its failures reported with the line of the user's code."""

    def reporting(model: nn.Module, x: Any) -> Any:
        try:
            return run(model, x)
        except S2CError:
            raise
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_USER)]
            other = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
            raise RunError(
                f"{type(model).__name__} does not run on an example of shape {tuple(x.shape)}",
                where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
                why=f"{type(error).__name__}: {error}",
                fix=f"its weights are {other.pop()}; a graph computes in float32: trace model.float()"
                if other
                else "give one batch as the model takes it, time_steps=T if it computes a single step, "
                "or run=my_run with my_run(model, x) -> output",
            ) from error

    return reporting


def recorded(model: nn.Module, run: Run, x: Tensor, cells: Mapping[str, Cell]) -> Recording:
    """One run written down: neurons kept whole, lines that serve several layers told apart, values followed through
    the larger tensors that they are put into and taken out of.

    Raises:
        S2CError: the model reads traced data into Python, or does not run.
    """
    return forwarded(told_apart(record(model, run, x, cells)))
