"""Which cycles of a rolled recording are neurons: those that compare, and those that integrate without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from snn2chip.frontend.torch.opnames import COMPARISONS, computes_across, translated
from snn2chip.frontend.torch.plain.region import Site
from snn2chip.frontend.torch.plain.rolled import Rolled
from snn2chip.frontend.torch.recording import Call
from snn2chip.ir.cycles import components

Cycles = Mapping[Site, frozenset[Site]]


class Recurrence(NamedTuple):
    """The operations that may be one neuron's; ``compares``: it fires."""

    sites: set[Site]
    compares: bool


def cycles_of(rolled: Rolled) -> Cycles:
    """For every site on a cycle, the sites of its cycles (strongly connected components of the last step)."""
    own = [site for site, calls in rolled.runs.items() if (c := calls[-1]) and _elementwise(c)]
    reads = {site: rolled.reads(site).intersection(own) for site in own}
    return {s: c for c in components(reads) if len(c) > 1 or any(s in reads[s] for s in c) for s in c}


def recurrences(rolled: Rolled, cycles: Cycles) -> list[Recurrence]:
    """Recurrences that compare, then those that leak without."""
    firing: list[set[Site]] = []
    for site, calls in rolled.runs.items():
        last = calls[-1]
        if last is None or last.name not in COMPARISONS or not last.depends_on_data or any(site in f for f in firing):
            continue
        sites = _with_currents(rolled, _membrane(rolled, site, cycles), cycles)
        # A membrane may be compared twice: for the spike, and for what is kept.
        same = [other for other in firing if other & sites]
        firing = [*(other for other in firing if other not in same), sites.union(*same)]
    done = set[Site]().union(*firing)
    leaking = [c for c in dict.fromkeys(cycles.values()) if not c & done and _leaks(rolled, c)]
    grown = {cycle: _with_currents(rolled, set(cycle), cycles) for cycle in leaking}
    driving = {c for c in grown if any(c <= sites for driven, sites in grown.items() if driven is not c)}
    return [
        *(Recurrence(sites, True) for sites in firing),
        *(Recurrence(sites, False) for cycle, sites in grown.items() if cycle not in driving),
    ]


def _elementwise(call: Call) -> bool:
    return call.kind == "op" and not computes_across(call)


def _membrane(rolled: Rolled, comparison: Site, cycles: Cycles) -> set[Site]:
    """The cycle a comparison is on, or reads through elementwise operations, and what makes it a number."""
    sites = {comparison}
    pending = [comparison]
    while pending:
        site = pending.pop()
        if site in cycles:
            sites |= cycles[site]
            continue
        for before in rolled.reads(site):
            call = rolled.runs[before][-1]
            near = before in cycles or rolled.reads(before) & set(cycles)
            if before not in sites and call is not None and _elementwise(call) and near:
                sites.add(before)
                pending.append(before)
    for reader in rolled.readers.get(id(rolled.runs[comparison][-1]), []):
        if id(reader) in rolled.site and _gives_number(reader):
            sites.add(rolled.site[id(reader)])
    return sites


def _gives_number(call: Call) -> bool:
    """Whether an operation that reads a comparison casts it, or chooses one of two constants by it."""
    chooses = call.name == "where" and sum(ref.call.depends_on_data for ref in call.refs()) == 1
    return chooses or call.name in ("float", "to", "type", "type_as")


def _with_currents(rolled: Rolled, sites: set[Site], cycles: Cycles) -> set[Site]:
    """These and the synaptic currents that drive them: integrators that nothing else reads."""
    while True:
        for before in {s for site in sites for s in rolled.reads(site)} - sites:
            current = cycles.get(before) or frozenset(s for b in rolled.reads(before) for s in cycles.get(b, ()))
            group = {before, *current} - sites
            if current and not current & sites and _private(rolled, group, sites):
                sites = sites | group
                break
        else:
            return sites


def _private(rolled: Rolled, group: set[Site], sites: set[Site]) -> bool:
    """Whether a group of elementwise operations is read by itself and these sites only."""
    calls = [c for site in group for c in rolled.runs[site] if c is not None]
    alone = all(_elementwise(c) and c.name not in COMPARISONS for c in calls)
    readers = [r for c in calls for r in rolled.readers.get(id(c), [])]
    given = {id(ref.call) for ref in rolled.returned()}
    inside = all(rolled.site.get(id(r)) in group | sites for r in readers)
    return alone and inside and not any(id(c) in given for c in calls)


def _leaks(rolled: Rolled, cycle: frozenset[Site]) -> bool:
    """Whether a cycle does more to its value than add to it: a plain sum over time is a read-out."""
    calls = [c for site in cycle if (c := rolled.runs[site][-1]) is not None]
    return all(c.depends_on_data for c in calls) and any(translated(c) not in ("add", "sub") for c in calls)
