"""States that the first step of a time loop does not compute: what stands for them there.

``v = x if t == 0 else 0.9 * v + x``: what later steps read of the sum, the first reads of its input.
"""

from __future__ import annotations

import torch

from snn2chip.frontend.torch.plain.region import Site
from snn2chip.frontend.torch.plain.rolled import Rolled
from snn2chip.frontend.torch.recording import Call, Ref


def begin(rolled: Rolled, site: Site) -> None:
    """Give a state that the first step does not compute a call there, of the value that stands for it."""
    later = [call for call in rolled.runs[site] if call is not None]
    stand_in = _stand_in(rolled, later) if len(later) < rolled.steps else None
    if stand_in is None:
        return
    source = stand_in.call
    value = [source.values[stand_in.out]]
    made = Call("op", "clone", torch.clone, (stand_in,), {}, value, source.module, later[-1].source, ("first", *site))
    made.depends_on_data = True
    for reader in rolled.readers[id(source)]:
        reads = [i for i, leaf in enumerate(reader.operands()) if leaf == stand_in]
        reader.read({i: Ref(made) for i in reads if not _reads_later(rolled, reader, i, stand_in)})
    rolled.calls.insert(rolled.calls.index(source) + 1, made)
    rolled.runs[site][0], rolled.site[id(made)], rolled.step[id(made)] = made, site, 0
    rolled.find_readers()


def _stand_in(rolled: Rolled, later: list[Call]) -> Ref | None:
    """What the first step reads where the last one reads the last of these, or the next step the one before."""
    for lag, call in enumerate(reversed(later[-2:])):
        for reader in rolled.readers.get(id(call), []):
            runs = rolled.runs.get(rolled.site.get(id(reader), ()), [])
            at = runs[lag] if runs and runs[-1] is reader else None
            read, wanted = [] if at is None else at.operands(), reader.operands()
            leaf = read[wanted.index(Ref(call))] if len(read) == len(wanted) and Ref(call) in wanted else None
            if isinstance(leaf, Ref) and leaf.call.depends_on_data and leaf.call not in later:
                return leaf
    return None


def _reads_later(rolled: Rolled, reader: Call, place_of: int, first: Ref) -> bool:
    """Whether another step reads the same value there, or that of its own step: then the first does, too."""
    runs = rolled.runs.get(rolled.site.get(id(reader), ()), [])
    others = [c.operands()[place_of] for c in runs if c is not None and c is not reader] or reader.operands()
    site = rolled.site.get(id(first.call))
    same = [r for r in others if isinstance(r, Ref) and (r == first or rolled.site.get(id(r.call)) == site is not None)]
    return len(same) > (not runs)
