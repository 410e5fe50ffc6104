"""What an inference costs: operations, energy, cores and memory."""

from __future__ import annotations

from snn2chip.report import svg, units
from snn2chip.report.blocks import Block, Figure, Json, Text, table
from snn2chip.report.units import NONE, bits, count, counted, number, percent


def operations(report: Json) -> list[Block]:
    """The counts of every layer, and their sum."""
    rows = report["operations"]
    if not rows:
        return []
    body = [
        (
            row["name"],
            row["placement"],
            number(row["synapses"]),
            number(row["synops"]),
            percent(row["activity"]),
            number(row["spikes"]),
            number(row["neuron_updates"]),
            number(row["macs"]),
        )
        for row in rows
    ]
    total = [sum(row[key] for row in rows) for key in ("synops", "spikes", "neuron_updates", "macs")]
    synops, *others = map(number, total)
    sums = ("Total", "", "", synops, "", *others)
    columns = ("Layer", "Runs on", "Synapses", "SynOps", "Active", "Spikes", "Neuron updates", "Host MACs")
    caption = (
        "Per inference, mean over the samples. One SynOp per input event and existing synapse; “active” is their share "
        "of all synapses in all time steps. Host work is kept apart."
    )
    blocks: list[Block] = [table(columns, [*body, sums], range(2, 8), caption)]
    synaptic = [row for row in rows if row["synops"]]
    if synaptic:
        values = [row["synops"] for row in synaptic]
        names = [row["name"] for row in synaptic]
        drawing = svg.bars(names, values, [number(v) for v in values], title="SynOps per layer and inference")
        blocks.append(Figure((("", drawing),), "SynOps per layer and inference."))
    return blocks


def energy(report: Json) -> list[Block]:
    """The counts times every cost table, a column each."""
    costs = report["energy"]
    if not costs:
        return []
    layers = list(dict.fromkeys(name for cost in costs for name in cost["layers"]))
    rows = [(name, *(_layer_energy(cost["layers"].get(name)) for cost in costs)) for name in layers]
    rows.append(("Chip", *(units.energy(cost["chip"]) for cost in costs)))
    rows.append(("Host", *(units.energy(cost["host"]) for cost in costs)))
    columns = ("Layer", *(cost["table"] for cost in costs))
    notes = [
        Text(
            f"{cost['table']}: {cost['title']}. {cost['basis']}"
            + (f" Not in this table: {', '.join(cost['unpriced']).replace('_', ' ')}." if cost["unpriced"] else "")
        )
        for cost in costs
    ]
    caption = "Energy per inference: the counts above times one named table a column. Columns are not to be added."
    return [table(columns, rows, range(1, len(columns)), caption), *notes]


def _layer_energy(parts: Json | None) -> str:
    """The priced part of a layer, "not in this table" where nothing of it is priced, empty where it does nothing."""
    if not parts:
        return ""
    priced = [value for value in parts.values() if value is not None]
    return units.energy(sum(priced) if priced else None)


def mapping(report: Json) -> list[Block]:
    """Cores and memory of every population, and the limits that are broken."""
    placed = report["mapping"]
    rows = [
        (
            row["name"],
            count(row["neurons"]),
            count(row["synapses"]),
            count(row["stored_weights"]),
            bits(row["memory_bits"]),
            count(row["cores"]),
            row["limit"] or NONE,
        )
        for row in placed["layers"]
    ]
    rows.append(("Total", "", "", "", bits(placed["memory_bits"]), count(placed["cores"]), ""))
    columns = ("Population", "Neurons", "Synapses", "Weights stored", "Memory", "Cores", "Limited by")
    chips = f"{counted(placed['chips'], 'chip')} of {placed['cores_per_chip']} cores. "
    blocks: list[Block] = [table(columns, rows, range(1, 6), chips + placed["basis"])]
    if placed["not_counted"]:
        blocks.append(Text("On the chip, but not counted: " + ", ".join(placed["not_counted"]) + "."))
    if report["violations"]:
        broken = [(v["layer"], v["rule"], v["found"], v["allowed"], v["fix"]) for v in report["violations"]]
        headings = ("Layer", "Limit", "Found", "Allowed", "What to do")
        blocks.append(table(headings, broken, (), "Limits of the target that the network breaks."))
    else:
        blocks.append(Text("Every limit of the target that is checked is kept."))
    return blocks
