"""Cut the operations of a neuron out of a rolled recording, and put a call of the neuron in their place."""

from __future__ import annotations

import torch

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.context import place
from snn2chip.frontend.torch.nests import mapped
from snn2chip.frontend.torch.opnames import COMPARISONS, computes_across, translated
from snn2chip.frontend.torch.plain.recurrences import Recurrence
from snn2chip.frontend.torch.plain.region import Region, Site
from snn2chip.frontend.torch.plain.rolled import Rolled
from snn2chip.frontend.torch.recording import Call, Ref, drawn
from snn2chip.ir.graph import Source


def region_of(rolled: Rolled, recurrence: Recurrence) -> Region:
    """The operations of a recurrence at every step, with what they read and what is read of them.

    Raises:
        S2CError: they are no elementwise code with one input, or start from random numbers.
    """
    runs = [
        sorted((c for s in recurrence.sites if (c := rolled.runs[s][t]) is not None), key=rolled.calls.index)
        for t in range(rolled.steps)
    ]
    _refuse_layers_inside(runs[-1])
    _refuse_random_start(runs[0])
    own = {id(c) for run in runs for c in run}
    parts = _parts(rolled, runs[-1], own)
    # What is the same at every step is added up once.
    sums = {refs: _sum(rolled, refs, runs[-1][0]) for refs in dict.fromkeys(parts)}
    inputs = [sums[refs] for refs in parts]
    sites = {id(c): rolled.site[id(c)] for run in runs for c in run}
    outputs = _outputs(rolled, runs[-1], own, recurrence.compares)
    return Region(runs, sites, inputs, parts, outputs, rolled.steps, recurrence.compares)


def _refuse_layers_inside(run: list[Call]) -> None:
    across = next((c for c in run if computes_across(c) or c.kind == "neuron"), None)
    if across is not None:
        raise S2CError(
            "a neuron's spikes come back to it through a layer",
            where=place(across),
            why="recurrent connections written as plain code are not traced",
            fix="put the neuron's update into a module of its own, outside of the layer",
        )


def _refuse_random_start(run: list[Call]) -> None:
    draw = next((call for c in run for ref in c.refs() if (call := drawn(ref)) is not None), None)
    if draw is not None:
        raise S2CError(
            "a neuron's state starts from random numbers",
            where=str(draw.source),
            why="every run of a sample gives something else",
            fix="start it from zeros; without editing the model, let run= call it under "
            "unittest.mock.patch('torch.rand', torch.zeros)",
        )


# ---------------------------------------------------------------------- inputs


def _parts(rolled: Rolled, last: list[Call], own: set[int]) -> list[tuple[Ref, ...]]:
    """Per step, the tensors from outside that make up the input: what synapses bring, and biases in the neuron's line.

    Moving them out of the region as one sum changes no more than the order of additions.
    """
    outside = _synaptic(rolled, last, own)
    entries = sorted((_at_every_step(rolled, ref, last) for ref in outside), key=lambda e: e.count(None))
    if None in entries[0]:
        raise S2CError(
            "a recurrence has no input at the first step",
            where=place(last[0]),
            why="a neuron has one input at every step of a sample",
            fix="start the state from zeros, and let the loop give it its input at every step",
        )
    entries += [_at_every_step(rolled, ref, last) for ref in _offsets(rolled, outside, last, own)]
    return [tuple(ref for entry in entries if (ref := entry[t]) is not None) for t in range(rolled.steps)]


def _synaptic(rolled: Rolled, last: list[Call], own: set[int]) -> list[Ref]:
    """The computed values that a step reads from outside; several must be added up before anything else happens."""
    found = dict.fromkeys(r for c in last for r in c.refs() if id(r.call) not in own and r.call.depends_on_data)
    if not found or (len(found) > 1 and not set.intersection(*(_additions(rolled, ref, last) for ref in found))):
        raise S2CError(
            f"a recurrence reads {len(found)} computed values",
            where=place(last[0]),
            why="a neuron has one input, the sum of its synapses",
            fix="put the neuron's update into a module of its own",
        )
    return list(found)


def _offsets(rolled: Rolled, outside: list[Ref], last: list[Call], own: set[int]) -> list[Ref]:
    """The constants that are added to what a step reads from outside: biases that stand in the neuron's line."""
    sums = set.intersection(*(_additions(rolled, ref, last) for ref in outside))
    constants = dict.fromkeys(r for c in last if id(c) in sums for r in c.refs() if not r.call.depends_on_data)
    return [ref for ref in constants if id(ref.call) not in own]


def _additions(rolled: Rolled, ref: Ref, run: list[Call]) -> set[int]:
    """The additions of a step that a value goes through before anything else is done with it."""
    found: set[int] = set()
    readers = [c for c in rolled.readers.get(id(ref.call), []) if c in run]
    while len(readers) == 1 and translated(readers[0]) == "add" and not readers[0].kwargs:
        found.add(id(readers[0]))
        readers = rolled.readers.get(id(readers[0]), [])
    return found


def _at_every_step(rolled: Rolled, ref: Ref, last: list[Call]) -> list[Ref | None]:
    """What the region reads at every step where the last one reads ``ref``."""
    steps = rolled.steps
    if rolled.step.get(id(ref.call), steps - 1) < steps - 1:
        # It is a value of an earlier step: a current that moves the membrane one step late.
        reader = next(call for call in last if ref in call.refs())
        place_of = reader.operands().index(ref)
        readers = rolled.runs[rolled.site[id(reader)]]
        return [None if call is None else _operand(rolled, call, place_of) for call in readers]
    if len(ref.call.values) == steps and ref.out == steps - 1 > 0:
        # The steps of a tensor that was taken apart before the loop.
        return [Ref(ref.call, step) for step in range(steps)]
    calls = rolled.runs.get(rolled.site.get(id(ref.call), ()), [ref.call] * steps)
    return [None if call is None else Ref(call, ref.out) for call in calls]


def _operand(rolled: Rolled, call: Call, place_of: int) -> Ref | None:
    """An operand; a constant becomes one of its own, as other states may start from the same zeros."""
    leaf = call.operands()[place_of]
    if not isinstance(leaf, Ref) or leaf.call.depends_on_data:
        return leaf if isinstance(leaf, Ref) else None
    made = Call("const", "const", None, (), {}, [leaf.call.values[leaf.out]], leaf.call.module, leaf.call.source)
    # In front of every step: the neuron is called where its input is there.
    rolled.start_with(made)
    call.read({place_of: Ref(made)})
    return Ref(made)


def _sum(rolled: Rolled, parts: tuple[Ref, ...], reader: Call) -> Ref:
    """One value in place of the parts that a neuron adds up."""
    total = parts[0]
    for i, part in enumerate(parts[1:]):
        args = (total, part)
        value = torch.add(*(ref.call.values[ref.out] for ref in args))
        site = ("sum", i, *reader.site)
        call = Call("op", "add", torch.add, args, {}, [value], total.call.module, reader.source, site)
        call.depends_on_data = any(ref.call.depends_on_data for ref in args)
        rolled.calls.insert(1 + max(rolled.calls.index(ref.call) for ref in args), call)
        total = Ref(call)
    return total


# ---------------------------------------------------------------------- outputs


def _outputs(rolled: Rolled, last: list[Call], own: set[int], compares: bool) -> list[tuple[Site, int]]:
    """(site, output) of what is read outside, spikes first."""
    read = [ref for call in rolled.calls if id(call) not in own for ref in call.refs()]
    used = {(rolled.site[id(r.call)], r.out) for r in (*read, *rolled.returned()) if id(r.call) in own}
    if compares and not any(_binary(rolled, *key) for key in used):
        # Only the membrane is read outside: what it is compared by tells when it fires.
        comparisons = ((rolled.site[id(c)], 0) for c in last if c.name in COMPARISONS)
        used |= {key for key in comparisons if _binary(rolled, *key)}
    return sorted(used, key=lambda key: not _binary(rolled, *key))


def _binary(rolled: Rolled, site: Site, out: int) -> bool:
    values = [call.values[out] for call in rolled.runs[site] if call is not None]
    return all(bool(((v == 0) | (v == 1)).all()) for v in values)


# ---------------------------------------------------------------------- in their place


def replace(rolled: Rolled, region: Region, name: str) -> dict[tuple[int, int], Ref]:
    """Put one neuron call per step where the region's operations were; returns what became of their outputs."""
    moved: dict[tuple[int, int], Ref] = {}
    after: dict[int, list[Call]] = {}
    for step, (run, entry) in enumerate(zip(region.runs, region.inputs, strict=True)):
        at = {region.sites[id(c)]: c for c in run}
        found = [(at[site], out) for site, out in region.outputs]
        values = [call.values[out].to(region.entry(0).dtype) for call, out in found]
        ports = tuple(str(i) for i in range(len(values)))
        source = Source(name, region.source.file, region.source.line)
        neuron = Call("neuron", "neuron", None, (entry,), {}, values, name, source, (), step, ports, True)
        after.setdefault(id(entry.call), []).append(neuron)
        moved.update({(id(call), out): Ref(neuron, i) for i, (call, out) in enumerate(found)})

    def now(ref: Ref) -> Ref:
        return moved.get((id(ref.call), ref.out), ref)

    own = {id(c) for run in region.runs for c in run}
    calls: list[Call] = []
    for call in rolled.calls:
        calls += [] if id(call) in own else [call]
        calls += after.get(id(call), [])
    for call in calls:
        call.args, call.kwargs = mapped((call.args, call.kwargs), Ref, now)
        call.depends_on_data |= any(ref.call.depends_on_data for ref in call.refs())
    rolled.calls = calls
    rolled.output = mapped(rolled.output, Ref, now)
    return moved
