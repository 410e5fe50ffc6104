"""A recording becomes a graph: dead code left out, T recorded steps rolled into one, the read-out found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.torch.builder import Builder, as_array
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.context import Context, combined, refuse_random
from snn2chip.frontend.torch.elements import CONSTANT, STATIC, Elements, Rows, Signal
from snn2chip.frontend.torch.late import LateInputs
from snn2chip.frontend.torch.operations import translate
from snn2chip.frontend.torch.opnames import only_moves
from snn2chip.frontend.torch.per_step import PER_STEP, NormsDifferError, joined, origin
from snn2chip.frontend.torch.places import handed_states, places
from snn2chip.frontend.torch.recorder import Call, Recording, Ref
from snn2chip.ir.graph import Coding, Edge, Graph, Node, Port, Source, in_order
from snn2chip.ir.layers import Array, Delay, Gather, Input, Neuron, Output, Readout, Scale
from snn2chip.neurons.base import FloatNeuron

How = Literal["mean", "sum", "last", "max"]


@dataclass(frozen=True)
class Layout:
    """How the example is laid out: its time axis (None: the same data at every step) and its batch axis."""

    time_axis: int | None
    batch_axis: int

    @property
    def coding(self) -> Coding:
        """How a graph calls it."""
        return "direct" if self.time_axis is None else "steps"

    def to_samples(self, x: Tensor) -> Tensor:
        """The example as samples: [N, ...] or [N, T, ...]."""
        if self.time_axis is None:
            return x.movedim(self.batch_axis, 0)
        return x.movedim((self.batch_axis, self.time_axis), (0, 1))

    def from_samples(self, samples: Tensor) -> Tensor:
        """The inverse of :meth:`to_samples`."""
        if self.time_axis is None:
            return samples.movedim(0, self.batch_axis)
        return samples.movedim((0, 1), (self.batch_axis, self.time_axis))


@dataclass
class Traced:
    """A graph, and what the model itself computed: ``observed[population, port]`` [N, T, ...] and ``outputs``."""

    graph: Graph
    observed: dict[tuple[str, str], Array]
    outputs: Array


def convert(
    model: nn.Module,
    recording: Recording,
    cells: Mapping[str, Cell],
    layout: Layout,
    steps: int,
    output: Ref,
    readout: How | None,
    dt: float | None,
    per_step: bool = False,
) -> Traced:
    """The graph of a recording.

    Args:
        output: the deployed output.
        readout: how outputs of every step are read out, where the model returns one per step.
        per_step: whether norms may differ from step to step.

    Raises:
        S2CError: something the deployed output depends on is no spiking network; the message says what and where.
    """
    x = recording.input.values[0]
    work = _Conversion(model, recording, cells, layout, steps, x.shape[layout.batch_axis], per_step)
    try:
        work.run(output)
        return work.finish(output, readout, dt)
    except S2CError as error:
        raise ConversionError(error, len(work.context.values)) from None


class ConversionError(Exception):
    """A recording that could not be converted, and how far the conversion came."""

    def __init__(self, error: S2CError, reached: int) -> None:
        super().__init__(str(error))
        self.error, self.reached = error, reached
        self.time_fits = not isinstance(error, StepsDifferError)


class StepsDifferError(S2CError):
    """The model does not loop over the time axis of the layout."""


class _Conversion:
    def __init__(
        self,
        model: nn.Module,
        recording: Recording,
        cells: Mapping[str, Cell],
        layout: Layout,
        steps: int,
        batch: int,
        per_step: bool,
    ) -> None:
        self.model, self.recording, self.cells, self.layout = model, recording, cells, layout
        self.steps, self.batch = steps, batch
        self.elements = Elements(steps, batch)
        computing = frozenset(c.module for c in recording.calls if c.kind == "op" and not only_moves(c))
        self.builder = Builder(model, self.elements, computing)
        self.context = Context(self.builder, self.elements, {}, per_step)
        # What feeds a population at each step, where it is not the same.
        self.fed_by: dict[str, list[Signal]] = {}
        self.populations: dict[tuple[str, int], tuple[Signal, Signal]] = {}
        self.places = places(recording, cells)
        self.late = LateInputs(self.context)

    def run(self, output: Ref) -> None:
        """Translate every recorded call the output depends on, in order."""
        values = self.context.values
        values[self.recording.input, 0] = self._input()
        needed = _needed(self.recording, output, self.cells)
        self._check_loops(needed)
        for call in needed:
            if call.kind == "neuron":
                made = self._neuron(call)
            elif call.kind == "late":
                made = self.late.ids(call)
            elif call.kind == "op" and call.depends_on_data:
                made = translate(self.context, call)
            else:
                continue
            for i, value in enumerate(made):
                values[call, i] = value

    def _check_loops(self, calls: list[Call]) -> None:
        """Before anything is made of a layout: neurons that loop over time must do so over its T steps."""
        for call in calls:
            axis = self.cells[call.module].time_axis if call.kind == "neuron" else None
            source = next((a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Ref)), None)
            if axis is None or source is None:
                continue
            count = self.cells[call.module].unfolded(source.call.values[source.out]).shape[axis]
            if count != self.steps:
                raise StepsDifferError(
                    f"a neuron loops over {count} steps, the network over {self.steps}", where=str(call.source)
                )

    def _input(self) -> Tensor:
        x = self.recording.input.values[0]
        samples = self.layout.to_samples(torch.empty(x.shape, device="meta"))
        shape = tuple(samples.shape[1:] if self.layout.time_axis is None else samples.shape[2:])
        taken = {path for path, _ in self.model.named_modules()}
        name = next(n for n in ("input", "data", "input_data") if n not in taken)
        self.builder.nodes[name] = Node(name, Input(shape), (), Source("input"))
        signal = self.elements.add(Signal(name, shape, self.layout.time_axis is not None))
        n = torch.arange(self.batch)
        if self.layout.time_axis is None:
            return self.layout.from_samples(self.elements.ids(signal, torch.zeros_like(n), n)).contiguous()
        steps = [self.elements.ids(signal, torch.full_like(n, t), n) for t in range(self.steps)]
        return self.layout.from_samples(torch.stack(steps, 1)).contiguous()

    # ------------------------------------------------------------------ neurons

    def _neuron(self, call: Call) -> list[Tensor | None]:
        cell = self.cells[call.module]
        source = next((a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Ref)), None)
        if source is None or not source.call.depends_on_data:
            if source is not None:
                refuse_random(source, str(call.source))
            raise S2CError(
                "a neuron is fed a constant",
                where=str(call.source),
                why="what it computes does not depend on the input",
                fix="select an output that it has no part in (output=), or feed it through a layer",
            )
        ids = cell.unfolded(self.context.value(source, call))
        if cell.time_axis is None:
            out, found, first = self._stepped(call, cell, ids)
        else:
            out, found, first = self._looped(call, cell, ids)
        return [
            self._state(cell, out, found, first, port, value)
            for port, value in zip(call.ports, call.values, strict=True)
        ]

    def _stepped(self, call: Call, cell: Cell, ids: Tensor) -> tuple[Signal, list[Rows], int]:
        """One call, one step: its output signal, its rows, its step."""
        place, step = self.places[call]
        places = [where for c, (where, _) in self.places.items() if c.module == call.module]
        count = places.count(place)
        if count == 1 < self.steps <= len(places):
            raise S2CError(
                "a neuron starts anew at every call",
                where=str(call.source),
                why=f"{call.module} is handed a fresh state each time, so that no step knows of the one before",
                fix="time_steps=1, or keep the state between the steps of a sample",
            )
        if count != self.steps:
            raise S2CError(
                f"a neuron is called {count} times in {self.steps} steps",
                where=str(call.source),
                why="its state would be shared by two places of the network, or T is not what was said",
                fix="give every place a neuron module of its own, or correct time_steps",
            )
        found = self._rows(call, cell, ids)
        signal = self._expect(call, found, step)
        if step == 0:
            out = self._population(call, signal, self._started(call, cell), place)
            self.populations[call.module, place] = signal, out
        fed, out = self.populations[call.module, place]
        self.fed_by.setdefault(out.name, []).append(signal)
        if signal is not fed:
            self._check_norms(call, [fed, signal])
        self._check_states(call, cell, out, step)
        return out, [found], step

    def _looped(self, call: Call, cell: Cell, ids: Tensor) -> tuple[Signal, list[Rows], int]:
        """One call, all steps: its output signal, its rows for every step, the first step."""
        assert cell.time_axis is not None
        if cell.carries and call.index:
            raise S2CError(
                "a neuron with memory is called twice in one sample",
                where=str(call.source),
                why="the second place would start from the state the first one left",
                fix="give every place a neuron module of its own",
            )
        found = [self._rows(call, cell, part.contiguous()) for part in ids.unbind(cell.time_axis)]
        signals = [self._expect(call, rows, step) for step, rows in enumerate(found)]
        if any(signal is not signals[0] for signal in signals):
            self._check_norms(call, signals)
        out = self._population(call, signals[0], self._started(call, cell), call.index)
        self.fed_by[out.name] = signals
        return out, found, 0

    def _check_norms(self, call: Call, signals: list[Signal]) -> None:
        """Raise unless what differs from step to step are norms, and that was asked for."""
        nodes, names = self.builder.nodes, [signal.name for signal in signals]
        norms = all(s.over_time is None and s.port == "out" for s in signals) and origin(nodes, names) is not None
        if norms and self.context.per_step and self.cells[call.module].feed is None:
            return
        other = next(signal for signal in signals if signal is not signals[0])
        # Steps that are parts of one value: that value has the time axis among its features.
        parts = all(isinstance(nodes[name].layer, Gather) for name in names if name)
        refusal: type[S2CError] = NormsDifferError if norms else StepsDifferError if parts else S2CError
        raise refusal(
            "the network is not the same at every step",
            where=str(call.source),
            why=f"{call.module} is fed from {other.name or 'a sum over time'} at one step, from {names[0]} at another",
            fix="a graph is one step, repeated: remove the branch on the step, or share the layers"
            + (f"; {PER_STEP}" if norms and not self.context.per_step else ""),
        )

    def _rows(self, call: Call, cell: Cell, ids: Tensor) -> Rows:
        """Rows of one step's input, taken apart as far as the synapse inside the module does not change them."""
        axes = 0 if cell.feed is None else cell.feed.axes
        return self.context.rows(call, [ids], ids.ndim - 1 if axes is None else axes)

    def _population(self, call: Call, fed: Signal, model: FloatNeuron, key: Any) -> Signal:
        """The neuron's node, with the synapses inside the module."""
        cell = self.cells[call.module]

        def inner(name: str) -> Source:
            return replace(call.source, module=f"{call.module}.{name}")

        if cell.feed is not None:
            fed = self.builder.add(cell.feed.layer(fed.shape), [fed], key, inner(cell.feed.name), "")
        out = self.builder.add(Neuron(model), [fed], key, call.source, call.name, timed=True, delay=cell.input_delay)
        if cell.feedback is not None:
            layer = cell.feedback.layer(out.shape)
            self.builder.feed_back(out, layer, inner(cell.feedback.name), 1 + cell.input_delay)
        return out

    def _delayed(self, out: Signal, port: str, cell: Cell) -> Signal:
        """An output of a population, as late as the module gives it."""
        signal = self._port(out, port)
        if port != "out" or not cell.delay:
            return signal
        return self.builder.add(Delay(cell.delay), [signal], cell.delay, self.builder.nodes[out.name].source, "delay")

    def _expect(self, call: Call, found: Rows, step: int) -> Signal:
        """The signal of one step's input, all samples present."""
        signal = self.context.signal(found.patterns[0], call)
        if signal.over_time is not None or bool((found.t > STATIC).any() and (found.t != step).any()):
            steps = sorted({int(t) for t in found.t})
            raise S2CError(
                f"at step {step} a neuron reads "
                + (f"step {steps[0]}" if len(steps) == 1 and steps[0] >= 0 else "a mixture of steps"),
                where=str(call.source),
                why="spikes of an earlier step are traced where a loop over steps reads them; a read-out feeds nothing",
                fix="write the recurrence as a loop over steps that keeps the last spikes, zeros at first; "
                "if the example's time axis was not found, name it: trace(..., input_time_axis=0, 1 or None)",
            )
        if sorted(found.n.tolist()) != list(range(self.batch)):
            raise S2CError(
                "a neuron's input is not one value per sample",
                where=str(call.source),
                why=f"{len(found.n)} rows for a batch of {self.batch}",
                fix="if the example's time axis was not found, name it: trace(..., input_time_axis=0, 1 or None); a "
                "model that takes steps and samples as one axis is given [N, T, ...] by "
                "run=lambda model, x: model(x.flatten(0, 1)).unflatten(0, x.shape[:2])",
            )
        return signal

    def _started(self, call: Call, cell: Cell) -> FloatNeuron:
        """The neuron with the membrane it is handed at the first step."""
        model = cell.model
        membrane = "out" if model.integrates_only else "v"
        for ref, port in handed_states(call, cell):
            value = ref.call.values[ref.out]
            if ref.call.depends_on_data:
                raise S2CError(
                    "a neuron starts from a state computed from the data",
                    where=str(call.source),
                    why="a chip starts every sample from the same stored state",
                    fix="start it from zeros or a constant, and feed the data in as input",
                )
            start = getattr(model, "v_start", np.zeros(())) if port in ("v", membrane) else np.zeros(())
            # Empty: the library's word for no state yet.
            if not value.numel() or not (as_array(value) != start).any():
                continue
            if value.ndim and bool((value != value[:1]).any()):
                raise S2CError(
                    "a neuron starts from a state that differs from sample to sample",
                    where=str(call.source),
                    why="a chip starts every sample from the same stored state",
                    fix="start it from zeros or a constant; run= can do that for a model that draws its states",
                )
            if port not in ("v", membrane) or not hasattr(model, "v_start"):
                raise S2CError(
                    f"a {model.kind} neuron starts from a state {port!r} that is not zero",
                    where=str(call.source),
                    why="only membranes may start from other values",
                    fix="start it from zeros",
                )
            model = replace(model, v_start=as_array(value[0] if value.ndim else value))  # type: ignore[call-arg]
        return model

    def _check_states(self, call: Call, cell: Cell, out: Signal, step: int) -> None:
        """What is handed in at step t must be what came out at step t−1, untouched."""
        handed = handed_states(call, cell) if step else []
        if step and not cell.carries and len(handed) < len(cell.states):
            raise S2CError(
                "a neuron is called without the state of the step before",
                where=str(call.source),
                why=f"{call.module} keeps no state itself: it starts anew at step {step}",
                fix="hand it the state it returned: out, state = neuron(x, state)",
            )
        for ref, port in handed:
            ids = self.context.value(ref, call) if ref.call.depends_on_data else torch.full((), CONSTANT)
            whole = ids.numel() == self.batch * out.size and not bool((ids < 0).any())
            which, t, _, _ = self.elements.read(ids.clamp(min=0).contiguous())
            # What an integrator returns is its membrane, by either name.
            names = ("out", "v") if cell.model.integrates_only and port in ("out", "v") else (port,)
            signals = torch.tensor([self._delayed(out, name, cell).index for name in names])
            same = bool(torch.isin(which, signals).all() and (t == step - 1).all())
            if not (whole and same):
                raise S2CError(
                    "a neuron's state is changed between two steps",
                    where=str(call.source),
                    why=f"the {port!r} handed to {call.module} at step {step} is not what it last returned",
                    fix="pass the state on unchanged, or write the change into the neuron module",
                )

    def _port(self, out: Signal, port: str) -> Signal:
        return out if port == "out" else self.builder.port(out, port)

    def _state(self, cell: Cell, out: Signal, found: list[Rows], first: int, name: str, value: Tensor) -> Tensor | None:
        """Ids of one tensor a neuron returned or left behind as an attribute."""
        if name.startswith("attr:"):
            port = cell.attributes.get(name[5:])
        else:
            port = cell.returns[int(name)] if int(name) < len(cell.returns) else None
        if port is None:
            return None
        signal = self._delayed(out, port, cell)
        parts = []
        for step, rows in enumerate(found, first):
            ids = self.elements.ids(signal, torch.full_like(rows.n, step), rows.n)
            parts.append(rows.put_back(ids.reshape(len(rows.n), *rows.lead, *out.shape[len(rows.lead) :])))
        # A loop inside the module returns its spikes for every step but may leave its membrane for the last only.
        possible = parts[-1:]
        if cell.time_axis is not None:
            every = torch.stack(parts, cell.time_axis)
            possible.insert(0, every if cell.folded is None else every.flatten(0, 1))
        return next((ids for ids in possible if ids.shape == value.shape), None)

    # ------------------------------------------------------------------ read-out

    def finish(self, output: Ref, readout: How | None, dt: float | None) -> Traced:
        """Read the output back as signal and way of reading it out over time."""
        where = "the model's output"
        self.late.connect()
        if not output.call.depends_on_data:
            raise S2CError("the deployed output does not depend on the input", fix="select another with output=")
        end = Call("op", "output", None, (output,), {}, [], "", Source(where))
        ids = self.context.value(output, end)
        found = self._output_rows(end, ids)
        signal = self.context.signal(found.patterns[0], end)
        how, signal = self._how(signal, found, end, readout)
        if signal.late:
            raise S2CError("the deployed output is a value of an earlier step", where=where, fix="return it undelayed")
        for population, feeds in self.fed_by.items():
            if any(fed is not feeds[0] for fed in feeds):
                joined(self.builder.nodes, population, [fed.name for fed in feeds], feeds[0].shape)
        nodes = list(self.builder.nodes.values())
        edge = Edge(signal.name, port=signal.port)  # type: ignore[arg-type]
        taken = {node.name for node in nodes} | {"readout", "output"} & {p for p, _ in self.model.named_modules()}
        if how is not None:
            name = "readout" if "readout" not in taken else "readout_"
            nodes.append(Node(name, Readout(how), (edge,), Source(where), "host"))
            edge = Edge(name)
        nodes.append(Node("output" if "output" not in taken else "output_", Output(), (edge,), Source(where), "host"))
        origin = f"torch model {type(self.model).__name__}"
        reached = _reaching(nodes)
        ordered = in_order(node for node in nodes if node.name in reached)
        graph = Graph(ordered, self.steps, self.layout.coding, dt, origin).verify()
        if not graph.neurons:
            raise S2CError(
                "no spiking neuron reaches the deployed output",
                where=origin,
                fix="select another output with output=, or train a spiking network first",
            )
        return Traced(graph, self._observed(graph), self._outputs(found, output, how))

    def _output_rows(self, end: Call, ids: Tensor) -> Rows:
        found = self.context.rows(end, [ids], 0)
        samples = sorted(set(found.n.tolist()))
        if samples != list(range(self.batch)):
            raise S2CError(
                "the output does not hold every sample of the batch",
                where="the model's output",
                why=f"it holds samples {', '.join(map(str, samples))} of a batch of {self.batch}",
                fix="return every sample; output= can select the tensor that does",
            )
        return found

    def _how(self, signal: Signal, found: Rows, end: Call, readout: How | None) -> tuple[How | None, Signal]:
        steps, last = self.steps, self.steps - 1
        times = sorted(set(found.t.tolist()))
        if times == list(range(steps)) and len(found.t) == steps * self.batch and (steps > 1 or readout):
            return readout, signal
        if readout is not None:
            raise UsageError(
                f"readout={readout!r} cannot be applied",
                why="the model does not return its output for every step",
                fix="leave it out",
            )
        if signal.over_time is not None:
            if isinstance(signal.over_time, Signal):
                return "max", signal.over_time
            return self._weighted(signal, end)
        if times == [STATIC]:
            raise S2CError(
                "the deployed output is the same at every step",
                where="the model's output",
                why="no neuron reaches it",
                fix="output= selects another",
            )
        if times == [last]:
            return "last", signal
        raise S2CError(
            f"the deployed output is taken at step {', '.join(map(str, times))} of {steps}",
            where="the model's output",
            why="the last step, all steps, or a sum, mean or maximum over all steps can be read out",
            fix="where the model returns a list with an output per step, all are deployed by "
            "output=lambda out: torch.stack(out), the last by output=-1",
        )

    def _weighted(self, signal: Signal, end: Call) -> tuple[How, Signal]:
        assert isinstance(signal.over_time, dict)
        base, coefficients = combined(self.context, end, signal)
        weight = coefficients[-1]
        if any(not math.isclose(c, weight, rel_tol=1e-6, abs_tol=1e-12) for c in coefficients):
            only = [t for t, c in enumerate(coefficients) if c]
            if only == [self.steps - 1] and weight == 1:
                return "last", base
            raise S2CError(
                "the read-out weighs steps differently",
                where="the model's output",
                why=f"weights {', '.join(f'{c:.4g}' for c in coefficients)}",
                fix="read out the mean, the sum, the maximum or the last step",
            )
        if weight == 1:
            return "sum", base
        if math.isclose(weight * self.steps, 1, rel_tol=1e-6):
            return "mean", base
        factor = np.asarray(np.float32(weight))
        return "sum", self.builder.add(Scale(factor), [base], factor.tobytes(), end.source, "scale")

    # ------------------------------------------------------------------ what the model computed

    def _observed(self, graph: Graph) -> dict[tuple[str, str], Array]:
        """What the model's own neurons did: (population, port) → [N, T, ...], NaN where they did not show it."""
        populations = {node.name for node in graph.neurons}
        found: dict[tuple[str, str], Array] = {}
        for (call, i), ids in self.context.values.items():
            if ids is None or call.kind != "neuron":
                continue
            whole = self.elements.whole(ids)
            which, t, n, position = (
                x.reshape(-1) for x in (whole[1:] if whole else self.elements.read(ids.contiguous()))
            )
            signal = self.elements.signals[int(which[0])]
            if signal.name not in populations or signal.port not in get_args(Port):
                continue
            shape = (self.batch, self.steps, signal.size)
            values = found.setdefault((signal.name, signal.port), np.full(shape, np.nan, dtype=np.float32))
            data = call.values[i].detach().reshape(-1).to(torch.float32)
            if whole:
                values[n.numpy(), t.numpy()] = data.reshape(len(n), -1).numpy()
            else:
                values[n.numpy(), t.numpy(), position.numpy()] = data.numpy()
        shapes = graph.shapes()
        return {key: a.reshape(*a.shape[:2], *shapes[key[0]]) for key, a in found.items()}

    def _outputs(self, found: Rows, output: Ref, how: How | None) -> Array:
        value = found.arrange(output.call.values[output.out]).to(torch.float32)
        per_step = len(found.t) == self.steps * self.batch and self.steps > 1
        order = torch.argsort(found.n * self.steps + found.t.clamp(min=0), stable=True)
        value = value[order]
        if per_step:
            value = value.reshape(self.batch, self.steps, *value.shape[1:])
            value = value if how is None else _READ[how](value)
        array: Array = value.numpy()
        return array


_READ = {
    "mean": lambda v: v.sum(1) / v.shape[1],
    "sum": lambda v: v.sum(1),
    "last": lambda v: v[:, -1],
    "max": lambda v: v.amax(1),
}


def _needed(recording: Recording, output: Ref, cells: Mapping[str, Cell]) -> list[Call]:
    """The calls the output depends on, in order; a neuron that remembers needs all calls of its module."""
    by_module: dict[str, list[Call]] = {}
    for call in recording.calls:
        if call.kind == "neuron":
            by_module.setdefault(call.module, []).append(call)
    live: set[int] = set()
    pending = [output.call]
    while pending:
        call = pending.pop()
        if id(call) in live:
            continue
        live.add(id(call))
        pending += [ref.call for ref in call.refs()]
        if call.kind == "neuron" and cells[call.module].carries:
            pending += by_module[call.module]
    return [call for call in recording.calls if id(call) in live]


def _reaching(nodes: list[Node]) -> set[str]:
    by_name = {node.name: node for node in nodes}
    reached: set[str] = set()
    pending = [nodes[-1].name, nodes[0].name]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += [edge.source for edge in by_name[name].inputs]
    return reached
