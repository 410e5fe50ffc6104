"""Counts times a named table. One sum never mixes two tables, and what a table does not price stays unpriced.

The counts are those of the simulation (``result.counts``): synaptic operations, neuron updates and spikes on
the chip, multiply-accumulates on the host. Host work is kept apart from the chip's.

Papers and vendors price differently (papers.md §6): vendors give a figure per neuron update, papers charge
its arithmetic. A table with ``neuron_update`` is used as it stands; one without, but with ``multiplication``
and ``addition``, is charged for the operations the neuron model states (:meth:`IntegerNeuron.operations`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snn2chip.errors import UsageError
from snn2chip.ir.layers import Neuron
from snn2chip.ir.program import Program
from snn2chip.ir.target import EnergyTable
from snn2chip.simulate.result import Counts


@dataclass(frozen=True)
class Usage:
    """Operations of one layer per inference: the mean over samples of the sum over T.

    Args:
        spikes, synops, neuron_updates: on the chip.
        multiplications, additions: what the neuron updates consist of.
        macs: multiply-accumulates on the host.
    """

    name: str
    spikes: float = 0.0
    synops: float = 0.0
    neuron_updates: float = 0.0
    multiplications: float = 0.0
    additions: float = 0.0
    macs: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Energy of one inference under one table, in pJ.

    Args:
        table, title, basis: the table's name and what its figures are.
        layers: layer → quantity → pJ; None where the table has no figure for a quantity that occurs.
        chip, host: sums of what is priced; None where nothing of it is, though it occurs.
        unpriced: quantities that occur and that the table does not price.
        sources: entry of the table → where its figure was read.
    """

    table: str
    title: str
    basis: str
    layers: Mapping[str, Mapping[str, float | None]]
    chip: float | None
    host: float | None
    unpriced: tuple[str, ...]
    sources: Mapping[str, str]


_HOST = ("macs",)
_QUANTITIES = ("synops", "neuron_updates", "spikes", *_HOST)
_ENTRY = {"synops": "synop", "neuron_updates": "neuron_update", "spikes": "spike", "macs": "mac"}


def usage(program: Program, counts: Mapping[str, Counts]) -> tuple[Usage, ...]:
    """What every layer of ``program`` did per inference; layers that do nothing countable are left out.

    Args:
        counts: ``result.counts`` of a simulation of ``program``.
    """
    found = []
    for name, count in counts.items():
        per_sample = {f: float(getattr(count, f).sum(axis=1).mean()) for f in _QUANTITIES}
        layer = program[name].layer
        if isinstance(layer, Neuron):
            each = layer.model.operations()
            per_sample["multiplications"] = per_sample["neuron_updates"] * each.multiplications
            per_sample["additions"] = per_sample["neuron_updates"] * each.additions
        if any(per_sample.values()):
            found.append(Usage(name, **per_sample))
    return tuple(found)


def energy(program: Program, used: tuple[Usage, ...], table: str | EnergyTable) -> Cost:
    """The energy of one inference under one table of the program's target.

    Raises:
        UsageError: the target has no table of that name.
    """
    if isinstance(table, str):
        known = {t.name: t for t in program.target.energy}
        if table not in known:
            raise UsageError(
                f"the target has no energy table {table!r}", fix=f"use one of {', '.join(known) or 'none'}"
            )
        table = known[table]
    layers = {use.name: {q: _price(use, q, table) for q in _QUANTITIES if getattr(use, q)} for use in used}
    unpriced = tuple(q for q in _QUANTITIES if any(q in parts and parts[q] is None for parts in layers.values()))
    prefix = f"energy.{table.name}.picojoules."
    sources = {k.removeprefix(prefix): v for k, v in program.target.sources.items() if k.startswith(prefix)}
    chip, host = (
        _total([parts.get(q, 0.0) for parts in layers.values() for q in part if q in parts])
        for part in ([q for q in _QUANTITIES if q not in _HOST], _HOST)
    )
    return Cost(table.name, table.title, table.basis, layers, chip, host, unpriced, sources)


def _price(use: Usage, quantity: str, table: EnergyTable) -> float | None:
    figures = table.picojoules
    if _ENTRY[quantity] in figures:
        return float(getattr(use, quantity)) * figures[_ENTRY[quantity]]
    if quantity == "neuron_updates" and {"multiplication", "addition"} <= set(figures):
        return use.multiplications * figures["multiplication"] + use.additions * figures["addition"]
    return None


def _total(parts: list[float | None]) -> float | None:
    priced = [part for part in parts if part is not None]
    return None if parts and not priced else float(sum(priced))
