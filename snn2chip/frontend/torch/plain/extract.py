"""Every neuron written as plain code, identified and replaced by calls of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.context import place, refuse_random
from snn2chip.frontend.torch.identify import Probe, identify, identify_integrator
from snn2chip.frontend.torch.opnames import COMPARISONS
from snn2chip.frontend.torch.plain.cutting import region_of, replace
from snn2chip.frontend.torch.plain.first_step import begin
from snn2chip.frontend.torch.plain.recurrences import cycles_of, recurrences
from snn2chip.frontend.torch.plain.region import Region, StepModule
from snn2chip.frontend.torch.plain.rolled import Rolled
from snn2chip.frontend.torch.recording import Recording


def thresholds(recording: Recording) -> dict[str, int]:
    """Lines that compare traced data outside any known neuron → how often they ran, per place that calls them.

    Raises:
        S2CError: what is compared was drawn at random.
    """
    compared = [c for c in recording.calls if c.name in COMPARISONS]
    if not any(c.depends_on_data for c in compared):
        for call in compared:
            for ref in call.refs():
                refuse_random(ref, place(call))
    counts = Counter(c.site for c in compared)
    # At the first step a membrane may still be a constant.
    return {place(c): counts[c.site] for c in compared if c.depends_on_data}


def extract(recording: Recording, steps: int, known: Mapping[str, Cell]) -> tuple[Recording, dict[str, Cell]]:
    """Replace every neuron written as plain code by a call of it.

    Args:
        known: neurons found so in an earlier recording of the same model, by name.

    Returns:
        The recording, and the neurons by name. A recording without such code is returned as it is.

    Raises:
        S2CError: a recurrence is no neuron that is known; the message says what was found.
    """
    if steps < 2:
        return recording, {}
    rolled = Rolled(recording, steps)
    regions = _regions(rolled)
    cells: dict[str, Cell] = {}
    # Those that are none keep their names too: the next recording must give every neuron the same one.
    named: set[str] = set()
    for i, region in enumerate(regions):
        name = region.name(named)
        named.add(name)
        cell = known.get(name) or _identified(region, name)
        if cell is None:
            continue
        cells[name] = cell
        moved = replace(rolled, region, name)
        for later in regions[i + 1 :]:
            later.follow(moved)
    return Recording(rolled.calls, recording.input, rolled.output), cells


def _regions(rolled: Rolled) -> list[Region]:
    """What may be a neuron, in the order of the network."""
    cycles = cycles_of(rolled)
    for site in cycles:
        begin(rolled, site)
    found = [region_of(rolled, recurrence) for recurrence in recurrences(rolled, cycles)]
    return sorted(found, key=lambda region: rolled.calls.index(region.runs[-1][0]))


def _identified(region: Region, name: str) -> Cell | None:
    """The neuron; None for a recurrence that neither fires nor integrates, which may be a read-out."""
    probe = Probe(StepModule(region), (region.entry(0),), region.steps)
    try:
        return identify(probe) if region.compares else identify_integrator(probe)
    except S2CError as error:
        if not region.compares:
            return None
        raise S2CError(
            f"the recurrence behind {name} is no neuron that is known",
            where=str(region.source),
            why=f"{error.what}{': ' + error.why if error.why else ''}",
            fix="put it into a module of its own and snn2chip.frontend.torch.register_neuron(YourNeuron, to_lif)",
        ) from None
