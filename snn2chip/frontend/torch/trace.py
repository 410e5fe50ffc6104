"""``trace``: a trained torch model, as it is, becomes a float Graph that is proved to be the same network."""

from __future__ import annotations

import traceback
import types
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.convert import ConversionError, Traced, convert
from snn2chip.frontend.torch.deployed import Deployed, Select, state_to_hand_back
from snn2chip.frontend.torch.feedback import with_late_inputs
from snn2chip.frontend.torch.forwarding import forwarded
from snn2chip.frontend.torch.gate import check_equal
from snn2chip.frontend.torch.layout import Layout
from snn2chip.frontend.torch.per_step import NormsDifferError
from snn2chip.frontend.torch.readout import How
from snn2chip.frontend.torch.recorder import Recording, Ref, record
from snn2chip.frontend.torch.regions import extract, thresholds
from snn2chip.frontend.torch.sites import told_apart
from snn2chip.frontend.torch.state import preserved, reset
from snn2chip.frontend.torch.survey import Survey, survey
from snn2chip.ir.graph import Graph

Run = Callable[[nn.Module, Any], Any]
TimeAxis = int | None | types.EllipsisType
_READOUTS = ("mean", "sum", "last", "max")
_LARGEST_BATCH = 4
_REGISTER = (
    "is one of snn2chip.neurons after all, one line above the class says so: "
    "@register_neuron(lambda m: LIF(m.threshold, m.decay)); see docs/identify-neurons.md"
)
_NOT_USER = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def trace(
    model: nn.Module,
    example: Any,
    *,
    time_steps: int | None = None,
    run: Run | None = None,
    output: Select = None,
    readout: Literal["mean", "sum", "last", "max"] | None = None,
    input_time_axis: TimeAxis = ...,
    dt: float | None = None,
    per_step: bool = False,
) -> Graph:
    """Turn a trained model into a Graph, without editing it, and prove that the two are the same network.

    The model is run in eval mode; its states and training flags are put back afterwards.

    Args:
        model: SpikingJelly, snnTorch, Norse, Sinabs or hand-written.
        example: one batch as the model takes it, torch or numpy; some samples of real data are best.
        time_steps: T. Needed where the model computes a single step: the tracer then resets it and calls it T times,
            with the same example (direct coding) or with its frames, and reads out the mean. Elsewhere it is found,
            and checked.
        run: ``run(model, x) -> output`` where a sample is not one ``model(x)``: it resets the model and loops over
            time. Without it every state is reset before each call, as the model's library does it.
        output: which output is deployed: index, key or attribute of what the model returns, or a function of it; or the
            path of a module, whose output is then deployed in place of the model's (``"fc2"``: what comes before a
            softmax), at every step if the model calls it at every step. Left out, the first tensor is taken and a
            warning says so.
        readout: "mean", "sum", "last" or "max" over time, where the model returns one output per step; "mean" if the
            tracer drives the loop. Left out for a model that itself returns every step, the Graph does so too.
        input_time_axis: axis of the example that is time, None if the data is the same at every step. Found if left
            out.
        dt: seconds per step, kept in the Graph.
        per_step: let norms in front of LIF neurons differ from step to step (TEBN, BNTT): each such neuron then has a
            factor and an offset for every step, which only a chip with programmable neurons can run.

    Returns:
        The Graph: layers named by the user's module paths, shapes without batch and time.

    Raises:
        S2CError: a construct no graph can hold exactly, with the source line, what was found and what to do; or a
            traced graph that does not do what the model does, with the first layer that differs.
    """
    work = job(
        model,
        example,
        time_steps=time_steps,
        run=run,
        output=output,
        readout=readout,
        input_time_axis=input_time_axis,
        dt=dt,
        per_step=per_step,
    )
    with preserved(work.model):
        traced, layout = work.trace()
        check_equal(type(work.model).__name__, traced, lambda x: work.once(x, layout), layout, work.batch(layout))
    if work.deployed.chosen:
        warnings.warn(work.deployed.chosen, stacklevel=3)
    return traced.graph


def job(
    model: nn.Module,
    example: Any,
    *,
    time_steps: int | None = None,
    run: Run | None = None,
    output: Select = None,
    readout: How | None = None,
    input_time_axis: TimeAxis = ...,
    dt: float | None = None,
    per_step: bool = False,
) -> Job:
    """The arguments of :func:`trace`, checked.

    Raises:
        S2CError: an argument that makes no sense, or weights that are not finite.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"{type(model).__name__} is no torch model", fix="give an nn.Module")
    if time_steps is not None and (not isinstance(time_steps, int) or isinstance(time_steps, bool) or time_steps < 1):
        raise UsageError(f"time_steps is {time_steps!r}", fix="give the number of time steps of one sample, T >= 1")
    if readout is not None and readout not in _READOUTS:
        raise UsageError(f"there is no read-out {readout!r}", fix=f"choose from {', '.join(_READOUTS)}")
    if dt is not None and not dt > 0:
        raise UsageError(f"dt is {dt!r}", fix="give seconds per step")
    # What torch.compile wraps: the same network, under the user's own names.
    model = getattr(model, "_orig_mod", model)
    _check_weights(model)
    return Job(model, _as_tensor(example), time_steps, run, output, readout, input_time_axis, dt, per_step)


def _as_tensor(example: Any) -> Tensor:
    if isinstance(example, (tuple, list, Mapping)):
        raise UsageError(
            f"the example is a {type(example).__name__}",
            why="a graph has one input",
            fix="give one batch as a tensor or array",
        )
    x = example.detach().cpu() if isinstance(example, Tensor) else torch.from_numpy(np.array(example))
    if x.ndim < 2 or x.dtype.is_complex or not x.numel():
        raise UsageError(
            f"the example has shape {tuple(x.shape)}", fix="give one batch of samples, [N, ...] or [T, N, ...]"
        )
    x = x.to(torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise S2CError("the example holds NaN or infinite values", fix="give samples as the model sees them in use")
    return x


def _check_weights(model: nn.Module) -> None:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise S2CError(
                "the model has weights without a shape yet",
                where=name,
                why="lazy layers make them at the first batch, so that nothing was trained",
                fix="run the model once, then load its weights: model(x); model.load_state_dict(...)",
            )
        if value.device.type != "cpu":
            raise UsageError(f"the model is on {value.device}", where=name, fix="trace it on the CPU: model.cpu()")
        if value.is_floating_point() and bool(torch.isnan(value).any()):
            raise S2CError(
                "the model holds NaN weights",
                where=name,
                why=f"{int(torch.isnan(value).sum())} of {value.numel()} values",
                fix="the training diverged, or the checkpoint is damaged: load weights that are finite",
            )


@dataclass
class Job:
    """One model to trace, and how to run it."""

    model: nn.Module
    x: Tensor
    time_steps: int | None
    run: Run | None
    output: Select
    readout: How | None
    input_time_axis: TimeAxis
    dt: float | None
    per_step: bool = False
    survey: Survey = field(default_factory=Survey)
    driven: Layout | None = None
    plain: dict[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deployed = Deployed(self.model, self.output)

    def trace(self) -> tuple[Traced, Layout]:
        """The graph, and the layout of the example it holds for."""
        self.survey = self._surveyed()
        steps = self._steps()
        tried: list[tuple[Layout, Traced]] = []
        failures: list[tuple[int, bool, ConversionError]] = []
        for layout in self._layouts(steps):
            try:
                tried.append((layout, self.converted(self.batch(layout), layout)))
            except ConversionError as failure:
                failures.append((failure.reached, layout.time_axis is not None, failure))
        if not tried:
            # The layout that explains most of the model is the likeliest; of two, the one that finds time in the data.
            raise self._with_doubts(max(failures, key=lambda f: (f[2].time_fits, *f[:2]))[2].error)
        # The one step of a sample is the same whether its axis is called time or not: the first layout has none.
        if len(tried) > 1 and steps > 1 and any(t.graph != tried[0][1].graph for _, t in tried):
            raise _ambiguous(self.x, [layout.time_axis for layout, _ in tried])
        layout, traced = tried[0]
        return traced, layout

    def once(self, x: Tensor, layout: Layout) -> Traced:
        """Record one run on ``x`` and convert it.

        Raises:
            S2CError: as :func:`trace`.
        """
        try:
            return self.converted(x, layout)
        except ConversionError as stopped:
            raise self._with_doubts(stopped.error) from None

    def converted(self, x: Tensor, layout: Layout) -> Traced:
        """The same, for a layout that may be the wrong one.

        Raises:
            ConversionError: the recording makes no graph.
        """
        steps = self._steps()
        recording = self._recorded(layout, x, self.survey.cells)
        try:
            recording, self.plain = extract(recording, steps, self.plain)
        except S2CError as error:
            raise ConversionError(error, 0) from None
        cells = {**self.survey.cells, **self.plain}
        readout = None if self.driven else self.readout

        def made(recording: Recording) -> Traced:
            return convert(
                self.model, recording, cells, layout, steps, self._deployed(recording), readout, self.dt, self.per_step
            )

        try:
            return made(recording)
        except ConversionError as failure:
            try:
                recurrent = with_late_inputs(recording, steps, cells)
            except S2CError as error:
                raise ConversionError(error, failure.reached) from None
            if recurrent is None:
                raise
            try:
                return made(recurrent)
            except ConversionError:
                # Norms that take turns look like values handed on from step to step, and are none.
                if isinstance(failure.error, NormsDifferError):
                    raise failure from None
                raise

    def _recorded(self, layout: Layout | None, x: Tensor, cells: Mapping[str, Cell]) -> Recording:
        return forwarded(told_apart(record(self.model, self._call(layout), x, cells)))

    def _with_doubts(self, error: S2CError) -> S2CError:
        """The error; or, where it is about the code of a module that fires, why that is no neuron that is known."""
        places = [f"{word}." for word in error.where.split()]
        for path, doubt in self.survey.doubts.items():
            if not any(place.startswith(f"{path}.") for place in places):
                continue
            if doubt.spiking:
                name = type(self.model.get_submodule(path)).__name__
                return S2CError(
                    f"{name} is no neuron that is known",
                    where=path,
                    why=doubt.reason,
                    fix=f"if it {_REGISTER}",
                )
            error.why = "; ".join(filter(None, [error.why, f"of {path} was found: {doubt.reason}"]))
            error.fix = "; ".join(filter(None, [error.fix, f"if {path} {_REGISTER}"]))
        return error

    def _call(self, layout: Layout | None) -> Run:
        """How one batch is run, up to the deployed output."""
        deployed = self.deployed
        if self.run is not None or self.driven is None or layout is None:
            once = self.run or _call_once
            return _reporting(lambda model, x: deployed.output(once, model, x))
        steps, how = self.time_steps or 1, self.readout or "mean"

        def loop(model: nn.Module, x: Tensor) -> Tensor:
            reset(model)
            frames = [x] * steps if layout.time_axis is None else x.unbind(layout.time_axis)
            state: tuple[Any, ...] = ()
            found = []
            for frame in frames:
                with deployed.watched() as given:
                    returned = model(frame, *state)
                state = state_to_hand_back(model, returned)
                found.append(deployed.of(returned, given))
            outputs = torch.stack(found)
            if how == "last":
                return outputs[-1]
            combined: Tensor = outputs.amax(0) if how == "max" else getattr(outputs, how)(0)
            return combined

        return _reporting(loop)

    # ------------------------------------------------------------------ first look

    def _surveyed(self) -> Survey:
        """Run once; a model that computes a single step is driven by the tracer."""
        if self.run is not None:
            return self._looked(None)
        layouts = self._single_step_layouts()
        found: Survey | None = None
        failure: RunError | None = None
        # A state that nothing resets would be there in the next run already, and hide what its neuron is.
        trial = nullcontext() if self.time_steps is None else preserved(self.model)
        try:
            with trial:
                found = self._looked(None)
        except RunError as error:
            failure = error
        single = found is not None and not found.loops and found.steps == [1]
        if found is not None and not (single and self.time_steps != 1):
            return found
        if failure is not None and not layouts:
            raise failure
        if self.time_steps is None:
            raise S2CError(
                "the number of time steps is not known",
                where=type(self.model).__name__,
                why="the model computes one step per call",
                fix="give time_steps=T (--time-steps T), or run=my_run that resets the model and loops over time",
            )
        options = [Layout(None, 0)] if found is not None else []
        options += layouts
        if self.input_time_axis is not ...:
            options = [o for o in options if o.time_axis == self.input_time_axis]
        if len(options) != 1:
            raise _ambiguous(self.x, [o.time_axis for o in options])
        self.driven = options[0]
        return self._looked(self.driven)

    def _looked(self, layout: Layout | None) -> Survey:
        """The neuron modules; where there is none, the lines of plain code that compare like neurons."""
        found = survey(self.model, self._call(layout), self.x.clone())
        if not found.cells:
            found.lines = thresholds(self._recorded(layout, self.x, found.cells))
        return found

    def _single_step_layouts(self) -> list[Layout]:
        """Time axes along which the model takes frames of the example."""
        found = []
        for axis in (0, 1):
            wanted = self.time_steps == self.x.shape[axis] and self.input_time_axis in (..., axis)
            if wanted and self.x.ndim > 2 and self._runs(self.x.select(axis, 0)):
                found.append(Layout(axis, 1 - axis))
        return found

    def _runs(self, x: Tensor) -> bool:
        try:
            with torch.no_grad(), preserved(self.model):
                self._call(None)(self.model, x.clone())
        except RunError:
            return False
        return True

    def _steps(self) -> int:
        if not self.survey.cells and not self.survey.lines:
            detail = "; ".join(f"{path}: {doubt.reason}" for path, doubt in self.survey.doubts.items())
            scripted = next((m for m in self.model.modules() if isinstance(m, torch.jit.ScriptModule)), None)
            if scripted is not None:
                raise S2CError(
                    "no spiking neuron was found",
                    where=type(self.model).__name__,
                    why="the model is TorchScript, which does not show what it computes",
                    fix="give the Python model it was made of: model.load_state_dict(scripted.state_dict())",
                )
            raise S2CError(
                "no spiking neuron was found",
                where=type(self.model).__name__,
                why=detail or "no module is a known neuron, or behaves like one",
                fix="put the neuron's update into a module of its own (state in self.v, or passed in and out), "
                "or snn2chip.frontend.torch.register_neuron(YourNeuron, to_lif)",
            )
        seen = self.survey.steps
        steps = self.time_steps or seen[0]
        if steps not in seen:
            counts = {**self.survey.calls, **self.survey.loops, **self.survey.lines}
            raise S2CError(
                f"time_steps is {steps}, but that is not what the model does",
                why=", ".join(f"{path} runs {n} steps" for path, n in list(counts.items())[:4]),
                fix="correct time_steps, or let run= loop over that many steps",
            )
        return steps

    def _layouts(self, steps: int) -> list[Layout]:
        """Layouts the example could have; the recording tells which one it is."""
        if self.driven is not None:
            return [self.driven]
        if self.input_time_axis is not ...:
            axis = self.input_time_axis
            if axis is not None and self.x.shape[axis] != steps:
                raise UsageError(
                    f"axis {axis} of the example has {self.x.shape[axis]} elements, not T = {steps}",
                    fix="correct input_time_axis",
                )
            axis = None if axis is None else axis % self.x.ndim
            return [Layout(axis, 1 if axis == 0 else 0)]
        axes = [axis for axis in range(self.x.ndim) if self.x.shape[axis] == steps and self.x.ndim > 2]
        return [Layout(None, 0), *(Layout(axis, 1 if axis == 0 else 0) for axis in axes)]

    def batch(self, layout: Layout) -> Tensor:
        """A few samples: at least two, so that the batch axis can be told from others."""
        if any(cell.folded is not None and cell.folded[0] > 0 for cell in self.survey.cells.values()):
            return self.x
        samples = layout.to_samples(self.x)
        if len(samples) == 1:
            samples = torch.cat([samples, samples.flip(-1)])
        small = layout.from_samples(samples[:_LARGEST_BATCH]).contiguous()
        try:
            with torch.no_grad():
                self._call(layout)(self.model, small.clone())
        except RunError:
            return self.x
        return small

    # ------------------------------------------------------------------ output

    def _deployed(self, recording: Recording) -> Ref:
        if not isinstance(recording.output, Ref):
            raise UsageError(
                f"the deployed output is a {type(recording.output).__name__}, not a tensor",
                fix="select a tensor of the output with output=",
            )
        return recording.output


class RunError(S2CError):
    """The user's own code failed."""


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


def _call_once(model: nn.Module, x: Any) -> Any:
    reset(model)
    return model(x)


def _ambiguous(x: Tensor, axes: list[int | None]) -> UsageError:
    return UsageError(
        f"which axis of the example {tuple(x.shape)} is time cannot be told",
        why=f"the model runs with {' and with '.join('none' if a is None else f'axis {a}' for a in axes) or 'none'}",
        fix="say so: input_time_axis=None (the same input at every step), 0 ([T, N, ...]) or 1 ([N, T, ...])",
    )
