"""Calls of neurons become populations: one for every place, whose T calls, or one call of T steps, are one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import as_array
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.context import Context, refuse_random
from snn2chip.frontend.torch.elements import CONSTANT, STATIC, Rows, Signal
from snn2chip.frontend.torch.per_step import PER_STEP, NormsDifferError, joined, origin
from snn2chip.frontend.torch.places import handed_states, places
from snn2chip.frontend.torch.recording import Call, Recording, Ref
from snn2chip.ir.graph import Source
from snn2chip.ir.layers import Delay, Gather, Neuron
from snn2chip.neurons.base import FloatNeuron


class StepsDifferError(S2CError):
    """The model does not loop over the time axis of the layout."""


class Populations:
    """The populations of a graph being traced."""

    def __init__(self, context: Context, recording: Recording, cells: Mapping[str, Cell]) -> None:
        self.context, self.builder, self.elements, self.cells = context, context.builder, context.elements, cells
        # What feeds a population at each step, where it is not the same.
        self.fed_by: dict[str, list[Signal]] = {}
        self.populations: dict[tuple[str, int], tuple[Signal, Signal]] = {}
        self.places = places(recording, cells)

    def check_loops(self, calls: list[Call]) -> None:
        """Before anything is made of a layout: neurons that loop over time must do so over its T steps."""
        for call in calls:
            axis = self.cells[call.module].time_axis if call.kind == "neuron" else None
            source = next((a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Ref)), None)
            if axis is None or source is None:
                continue
            count = self.cells[call.module].unfolded(source.call.values[source.out]).shape[axis]
            if count != self.elements.steps:
                raise StepsDifferError(
                    f"a neuron loops over {count} steps, the network over {self.elements.steps}", where=str(call.source)
                )

    def join_norms(self) -> None:
        """Norms that differ from step to step go into the population they feed."""
        for population, feeds in self.fed_by.items():
            if any(fed is not feeds[0] for fed in feeds):
                joined(self.builder.nodes, population, [fed.name for fed in feeds], feeds[0].shape)

    def ids(self, call: Call) -> list[Tensor | None]:
        """Ids of all that a call of a neuron returned or left behind.

        Raises:
            S2CError: the call is no step, or not all steps, of one population.
        """
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
        if count == 1 < self.elements.steps <= len(places):
            raise S2CError(
                "a neuron starts anew at every call",
                where=str(call.source),
                why=f"{call.module} is handed a fresh state each time, so that no step knows of the one before",
                fix="time_steps=1, or keep the state between the steps of a sample",
            )
        if count != self.elements.steps:
            raise S2CError(
                f"a neuron is called {count} times in {self.elements.steps} steps",
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
        if sorted(found.n.tolist()) != list(range(self.elements.batch)):
            raise S2CError(
                "a neuron's input is not one value per sample",
                where=str(call.source),
                why=f"{len(found.n)} rows for a batch of {self.elements.batch}",
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
            whole = ids.numel() == self.elements.batch * out.size and not bool((ids < 0).any())
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
