"""The source of a kernel that looks up its sums, written from the traced integer step of the neuron."""

from __future__ import annotations

from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.populations.codegen import BLOCK, Body, Source, WayIn, entered
from snn2chip.simulate.fast.populations.symbolic import Ranges, Step


def fused_source(step: Step, ranges: Ranges) -> Source:
    """The kernel of a population that looks up its sums, parameters are one for each channel.

    ``kernel(first, carried, lanes, batch, steps, parts, places, starts, distances, weights, tables, offsets, sums,
    total, spikes, words, row, to, begin, stop, band, <live states>, <starts>, <params>)`` for the places from ``begin``
    to ``stop``. ``total`` and ``spikes`` have room for ``band`` places; live states are [channels, places·batch] where
    they are ``carried`` to later steps, else scratch [1, BLOCK]; starts and parameters are [channels]. Of the rest
    ``population.py`` tells.

    Raises:
        DoesNotFitError: 32 bits are not proved to suffice.
    """
    live, body = step.live, Body(step, ranges, 32, WayIn((False,)), "p{}_")
    new = {name: body.value(step.states[name]) for name in live}
    out = body.value(step.out)
    scalars = [*(f"start_{name}" for name in live), *(f"p{i}" for i in body.params)]
    args = [*(f"x_{name}" for name in live), *scalars]
    lines = [
        "from numpy import int32, uint16",
        "",
        compiled.importing("snn2chip.simulate.fast.fused.lookup", "GAP", "look_up", "merge"),
        "",
        "",
        "def kernel(first, carried, lanes, batch, steps, parts, places, starts, distances, weights, tables, offsets,",
        f"           {', '.join(['sums, total, spikes, words, row, to, begin, stop, band', *args])}):",
        "    channels = parts[0, 3]",
        "    planes = lanes // batch",
        "    for lo in range(begin, stop, band):",
        "        count = min(band, stop - lo)",
        "        size = count * batch",
        "        step = size + GAP",
        "        for block in range(starts.shape[1] - 1):",
        "            for i in range(len(parts)):",
        "                k, end = starts[i, block], starts[i, block + 1]",
        "                look_up(parts[i, 0], parts[i, 1], places[i, lo : lo + count], weights.ctypes.data + 40 * k,",
        "                        distances[k:end], parts[i, 2], i == 0, lanes, batch, tables, offsets, sums, total)",
        "            for c in range(4 * block, min(4 * block + 4, channels)):",
        *(f"                {name}_ = {name}[c]" for name in scalars),
        f"                for b in range(0, size, {BLOCK}):",
        f"                    n = min({BLOCK}, size - b)",
        "                    at = lo * batch + b if carried else 0",
        "                    of = c if carried else 0",
        *(f"                    x_{name}_ = x_{name}[of, at : at + n]" for name in live),
        "                    if first:",
        "                        for i in range(n):",
        *(f"                            x_{name}_[i] = start_{name}_" for name in live),
        *([] if live else ["                            pass"]),
        "                    for t in range(steps):",
        "                        from_ = ((c - 4 * block) * planes + t) * step + b",
        "                        a0_ = total[from_ : from_ + n]",
        "                        out_ = spikes[t * step + b : t * step + b + n]",
        "                        for i in range(n):",
        *(f"                            {entered(name)} = x_{name}_[i]" for name in live),
        *(f"                            {line}" for line in body.lines),
        *(f"                            x_{name}_[i] = {new[name]}" for name in live),
        f"                            out_[i] = uint16({out})",
        "                merge(spikes, words, row, to[lo : lo + count], c, lanes, batch)",
        "",
    ]
    return Source("\n".join(lines), 32, live, (), body.params)
