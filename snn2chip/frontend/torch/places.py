"""Which calls of neuron modules are one population, and at which step each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.nests import all_of
from snn2chip.frontend.torch.recording import Call, Recording, Ref


def handed_states(call: Call, cell: Cell) -> list[tuple[Ref, Any]]:
    """The states a neuron is called with."""
    tuples = [v for k, v in call.kwargs.items() if k not in cell.keywords and not isinstance(v, Ref)]
    flat = all_of((call.args[1:], tuples), Ref)
    named = [(v, cell.keywords[k]) for k, v in call.kwargs.items() if k in cell.keywords and isinstance(v, Ref)]
    return [*zip(flat, cell.states, strict=False), *named]


def places(recording: Recording, cells: Mapping[str, Cell]) -> dict[Call, tuple[int, int]]:
    """Where in the network a neuron module's calls are, and at which step.

    A module that is handed its state may serve several places: its calls then make one chain of states for each.
    """
    found: dict[Call, tuple[int, int]] = {}
    counts: dict[str, int] = {}
    handed = {
        c: [ref.call for ref, _ in handed_states(c, cells[c.module])] for c in recording.calls if c.kind == "neuron"
    }
    ever = {call.module for call, given in handed.items() if given}
    for call, given in handed.items():
        before = next((c for c in given if c in found and c.module == call.module), None)
        if before is not None:
            place, step = found[before]
            found[call] = place, step + 1
        elif given or (call.module in ever and not cells[call.module].carries):
            found[call] = counts.setdefault(call.module, 0), 0
            counts[call.module] += 1
        else:
            found[call] = 0, call.index
    return found
