"""Late inputs of a graph being traced: opaque while it grows, led to where they come from once that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.context import Context
from snn2chip.frontend.torch.elements import Signal
from snn2chip.frontend.torch.recording import Call, Ref
from snn2chip.ir.graph import Edge
from snn2chip.ir.layers import Neuron


class LateInputs:
    """The values of earlier steps that a recording reads (its calls of kind "late")."""

    def __init__(self, context: Context) -> None:
        self.context, self.elements = context, context.elements
        self._signals: dict[Call, Signal] = {}

    def ids(self, call: Call) -> list[Tensor | None]:
        """Ids of a late input for every step."""
        shape, batch = tuple(call.values[-1].shape), self.elements.batch
        if batch not in shape:
            raise S2CError(
                "a recurrent connection carries no value per sample",
                where=str(call.source),
                why=f"its shape is {shape}, the batch has {batch} samples",
                fix="keep the batch axis in what is handed on to the next step",
            )
        axis = shape.index(batch)
        name = f"late value {len(self.elements.signals)}"
        signal = self.elements.add(Signal(name, (*shape[:axis], *shape[axis + 1 :]), True, late=True))
        self._signals[call] = signal
        n = torch.arange(batch)
        return [
            self.elements.ids(signal, torch.full_like(n, step), n).movedim(0, axis).contiguous()
            for step in range(self.elements.steps)
        ]

    def connect(self) -> None:
        """Lead edges from late inputs to where those come from; one that closes a loop is recurrent.

        Raises:
            S2CError: a late input that is not one value per step, or a loop without a neuron: a sum over all steps so
                far, which no layer holds.
        """
        late = {signal.name: (self._edge(call, signal), call) for call, signal in self._signals.items()}
        # After that: bringing a value into shape adds layers.
        nodes = self.context.builder.nodes

        def led(edge: Edge) -> Edge:
            seen: set[str] = set()
            while edge.source in late:
                before, call = late[edge.source]
                if edge.source in seen:
                    raise S2CError(
                        "a recurrent connection carries nothing but itself",
                        where=str(call.source),
                        fix="feed it from a layer or a neuron inside the loop, or leave it out",
                    )
                seen.add(edge.source)
                edge = replace(before, delay=before.delay + edge.delay)
            return edge

        whole = {name: [led(edge).source for edge in node.inputs] for name, node in nodes.items()}
        forward = {name: [e.source for e in node.inputs if e.source not in late] for name, node in nodes.items()}
        populations = {name for name, node in nodes.items() if isinstance(node.layer, Neuron)}

        def connected(name: str, edge: Edge) -> Edge:
            if edge.source not in late:
                return edge
            found = led(edge)
            if name not in populations and _depends(whole, found.source, name, populations):
                raise S2CError(
                    "values are summed over all steps so far, and the sum is used before the last step",
                    where=str(late[edge.source][1].source),
                    why="the loop holds no neuron; a sum over time is a read-out, and a graph has it at its end only",
                    fix="let a neuron integrate: one without decay, threshold and reset shows the sum as its membrane",
                )
            if _depends(forward, found.source, name):
                return replace(found, recurrent=True)
            forward[name].append(found.source)
            return found

        for name, node in nodes.items():
            nodes[name] = replace(node, inputs=tuple(connected(name, edge) for edge in node.inputs))

    def _edge(self, call: Call, late: Signal) -> Edge:
        lag = call.kwargs["lag"]
        signals = {self._earlier(call, ref, step - lag) for step, ref in enumerate(call.args) if ref is not None}
        if len(signals) != 1 or next(iter(signals)).shape != late.shape:
            raise S2CError(
                "a recurrent connection carries another value at some steps",
                where=str(call.source),
                fix="hand on the same value at every step, starting from zeros",
            )
        signal = signals.pop()
        return Edge(signal.name, lag, port=signal.port)  # type: ignore[arg-type]

    def _earlier(self, call: Call, ref: Ref, step: int) -> Signal:
        """The signal that a late input reads of ``step``."""
        rows = self.context.rows(call, [self.context.value(ref, call)], 0)
        signal = self.context.signal(rows.patterns[0], call)
        samples = list(range(self.elements.batch))
        if signal.over_time is not None or bool((rows.t != step).any()) or rows.n.tolist() != samples:
            raise S2CError(
                "a recurrent connection carries more than one value per sample and step",
                where=str(call.source),
                fix="hand on the value of one step to the next, sample by sample",
            )
        return signal


def _depends(inputs: Mapping[str, list[str]], name: str, on: str, walls: Iterable[str] = ()) -> bool:
    """Whether a node depends on another, other than through ``walls``."""
    seen: set[str] = set(walls)
    pending = [name]
    while pending:
        name = pending.pop()
        if name == on:
            return True
        if name not in seen:
            seen.add(name)
            pending += inputs[name]
    return False
