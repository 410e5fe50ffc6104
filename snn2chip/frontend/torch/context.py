"""What the rules of all operations share: reading ids back, constants, and layers that are affine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import Builder, as_array, joints
from snn2chip.frontend.torch.elements import Elements, Pattern, Rows, Signal, rows
from snn2chip.frontend.torch.opnames import MOVES, only_moves
from snn2chip.frontend.torch.per_step import origin
from snn2chip.frontend.torch.recording import Call, Ref, drawn
from snn2chip.ir import layers as L

Value = Tensor | None
Coefficients = tuple[float, ...]
Rule = Callable[["Context", Call], "list[Value]"]


@dataclass
class Context:
    """What a rule works with.

    Args:
        per_step: whether factors and offsets may differ from step to step.
    """

    builder: Builder
    elements: Elements
    values: dict[tuple[Call, int], Value]
    per_step: bool = False

    def value(self, ref: Ref, call: Call) -> Tensor:
        """The ids of a traced tensor, or a constant itself.

        Raises:
            S2CError: the tensor is random, or was overwritten through a view, or may not be used.
        """
        if ref.call.modified:
            raise S2CError(
                "a tensor is used after it was overwritten through another view of its memory",
                where=place(call),
                why=f"{ref.call.name} made it at {ref.call.source}",
                fix="avoid the in-place operation, or clone the tensor first",
            )
        if not ref.call.depends_on_data:
            refuse_random(ref, place(call))
            return ref.call.values[ref.out]
        found = self.values[ref.call, ref.out]
        if found is None:
            raise S2CError(
                f"output {ref.out} of {ref.call.name} cannot be part of a graph",
                where=place(ref.call),
                fix="use the spikes or the membrane of the neuron in its place",
            )
        return found

    def traced(self, argument: Any) -> bool:
        """Whether an argument depends on the data."""
        return isinstance(argument, Ref) and argument.call.depends_on_data

    def repeats(self, ids: Tensor, axis: int) -> bool:
        """Whether the same places of a sample follow each other along an axis: those of other steps or samples."""
        size = ids.shape[axis]
        # Two are read before all are: most axes that are asked about repeat nothing.
        return size > 1 and all(self._repeats(ids.narrow(axis, 0, count), axis) for count in sorted({2, size}))

    def _repeats(self, ids: Tensor, axis: int) -> bool:
        which, _, _, position = self.elements.read(ids.clamp(min=0))
        return all(bool((x == x.narrow(axis, 0, 1)).all()) for x in (which, position))

    def rows(self, call: Call, ids: list[Tensor], k: int) -> Rows:
        """Ids, broadcast together, as rows."""
        if len(ids) > 1:
            shape = np.broadcast_shapes(*(tuple(x.shape) for x in ids))
            ids = [x.broadcast_to(shape).contiguous() for x in ids]
        try:
            return rows(self.elements, ids, k, place(call))
        except S2CError:
            for tensor in ids if self.per_step else ():
                which, _, _, _ = self.elements.read(tensor.clamp(min=0))
                names = [self.elements.signals[i].name for i in torch.unique(which).tolist()]
                if len(names) > 1 and origin(self.builder.nodes, names) is not None:
                    raise S2CError(
                        "norms that differ from step to step feed something other than a neuron",
                        where=place(call),
                        why=f"{', '.join(names[:3])} take turns; only a neuron that counts steps can tell them apart",
                        fix="put such norms right in front of a LIF, not in front of a sum or another layer",
                    ) from None
            raise

    def signal(self, pattern: Pattern, call: Call, argument: int = 0) -> Signal:
        """The signal that holds a pattern, which is the ``argument``-th traced tensor of a call.

        Layers that bring it into shape are named after the view or permute the user wrote.
        """
        moves = list(_moves_before(call, argument))
        wanted = next((m for m in moves if m.name == "flatten" and m.module), moves[0] if moves else None)
        source, name = (call.source, "reshape") if wanted is None else (wanted.source, wanted.name.strip("_"))
        return self.builder.signal(pattern, source, name)

    def out(self, signal: Signal, found: Rows) -> Tensor:
        """Ids of a layer's output in the layout of its input."""
        ids = self.elements.ids(signal, found.t, found.n)
        tail = signal.shape[len(found.lead) :]
        return found.put_back(ids.reshape(len(found.t), *found.lead, *tail))


def _moves_before(call: Call, argument: int) -> Iterator[Call]:
    """The views and permutes between a call's argument and what computed it, nearest first."""
    refs = [ref for ref in call.refs() if ref.call.depends_on_data]
    while argument < len(refs) and refs[argument].call.kind == "op" and only_moves(refs[argument].call):
        before = refs[argument].call
        if before.name in MOVES:
            yield before
        refs, argument = [ref for ref in before.refs() if ref.call.depends_on_data], 0


def refuse_random(ref: Ref, where: str) -> None:
    """Raise where a constant was drawn at random."""
    draw = drawn(ref)
    if draw is not None:
        raise S2CError(
            "the network draws random numbers",
            where=str(draw.source) or where,
            why="a recorded draw would be repeated for every sample",
            fix="encode the input before the model: give spikes as the example, and let run= put them in the place of "
            "what the encoder draws, with unittest.mock.patch",
        )


def place(call: Call) -> str:
    """A call for messages."""
    return f"{call.name}" + (f" in {call.source}" if str(call.source) else "")


def arguments(call: Call, *names: str, **defaults: Any) -> dict[str, Any]:
    """A call's arguments by name."""
    found = dict(defaults)
    found.update(zip([*names], call.args, strict=False))
    found.update({k: v for k, v in call.kwargs.items() if v is not None or k not in defaults})
    return found


def parameter(context: Context, call: Call, argument: Any, what: str) -> Tensor | None:
    """A parameter that must not depend on the data."""
    if argument is None:
        return None
    if context.traced(argument):
        raise S2CError(
            f"{what} depends on the data",
            where=place(call),
            why="a chip's synapses are fixed",
            fix="train with constant ones, or put what depends on the data on the path of the spikes",
        )
    return context.value(argument, call) if isinstance(argument, Ref) else torch.as_tensor(argument)


def affine(
    context: Context, call: Call, found: Rows, key: Any, layer: Callable[[float], L.Layer], has_bias: bool
) -> Tensor:
    """One layer on one input. Behind a sum over time it moves in front of it, its bias shared among the steps."""
    signal = context.signal(found.patterns[0], call)
    if signal.over_time is None:
        made = context.builder.add(layer(1.0), [signal], key, call.source, call.name)
        return context.out(made, found)
    base, coefficients = combined(context, call, signal)
    total = math.fsum(coefficients)
    if has_bias and total == 0:
        raise S2CError(
            "a layer with a bias follows a combination of steps that adds up to zero",
            where=place(call),
            fix="leave the bias out, or apply the layer at every step",
        )
    made = context.builder.add(layer(1 / total if has_bias else 1.0), [base], (key, total), call.source, call.name)
    return context.out(context.builder.over_time({made: coefficients}), found)


def weighted(
    context: Context,
    call: Call,
    ids: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    make: Callable[[Any, Any], L.Layer],
    options: Any,
) -> Tensor:
    """A layer with a weight and a bias that works on the last ``k`` axes of its input."""
    found = context.rows(call, [ids], k)
    key = (context.builder.digest(weight), context.builder.digest(bias), options)
    w, b = as_array(weight), None if bias is None else as_array(bias)
    if w.shape[1] == found.patterns[0].shape[-k] and (spans := _around_late(context, found.patterns[0], -k)):
        return _apart(context, call, found, spans, k, key, lambda s: make(w[:, s], None if s.start else b))
    layer = lambda share: make(w, None if b is None else b * b.dtype.type(share))  # noqa: E731
    return affine(context, call, found, key, layer, b is not None)


def _around_late(context: Context, pattern: Pattern, axis: int) -> list[slice]:
    """The parts of a feature axis, if several are joined there and some come from an earlier step."""
    late = any(context.elements.signals[i].late for i in torch.unique(pattern.which).tolist())
    spans = joints(pattern, axis % len(pattern.shape)) if late else []
    return spans if len(spans) > 1 else []


def _apart(
    context: Context,
    call: Call,
    found: Rows,
    spans: list[slice],
    k: int,
    key: Any,
    layer: Callable[[slice], L.Layer],
) -> Tensor:
    """W [x, s] + b with spikes s of an earlier step, as W₁x + b and W₂s: one synapse each."""
    axis = len(found.patterns[0].shape) - k
    made = []
    for span in spans:
        signal = context.signal(found.patterns[0].part(axis, span), call)
        source, name = call.source, call.name
        if signal.late:
            source, name = replace(source, module=f"{source.module}.recurrent".lstrip(".")), ""
        made.append(context.builder.add(layer(span), [signal], (key, span.start), source, name))
    return context.out(context.builder.add(L.Add(), made, key, call.source, "add"), found)


def combined(context: Context, call: Call, signal: Signal) -> tuple[Signal, Coefficients]:
    """The one signal, and its weight per step, that a combination over time is made of."""
    if not isinstance(signal.over_time, dict):
        raise S2CError(
            "a layer follows the maximum over time",
            where=place(call),
            why="it cannot be computed step by step",
            fix="apply the layer before the maximum, or read out the mean or the sum",
        )
    parts = list(signal.over_time.items())
    coefficients = parts[0][1]
    if any(c != coefficients for _, c in parts):
        raise S2CError(
            "layers are summed over different steps and then combined",
            where=place(call),
            fix="sum them over the same steps, with the same weights",
        )
    if len(parts) == 1:
        return parts[0]
    made = context.builder.add(L.Add(), [s for s, _ in parts], "over time", call.source, "add")
    return made, coefficients


def per_step(call: Call, signals: list[Signal]) -> None:
    """Raise unless these values are those of one step."""
    if any(s.over_time is not None for s in signals):
        raise S2CError(
            "a product of values that were summed over time", where=place(call), fix="multiply at every step"
        )
