"""Recurrence written around neurons: what a step reads of an earlier one becomes a late input.

Every recorded operation of a time loop belongs to a step. An operand that was computed ``lag`` steps before, and was
zero in the first ``lag`` steps, is the delayed value of a connection. It is replaced by a call of kind "late", whose
k-th value is what is read at step k: the rest of the conversion then sees operations of one step only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.context import place
from snn2chip.frontend.torch.nests import all_of, mapped
from snn2chip.frontend.torch.places import places
from snn2chip.frontend.torch.recording import Call, Recording, Ref

_Site = tuple[Any, ...]
_Position = tuple[_Site, int]


def with_late_inputs(recording: Recording, steps: int, cells: Mapping[str, Cell]) -> Recording | None:
    """The recording with operands of earlier steps as late inputs; None if there are none.

    Raises:
        S2CError: a recurrence that starts from other values than zeros, or reaches back differently at some step.
    """
    work = _Steps(recording, steps, cells)
    work.complete()
    late = work.late_inputs()
    if not late:
        return None
    calls = [recording.input, *late, *(call for call in work.calls if call is not recording.input)]
    for call in calls:
        call.depends_on_data |= any(ref.call.depends_on_data for ref in call.refs())
    return Recording(calls, recording.input, recording.output)


class _Steps:
    """A recording whose calls know their step."""

    def __init__(self, recording: Recording, steps: int, cells: Mapping[str, Cell]) -> None:
        self.calls, self.steps, self.cells = list(recording.calls), steps, cells
        self.runs: dict[_Site, list[Call]] = {}
        for call in self.calls:
            if call.kind == "op" and call.site:
                self.runs.setdefault(_site(call), []).append(call)
        self.at: dict[int, int] = {}
        for calls in self.runs.values():
            if len(calls) == steps:
                self.at.update({id(call): step for step, call in enumerate(calls)})
        where = places(recording, cells)
        self.sites = {id(call): ("neuron", call.module, place) for call, (place, _) in where.items()}
        called = Counter(self.sites.values())
        for call in self.calls:
            if call.kind == "neuron" and cells[call.module].time_axis is None and called[self.sites[id(call)]] == steps:
                self.at[id(call)] = where[call][1]
            elif call.kind == "op" and id(call) not in self.at:
                self._place(call)
        self.feeding = self._feeding()

    def step(self, ref: Ref) -> int | None:
        """The step a value belongs to, where it is known."""
        if ref.call.name == "unbind" and len(ref.call.values) == self.steps:
            return ref.out
        return self.at.get(id(ref.call))

    def _place(self, call: Call) -> None:
        """The step of an operation that does not run at every step.

        It is the latest one it reads from: a layer skipped in the first steps, as there were no spikes yet, is thus
        computed when the spikes are, and what it gives is late. Beside data without a step, count from the last run.
        What reads one value of all steps collects them, and is part of none.
        """
        data = [ref for ref in call.refs() if ref.call.depends_on_data]
        if (
            max(Counter(_site(ref.call) for ref in data if ref.call.kind != "input").values(), default=0)
            == self.steps
            > 1
        ):
            return
        read = [step for ref in data if (step := self.step(ref)) is not None]
        runs = self.runs.get(_site(call), [])
        if read and len(read) < len(data) and len(runs) < self.steps:
            self.at[id(call)] = self.steps - len(runs) + runs.index(call)
        elif read:
            self.at[id(call)] = max(read)

    def _feeding(self) -> set[int]:
        """The calls that a neuron's input depends on, through no other neuron: elsewhere, steps meet in a read-out."""
        found: set[int] = set()
        pending = [ref.call for call in self.calls if call.kind == "neuron" for ref in _input(call)]
        while pending:
            call = pending.pop()
            if call.kind == "op" and id(call) not in found:
                found.add(id(call))
                pending += [ref.call for ref in call.refs()]
        return found

    def _operands(self) -> dict[_Position, dict[int, tuple[Call, Any]]]:
        """Place in the program and of the argument → per step the call there, and what it reads."""
        found: dict[_Position, dict[int, tuple[Call, Any]]] = {}
        for call in self.calls:
            if id(call) not in self.at or not (call.kind == "neuron" or id(call) in self.feeding):
                continue
            leaves = call.operands()
            own = list(_input(call)) if call.kind == "neuron" else leaves
            for i, leaf in enumerate(leaves):
                if any(leaf is one for one in own):
                    found.setdefault((self.sites.get(id(call)) or _site(call), i), {})[self.at[id(call)]] = (call, leaf)
        return found

    # ------------------------------------------------------------------ operations skipped in the first steps

    def complete(self) -> None:
        """Write out additions that the first steps left away because there was nothing to add yet."""
        for position, found in self._operands().items():
            last = max(found)
            _, whole = found[last]
            for step in sorted(found):
                call, actual = found[step]
                if isinstance(whole, Ref) and isinstance(actual, Ref) and step < last:
                    added: list[Call] = []
                    completed = self._completed(whole, actual, step, last, added)
                    if added and completed is not None and torch.equal(_value(completed), _value(actual)):
                        where = self.calls.index(call)
                        self.calls[where:where] = added
                        call.read({position[1]: completed})
                        self.feeding |= {id(c) for c in added}

    def _completed(self, whole: Ref, actual: Ref, step: int, last: int, added: list[Call]) -> Ref | None:
        """``whole`` of step ``last`` as it would have been at ``step``, where ``actual`` was read in its place.

        Its late operands are taken as zeros. None where it is no such thing.
        """
        if whole.call is actual.call or (whole.call.site and _site(whole.call) == _site(actual.call)):
            return actual
        if whole.call.kind != "op" or len(self.runs.get(_site(whole.call), ())) > last:
            return None
        others: dict[int, Ref] = {}
        for i, leaf in enumerate(whole.call.operands()):
            if not isinstance(leaf, Ref) or self.step(leaf) is None:
                continue
            if self.step(leaf) != last:
                zeros = [torch.zeros_like(_value(leaf))]
                others[i] = Ref(Call("const", "const", None, (), {}, zeros, leaf.call.module, leaf.call.source))
            else:
                before = self._completed(leaf, actual, step, last, added)
                if before is None:
                    return None
                others[i] = before
        call = replace(whole.call, modified=False)
        call.read(others)
        call.values = _computed(call)
        added.append(call)
        self.at[id(call)] = step
        return Ref(call, whole.out)

    # ------------------------------------------------------------------ operands of earlier steps

    def late_inputs(self) -> list[Call]:
        """Replace the operands that earlier steps computed; one call for each place that reads one."""
        made = []
        for (_, i), found in self._operands().items():
            lags = {
                step: step - before
                for step, (_, leaf) in found.items()
                if isinstance(leaf, Ref) and (before := self.step(leaf)) is not None and before < step
            }
            if not lags:
                continue
            call = self._late(found, lags)
            for step, (reader, _) in found.items():
                reader.read({i: Ref(call, step)})
            made.append(call)
        return made

    def _late(self, found: Mapping[int, tuple[Call, Any]], lags: Mapping[int, int]) -> Call:
        last, _ = found[max(found)]
        lag = max(lags.values())
        for step, (call, leaf) in found.items():
            if step >= lag and lags.get(step) != lag:
                reached = {k: f"{n} steps back" for k, n in lags.items()}
                raise S2CError(
                    "a recurrent connection does not reach back by the same number of steps throughout",
                    where=place(call),
                    why=f"at step {step} it reads {reached.get(step, 'the same step')}, at step {max(lags)} "
                    f"{reached[max(lags)]}",
                    fix="a graph is one step, repeated: feed back the value of the step a fixed number before",
                )
            if step < lag and not _is_zero(leaf):
                computed = isinstance(leaf, Ref) and leaf.call.depends_on_data
                raise S2CError(
                    "a recurrent connection starts from "
                    + ("a value computed from the data" if computed else "values other than zero"),
                    where=place(call),
                    why=f"what it reads at step {step} stands for spikes before the first step, and there were none",
                    fix="start it from zeros; an offset belongs into the bias of a layer",
                )
        values = [_value(found.get(k, found[max(found)])[1]) for k in range(self.steps)]
        before = tuple(found[k][1] if k in found and k >= lag else None for k in range(self.steps))
        return Call("late", "late", None, before, {"lag": lag}, values, last.module, last.source, depends_on_data=True)


def _site(call: Call) -> _Site:
    return (call.name, *call.site)


def _input(call: Call) -> Iterator[Ref]:
    """What enters a neuron: its first tensor, the others are its states."""
    yield from [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Ref)][:1]


def _value(leaf: Any) -> Tensor:
    return leaf.call.values[leaf.out] if isinstance(leaf, Ref) else torch.as_tensor(leaf)


def _is_zero(leaf: Any) -> bool:
    if isinstance(leaf, Ref):
        return not leaf.call.depends_on_data and leaf.call.name != "random" and not bool(_value(leaf).any())
    return isinstance(leaf, (int, float)) and leaf == 0


def _computed(call: Call) -> list[Tensor]:
    """What an operation gives for its operands as they were recorded."""
    args, kwargs = mapped((call.args, call.kwargs), Ref, lambda ref: _value(ref).clone())
    assert call.func is not None
    with torch.no_grad():
        return all_of(call.func(*args, **kwargs), Tensor)
