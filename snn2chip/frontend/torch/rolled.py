"""A recording by site and step: its cycles, and which of them are neurons written as plain code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.context import place
from snn2chip.frontend.torch.opnames import COMPARISONS, computes_across, translated
from snn2chip.frontend.torch.recorder import Call, Recording, Ref, drawn
from snn2chip.frontend.torch.region import Region, Site
from snn2chip.ir.cycles import components
from snn2chip.ir.graph import Source


class Rolled:
    """A recording by site and step."""

    def __init__(self, recording: Recording, steps: int) -> None:
        self.calls, self.output, self.steps = _used(recording), recording.output, steps
        self.starts = 0
        by_site: dict[Site, list[Call]] = {}
        for call in self.calls:
            if call.kind != "input" and call.site:
                by_site.setdefault((call.name, *call.site), []).append(call)
        # A site missing once did not run at the first step, where its operand was still a Python number.
        self.runs = {s: [None] * (steps - len(c)) + c for s, c in by_site.items() if len(c) in (steps, steps - 1)}
        self.site = {id(c): s for s, calls in self.runs.items() for c in calls if c is not None}
        self.step = {id(c): t for calls in self.runs.values() for t, c in enumerate(calls) if c is not None}
        self._find_readers()

    def _find_readers(self) -> None:
        self.readers: dict[int, list[Call]] = {}
        for call in self.calls:
            for ref in call.refs():
                self.readers.setdefault(id(ref.call), []).append(call)

    def regions(self) -> list[Region]:
        """Recurrences that compare, and those that integrate without, in the order of the network."""
        cycles = self._cycles()
        for site in cycles:
            self._begin(site)
        firing: list[set[Site]] = []
        done: set[Site] = set()
        for site, calls in self.runs.items():
            last = calls[-1]
            if last is None or last.name not in COMPARISONS or not last.depends_on_data or site in done:
                continue
            sites = self._with_currents(self._membrane(site, cycles), cycles)
            # A membrane may be compared twice: for the spike, and for what is kept.
            same = [other for other in firing if other & sites]
            firing = [*(other for other in firing if other not in same), sites.union(*same)]
            done |= sites
        found = [self._region(sites, True) for sites in firing]
        leaking = [c for c in dict.fromkeys(cycles.values()) if not c & done and self._leaks(c)]
        grown = {cycle: self._with_currents(set(cycle), cycles) for cycle in leaking}
        for cycle, sites in grown.items():
            if not any(cycle <= other for driven, other in grown.items() if driven is not cycle):
                found.append(self._region(sites, False))
        return sorted(found, key=lambda region: self.calls.index(region.runs[-1][0]))

    def _begin(self, site: Site) -> None:
        """Give a state that the first step does not compute the value that stands for it there.

        ``v = x if t == 0 else 0.9 * v + x``: what later steps read of the sum, the first reads of its input.
        """
        later = [call for call in self.runs[site] if call is not None]
        stand_in = self._stand_in(later) if len(later) < self.steps else None
        if stand_in is None:
            return
        source = stand_in.call
        value = [source.values[stand_in.out]]
        made = Call(
            "op", "clone", torch.clone, (stand_in,), {}, value, source.module, later[-1].source, ("first", *site)
        )
        made.depends_on_data = True
        for reader in self.readers[id(source)]:
            leaves, structure = pytree.tree_flatten((reader.args, reader.kwargs))
            leaves = [
                Ref(made) if leaf == stand_in and not self._reads_later(reader, i, stand_in) else leaf
                for i, leaf in enumerate(leaves)
            ]
            reader.args, reader.kwargs = pytree.tree_unflatten(leaves, structure)
        self.calls.insert(self.calls.index(source) + 1, made)
        self.runs[site][0], self.site[id(made)], self.step[id(made)] = made, site, 0
        self._find_readers()

    def _stand_in(self, later: list[Call]) -> Ref | None:
        """What the first step reads where the last one reads the last of these, or the next step the one before."""
        for lag, call in enumerate(reversed(later[-2:])):
            for reader in self.readers.get(id(call), []):
                runs = self.runs.get(self.site.get(id(reader), ()), [])
                at = runs[lag] if runs and runs[-1] is reader else None
                read, wanted = [] if at is None else _leaves(at), _leaves(reader)
                leaf = read[wanted.index(Ref(call))] if len(read) == len(wanted) and Ref(call) in wanted else None
                if isinstance(leaf, Ref) and leaf.call.depends_on_data and leaf.call not in later:
                    return leaf
        return None

    def _reads_later(self, reader: Call, place_of: int, first: Ref) -> bool:
        """Whether another step reads the same value there, or that of its own step: then the first does, too."""
        runs = self.runs.get(self.site.get(id(reader), ()), [])
        others = [_leaves(c)[place_of] for c in runs if c is not None and c is not reader] or _leaves(reader)
        site = self.site.get(id(first.call))
        same = (
            r for r in others if isinstance(r, Ref) and (r == first or self.site.get(id(r.call)) == site is not None)
        )
        return len(list(same)) > (not runs)

    def _leaks(self, cycle: frozenset[Site]) -> bool:
        """Whether a cycle does more to its value than add to it: a plain sum over time is a read-out."""
        calls = [c for site in cycle if (c := self.runs[site][-1]) is not None]
        return all(c.depends_on_data for c in calls) and any(translated(c) not in ("add", "sub") for c in calls)

    def _cycles(self) -> dict[Site, frozenset[Site]]:
        """For every site on a cycle, the sites of its cycles (strongly connected components of the last step)."""
        own = [s for s, calls in self.runs.items() if (c := calls[-1]) and c.kind == "op" and not computes_across(c)]
        reads = {site: self._reads(site).intersection(own) for site in own}
        return {s: c for c in components(reads) if len(c) > 1 or any(s in reads[s] for s in c) for s in c}

    def _reads(self, site: Site) -> set[Site]:
        call = self.runs[site][-1]
        return {self.site[id(ref.call)] for ref in call.refs() if id(ref.call) in self.site} if call else set()

    def _membrane(self, comparison: Site, cycles: Mapping[Site, frozenset[Site]]) -> set[Site]:
        """The cycle a comparison is on, or reads through elementwise operations, and what makes it a number."""
        sites = {comparison}
        pending = [comparison]
        while pending:
            site = pending.pop()
            if site in cycles:
                sites |= cycles[site]
                continue
            for before in self._reads(site):
                call = self.runs[before][-1]
                elementwise = call is not None and call.kind == "op" and not computes_across(call)
                if before not in sites and elementwise and (before in cycles or self._reads(before) & set(cycles)):
                    sites.add(before)
                    pending.append(before)
        last = self.runs[comparison][-1]
        for reader in self.readers.get(id(last), []):
            if id(reader) in self.site and _gives_number(reader):
                sites.add(self.site[id(reader)])
        return sites

    def _with_currents(self, sites: set[Site], cycles: Mapping[Site, frozenset[Site]]) -> set[Site]:
        """These and the synaptic currents that drive them: integrators that nothing else reads."""
        while True:
            for before in {s for site in sites for s in self._reads(site)} - sites:
                current = cycles.get(before) or frozenset(s for b in self._reads(before) for s in cycles.get(b, ()))
                group = {before, *current} - sites
                if current and not current & sites and self._private(group, sites):
                    sites = sites | group
                    break
            else:
                return sites

    def _private(self, group: set[Site], sites: set[Site]) -> bool:
        """Whether a group of elementwise operations is read by itself and these sites only."""
        calls = [c for site in group for c in self.runs[site] if c is not None]
        alone = all(c.kind == "op" and not computes_across(c) and c.name not in COMPARISONS for c in calls)
        readers = [r for c in calls for r in self.readers.get(id(c), [])]
        given = {id(ref.call) for ref in _refs(self.output)}
        inside = all(self.site.get(id(r)) in group | sites for r in readers)
        return alone and inside and not any(id(c) in given for c in calls)

    def _region(self, sites: set[Site], compares: bool) -> Region:
        runs = [
            sorted((c for s in sites if (c := self.runs[s][t]) is not None), key=self.calls.index)
            for t in range(self.steps)
        ]
        last = runs[-1]
        across = [c for c in last if computes_across(c) or c.kind == "neuron"]
        if across:
            raise S2CError(
                "a neuron's spikes come back to it through a layer",
                where=place(across[0]),
                why="recurrent connections written as plain code are not traced",
                fix="put the neuron's update into a module of its own, outside of the layer",
            )
        _refuse_random_start(runs[0])
        own = {id(c) for run in runs for c in run}
        outside = self._outside(last, own)
        entries = sorted((self._at_every_step(ref, last) for ref in outside), key=lambda e: e.count(None))
        if None in entries[0]:
            raise S2CError("a recurrence has no input at the first step", where=place(last[0]))
        entries += [self._at_every_step(ref, last) for ref in self._offsets(outside, last)]
        parts = [[ref for entry in entries if (ref := entry[t]) is not None] for t in range(self.steps)]
        inputs = [self._sum(refs, last[0]) for refs in parts]
        named = {id(c): self.site[id(c)] for run in runs for c in run}
        region = Region(runs, named, inputs, parts, [], self.steps, compares)
        used = {
            (self.site[id(ref.call)], ref.out)
            for call in self.calls
            if id(call) not in own
            for ref in call.refs()
            if id(ref.call) in own
        }
        used |= {(self.site[id(r.call)], r.out) for r in _refs(self.output) if id(r.call) in own}
        if compares and not any(_binary(self.runs[site], out) for site, out in used):
            # Only the membrane is read outside: what it is compared by tells when it fires.
            used |= {
                (self.site[id(c)], 0) for c in last if c.name in COMPARISONS and _binary(self.runs[self.site[id(c)]], 0)
            }
        region.outputs = sorted(used, key=lambda key: not _binary(self.runs[key[0]], key[1]))
        return region

    def _outside(self, run: list[Call], own: set[int]) -> list[Ref]:
        """What one step of a region reads from outside. Several values must be added up before anything else happens.

        Moving them out of the region as one sum changes no more than the order of additions.
        """
        found = dict.fromkeys(r for c in run for r in c.refs() if id(r.call) not in own and r.call.depends_on_data)
        if not found or (len(found) > 1 and not set.intersection(*(self._additions(ref, own) for ref in found))):
            raise S2CError(
                f"a recurrence reads {len(found)} computed values",
                where=place(run[0]),
                why="a neuron has one input, the sum of its synapses",
                fix="put the neuron's update into a module of its own",
            )
        return list(found)

    def _offsets(self, outside: list[Ref], run: list[Call]) -> list[Ref]:
        """The constants that are added to what a step reads from outside: biases that stand in the neuron's line."""
        own = {id(c) for c in run}
        sums = set.intersection(*(self._additions(ref, own) for ref in outside))
        constants = dict.fromkeys(r for c in run if id(c) in sums for r in c.refs() if not r.call.depends_on_data)
        return [ref for ref in constants if id(ref.call) not in own]

    def _additions(self, ref: Ref, own: set[int]) -> set[int]:
        """The additions of a region that a value goes through before anything else is done with it."""
        found: set[int] = set()
        readers = [c for c in self.readers.get(id(ref.call), []) if id(c) in own]
        while len(readers) == 1 and translated(readers[0]) == "add" and not readers[0].kwargs:
            found.add(id(readers[0]))
            readers = self.readers.get(id(readers[0]), [])
        return found

    def _at_every_step(self, ref: Ref, run: list[Call]) -> list[Ref | None]:
        """What the region reads at every step where the last one, ``run``, reads ``ref``."""
        if self.step.get(id(ref.call), self.steps - 1) < self.steps - 1:
            # It is a value of an earlier step: a current that moves the membrane one step late.
            reader = next(call for call in run if ref in call.refs())
            place_of = _leaves(reader).index(ref)
            readers = self.runs[self.site[id(reader)]]
            return [None if call is None else self._start(call, place_of) for call in readers]
        if len(ref.call.values) == self.steps and ref.out == self.steps - 1 > 0:
            # The steps of a tensor that was taken apart before the loop.
            return [Ref(ref.call, step) for step in range(self.steps)]
        calls = self.runs.get(self.site.get(id(ref.call), ()), [ref.call] * self.steps)
        return [None if call is None else Ref(call, ref.out) for call in calls]

    def _start(self, call: Call, place_of: int) -> Ref | None:
        """An operand; a constant becomes one of its own, as other states may start from the same zeros."""
        leaves, structure = pytree.tree_flatten((call.args, call.kwargs))
        leaf = leaves[place_of]
        if not isinstance(leaf, Ref) or leaf.call.depends_on_data:
            return leaf if isinstance(leaf, Ref) else None
        made = Call("const", "const", None, (), {}, [leaf.call.values[leaf.out]], leaf.call.module, leaf.call.source)
        # In front of every step, and in their order: the neuron is called where its input is there.
        self.starts += 1
        self.calls.insert(self.starts, made)
        leaves[place_of] = Ref(made)
        call.args, call.kwargs = pytree.tree_unflatten(leaves, structure)
        return Ref(made)

    def _sum(self, parts: list[Ref], reader: Call) -> Ref:
        """One value in place of the parts that a neuron adds up."""
        total = parts[0]
        for i, part in enumerate(parts[1:]):
            args = (total, part)
            value = torch.add(*(ref.call.values[ref.out] for ref in args))
            site = ("sum", i, *reader.site)
            call = Call("op", "add", torch.add, args, {}, [value], total.call.module, reader.source, site)
            call.depends_on_data = any(ref.call.depends_on_data for ref in args)
            self.calls.insert(1 + max(self.calls.index(ref.call) for ref in args), call)
            total = Ref(call)
        return total

    def replace(self, region: Region, name: str) -> dict[tuple[int, int], Ref]:
        """Put one neuron call per step where the region's operations were; returns what became of their outputs."""
        moved: dict[tuple[int, int], Ref] = {}
        own = {id(c) for run in region.runs for c in run}
        after: dict[int, list[Call]] = {}
        for step, (run, entry) in enumerate(zip(region.runs, region.inputs, strict=True)):
            at = {region.sites[id(c)]: c for c in run}
            found = [at[site] for site, _ in region.outputs]
            values = [c.values[i].to(region.entry(0).dtype) for c, (_, i) in zip(found, region.outputs, strict=True)]
            ports = tuple(str(i) for i in range(len(values)))
            source = Source(name, region.source.file, region.source.line)
            call = Call("neuron", "neuron", None, (entry,), {}, values, name, source, (), step, ports, True)
            after.setdefault(id(entry.call), []).append(call)
            moved.update(
                {(id(c), i): Ref(call, k) for k, (c, (_, i)) in enumerate(zip(found, region.outputs, strict=True))}
            )

        def rebind(leaf: Any) -> Any:
            return moved.get((id(leaf.call), leaf.out), leaf) if isinstance(leaf, Ref) else leaf

        calls: list[Call] = []
        for call in self.calls:
            if id(call) not in own:
                calls.append(call)
            calls += after.get(id(call), [])
        for call in calls:
            call.args, call.kwargs = pytree.tree_map(
                rebind, (call.args, call.kwargs), is_leaf=lambda a: isinstance(a, Ref)
            )
            call.depends_on_data |= any(ref.call.depends_on_data for ref in call.refs())
        self.calls = calls
        self.output = pytree.tree_map(rebind, self.output, is_leaf=lambda a: isinstance(a, Ref))
        return moved


def _leaves(call: Call) -> list[Any]:
    return pytree.tree_leaves((call.args, call.kwargs))


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


def _gives_number(call: Call) -> bool:
    """Whether an operation that reads a comparison casts it, or chooses one of two constants by it."""
    chooses = call.name == "where" and sum(ref.call.depends_on_data for ref in call.refs()) == 1
    return chooses or call.name in ("float", "to", "type", "type_as")


def _used(recording: Recording) -> list[Call]:
    """The calls that something comes of at any step: what the model only looks at is no output of a neuron."""
    alike: dict[Site, list[Call]] = {}
    for call in recording.calls:
        alike.setdefault((call.name, *call.site), []).append(call)
    pending = [*(ref.call for ref in _refs(recording.output)), *(c for c in recording.calls if c.kind == "neuron")]
    used = {id(recording.input)}
    while pending:
        call = pending.pop()
        if id(call) not in used:
            used.add(id(call))
            pending += [ref.call for ref in call.refs()]
            pending += alike[(call.name, *call.site)] if call.site else ()
    return [call for call in recording.calls if id(call) in used]


def _refs(tree: Any) -> list[Ref]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Ref)]


def _binary(calls: list[Call | None], out: int) -> bool:
    values = [c.values[out] for c in calls if c is not None]
    return all(bool(((v == 0) | (v == 1)).all()) for v in values)
