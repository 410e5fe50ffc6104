"""``trace``: a trained torch model, as it is, becomes a float Graph that is proved to be the same network."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.convert import ConversionError, Traced, convert
from snn2chip.frontend.torch.deployed import Select
from snn2chip.frontend.torch.doubts import with_doubts
from snn2chip.frontend.torch.feedback import with_late_inputs
from snn2chip.frontend.torch.gate import check_equal
from snn2chip.frontend.torch.job import Job, Run
from snn2chip.frontend.torch.layout import Layout, TimeAxis, ambiguous, layouts
from snn2chip.frontend.torch.look import look
from snn2chip.frontend.torch.per_step import NormsDifferError
from snn2chip.frontend.torch.plain import extract
from snn2chip.frontend.torch.readout import How
from snn2chip.frontend.torch.recording import Recording, Ref
from snn2chip.frontend.torch.running import RunError, recorded
from snn2chip.frontend.torch.state import preserved
from snn2chip.ir.graph import Graph

_LARGEST_BATCH = 4


def trace(
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
    job = Job(
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
    with preserved(job.model):
        tracing = Tracing(job)
        traced, layout = tracing.trace()
        check_equal(job.name, traced, lambda x: tracing.once(x, layout), layout, tracing.batch(layout))
    if job.deployed.chosen:
        warnings.warn(job.deployed.chosen, stacklevel=3)
    return traced.graph


class Tracing:
    """Runs of one model that become graphs.

    Raises:
        S2CError: as :func:`snn2chip.frontend.torch.look.look`, which the first run is for.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.look = job, look(job)
        # Neurons written as plain code, by name: identified once, found again in every recording.
        self.plain: dict[str, Cell] = {}

    def trace(self) -> tuple[Traced, Layout]:
        """The graph, and the layout of the example it holds for.

        Raises:
            S2CError: no layout makes a graph, or several make different ones.
        """
        x, steps, driven = self.job.x, self.look.steps, self.look.driven
        tried: list[tuple[Layout, Traced]] = []
        failures: list[tuple[Layout, ConversionError]] = []
        for layout in [driven] if driven else layouts(x, steps, self.job.input_time_axis):
            try:
                tried.append((layout, self._converted(self.batch(layout), layout)))
            except ConversionError as failure:
                failures.append((layout, failure))
        if not tried:
            # The layout that explains most of the model is the likeliest; of two, the one that finds time in the data.
            best = max(failures, key=lambda f: (f[1].time_fits, f[1].reached, f[0].time_axis is not None))
            raise self._explained(best[1])
        layout, traced = tried[0]
        # The one step of a sample is the same whether its axis is called time or not: the first layout has none.
        if steps > 1 and any(other.graph != traced.graph for _, other in tried[1:]):
            raise ambiguous(x, [layout for layout, _ in tried])
        return traced, layout

    def batch(self, layout: Layout) -> Tensor:
        """A few samples: at least two, so that the batch axis can be told from others."""
        x = self.job.x
        if any(cell.folded is not None and cell.folded[0] > 0 for cell in self.look.survey.cells.values()):
            return x
        samples = layout.to_samples(x)
        if len(samples) == 1:
            samples = torch.cat([samples, samples.flip(-1)])
        small = layout.from_samples(samples[:_LARGEST_BATCH]).contiguous()
        try:
            with torch.no_grad():
                self.look.run(self.job.model, small.clone())
        except RunError:
            return x
        return small

    def once(self, x: Tensor, layout: Layout) -> Traced:
        """Record one run on ``x`` and convert it.

        Raises:
            S2CError: as :func:`trace`.
        """
        try:
            return self._converted(x, layout)
        except ConversionError as stopped:
            raise self._explained(stopped) from None

    def _explained(self, stopped: ConversionError) -> S2CError:
        return with_doubts(stopped.error, self.job.model, self.look.survey.doubts)

    def _converted(self, x: Tensor, layout: Layout) -> Traced:
        """The same, for a layout that may be the wrong one.

        Raises:
            ConversionError: the recording makes no graph.
        """
        steps, known = self.look.steps, self.look.survey.cells
        recording = recorded(self.job.model, self.look.run, x, known)
        try:
            recording, self.plain = extract(recording, steps, self.plain)
        except S2CError as error:
            raise ConversionError(error, 0) from None
        cells = {**known, **self.plain}
        try:
            return self._graph(recording, cells, layout)
        except ConversionError as failure:
            try:
                recurrent = with_late_inputs(recording, steps, cells)
            except S2CError as error:
                raise ConversionError(error, failure.reached) from None
            if recurrent is None:
                raise
            try:
                return self._graph(recurrent, cells, layout)
            except ConversionError:
                # Norms that take turns look like values handed on from step to step, and are none.
                if isinstance(failure.error, NormsDifferError):
                    raise failure from None
                raise

    def _graph(self, recording: Recording, cells: dict[str, Cell], layout: Layout) -> Traced:
        job = self.job
        if not isinstance(recording.output, Ref):
            raise UsageError(
                f"the deployed output is a {type(recording.output).__name__}, not a tensor",
                fix="select a tensor of the output with output=",
            )
        # A loop of the tracer's has read out already.
        readout = None if self.look.driven else job.readout
        return convert(
            job.model, recording, cells, layout, self.look.steps, recording.output, readout, job.dt, job.per_step
        )
