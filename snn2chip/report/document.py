"""``report.json`` as a document: sections of tables, figures and sentences that Markdown and HTML both
draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from snn2chip.report import svg
from snn2chip.report.units import NONE, bits, count, energy, number, percent, points, share, sign

Json = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under columns; ``numeric`` columns are set flush right in figures of equal width."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing and what it shows; several small ones may share a caption."""

    drawings: tuple[tuple[str, str], ...]
    caption: str


Block = Text | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A title, the facts in a few words, and the sections."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]


def document(report: Json) -> Document:
    """The document of a report; sections that have nothing to say are left out."""
    sections = [Section(title, tuple(blocks)) for title, make in _SECTIONS if (blocks := make(report))]
    subject, target = report["subject"], report["target"]
    steps = report["time_steps"] or "any"
    return Document(
        f"{subject['model']} on {target['title']}",
        f"T = {steps}, input {_CODING[report['coding']]}. Compiled by snn2chip {report['snn2chip']}.",
        tuple(_facts(report)),
        tuple(sections),
    )


_CODING = {"direct": "the same at every step", "steps": "one frame a step"}


def _facts(report: Json) -> Iterable[tuple[str, str, str]]:
    """(label, value, remark) for the head of the page."""
    accuracy = report["accuracy"] or {}
    if "drop" in accuracy:
        fixed, drop = accuracy["fixed"], accuracy["drop"]
        yield "Accuracy in fixed point", percent(fixed["accuracy"]), f"float {percent(accuracy['float']['accuracy'])}"
        low, high = drop["interval"]
        yield "Drop", points(drop["value"]), f"95 % interval {_range(low, high)}"
    elif accuracy.get("same_prediction") is not None:
        yield "Same answer as float", percent(accuracy["same_prediction"]), f"{count(accuracy['samples'])} samples"
    layers = [row for row in report["layers"] if row["agreement"] is not None]
    if layers:
        slots, differing = (sum(row[key] for row in layers) for key in ("slots", "differing"))
        yield "Spikes equal to float", share(1 - differing / slots), f"{count(differing)} of {count(slots)} differ"
    oracles = [v for v in report["verification"] if v["ran"]]
    if oracles:
        equal = [v for v in oracles if v["equal"]]
        names = ", ".join(v["against"] for v in oracles)
        yield "Verified against", f"{len(equal)} of {len(oracles)}", names
    if report["operations"]:
        synops = sum(row["synops"] for row in report["operations"])
        yield "SynOps per inference", number(synops), f"{count(len(report['mapping']['layers']))} layers on the chip"
        if macs := [row["macs"] for row in report["operations"] if row["macs"]]:
            yield "Host MACs per inference", number(sum(macs)), f"{count(len(macs))} layers on the host"
    cores = report["mapping"]
    yield "Cores, at least", count(cores["cores"]), f"{cores['chips']} chip{'s' * (cores['chips'] != 1)}"


def _network(report: Json) -> list[Block]:
    rows = [
        (n["name"], n["kind"], "×".join(map(str, n["shape"])), n["detail"], ", ".join(n["inputs"]), n["placement"])
        for n in report["network"]
    ]
    return [_table(("Layer", "Kind", "Shape", "Detail", "Reads", "Runs on"), rows, ())]


def _passes(report: Json) -> list[Block]:
    rows = [
        (
            p["name"],
            count(len(p["changed"])),
            "exact" if p["exact"] else "approximate",
            number(p["max_deviation"]),
            f"{count(p['differing'])} of {count(p['spikes'])}",
            count(p["explained"]),
        )
        for p in report["passes"]
    ]
    caption = (
        "Every rewrite was run before and after on the calibration data. “Explained” spikes differ because a membrane "
        "stood within float rounding of its threshold, or follow from one that did."
    )
    columns = ("Pass", "Layers changed", "Promise", "Largest output deviation", "Spikes that differ", "Explained")
    return [_table(columns, rows, (1, 3, 4, 5), caption)] if rows else []


def _quantization(report: Json) -> list[Block]:
    records = report["quantization"]
    if not records:
        return []
    rows = [
        (
            q["name"],
            number(q["scale"]),
            "none" if q["threshold"] is None else count(q["threshold"]),
            share(q["threshold_error"]),
            share(q["bias_error"]),
            share(q["decay_error"]),
            share(q["spikes_differing"]),
        )
        for q in records
    ]
    names = ("Layer", "Unit", "Threshold", "Threshold error", "Bias error", "Decay error", "Calibration spikes changed")
    weights = [
        (name, q["name"], _decibel(s.get("sqnr_db")), share(s.get("clipped")), count(int(s.get("exponent", 0))))
        for q in records
        for name, s in q["synapses"].items()
    ]
    proof = [
        (
            q["name"],
            register,
            number(q["worst_case"][register]),
            number(q["observed"][register]),
            number(limit),
            "proved" if q["worst_case"][register] <= limit else "not proved",
        )
        for q in records
        for register, limit in q["register"].items()
    ]
    blocks: list[Block] = [
        _table(names, rows, range(1, 7), "What one unit of the membrane is worth, and what rounding did."),
        _table(("Synapse", "Into", "SQNR", "Clipped", "Exponent"), weights, (2, 3, 4), "Weights."),
        _table(
            ("Layer", "Register", "Worst case", "Seen", "Limit", "Overflow"),
            proof,
            (2, 3, 4),
            "Largest magnitudes: the worst any input could cause, what the calibration data caused, and the register.",
        ),
    ]
    remarks = [f"{q['name']}: {remark}." for q in records for remark in q["remarks"]]
    bars = [(name, s["sqnr_db"]) for q in records for name, s in q["synapses"].items() if s.get("sqnr_db")]
    if bars:
        names_, values = zip(*bars, strict=True)
        drawing = svg.bars(names_, values, [_decibel(v) for v in values], title="SQNR of the weights per synapse")
        blocks.append(Figure((("", drawing),), "Signal to quantization noise of the weights; 6 dB are one bit."))
    return [*blocks, *map(Text, remarks)]


def _accuracy(report: Json) -> list[Block]:
    entry = report["accuracy"]
    if entry is None:
        return []
    deviation = Text(
        f"Largest difference of an output between float and fixed point: {number(entry['output_deviation'])}, "
        f"on {count(entry['samples'])} samples."
    )
    if entry["same_prediction"] is None:
        return [deviation, Text("The outputs are no class scores, so there is no accuracy.")]
    same = Text(f"{percent(entry['same_prediction'])} of the samples get the same answer from both.")
    if "drop" not in entry:
        return [same, deviation, Text("No labels were given, so there is no accuracy.")]
    rows = [
        (
            title,
            count(entry[key]["correct"]),
            count(entry["samples"]),
            percent(entry[key]["accuracy"]),
            " to ".join(percent(v) for v in entry[key]["interval"]),
        )
        for key, title in (("float", "Float"), ("fixed", "Fixed point"))
    ]
    drop = entry["drop"]
    low, high = drop["interval"]
    sentence = (
        f"Drop: {points(drop['value'])}, 95 % interval {_range(low, high)} ({drop['method']}). "
        f"{count(drop['only_float'])} samples are right only in float, {count(drop['only_fixed'])} only in fixed "
        f"point; p = {number(drop['p_value'])} ({drop['test']})."
    )
    columns = ("Network", "Right", "Samples", "Accuracy", "95 % interval")
    return [_table(columns, rows, (1, 2, 3, 4), entry["float"]["method"] + "."), Text(sentence), same, deviation]


def _layers(report: Json) -> list[Block]:
    layers = report["layers"]
    if not layers:
        return []
    counted = "accuracy" if any(row["prefix_accuracy"] is not None for row in layers) else "same answer"
    key = "prefix_accuracy" if counted == "accuracy" else "prefix_same_prediction"
    rows = [
        (
            row["name"],
            count(row["neurons"]),
            percent(row["rate_float"]),
            percent(row["rate_fixed"]),
            share(row["agreement"]),
            share(row["own_agreement"]),
            _decibel(row["sqnr_db"]),
            percent(row[key]),
        )
        for row in layers
    ]
    columns = (
        "Population",
        "Neurons",
        "Rate, float",
        "Rate, fixed",
        "Spikes equal",
        "Equal on float input",
        "SQNR of v",
        "Accuracy up to here" if counted == "accuracy" else "Same answer up to here",
    )
    caption = (
        "Rates are spikes per neuron and step. “Equal on float input” gives the layer the float network's own spikes, "
        "so it shows this layer's rounding alone. “Up to here” runs the network in fixed point up to and including the "
        "layer, and in float after it."
    )
    blocks: list[Block] = [_table(columns, rows, range(1, 8), caption)]
    blocks += map(Text, (*_culprit(report), *_divergence(report)))
    firing = [row for row in layers if row["rate_float"] is not None]
    if firing:
        drawing = svg.pairs(
            [row["name"] for row in firing],
            [100 * row["rate_float"] for row in firing],
            [100 * row["rate_fixed"] for row in firing],
            names=("float", "fixed point"),
            title="Firing rate per layer in float and fixed point",
        )
        blocks.append(Figure((("", drawing),), "Firing rate per layer, spikes per neuron and step in %."))
    membranes = tuple(
        (
            row["name"],
            svg.histogram(m["counts"], m["low"], m["high"], 1.0, title=f"Membrane of {row['name']}"),
        )
        for row in layers
        if (m := row["membrane"])
    )
    if membranes:
        caption = (
            "Membrane after the step in fixed point, in units of the threshold (line); root scale; "
            "the outer bins hold everything beyond."
        )
        blocks.append(Figure(membranes, caption))
    return blocks


def _culprit(report: Json) -> Iterable[str]:
    found = report["culprit"]
    if found is None:
        return
    if found["layer"] is not None and found["own_agreement"] < 1:
        yield (
            f"Most spikes are lost to rounding in {found['layer']}: on the float network's own input it reproduces "
            f"{share(found['own_agreement'])} of its spike slots."
        )
    if found["answers_lost_at"] is not None:
        yield (
            f"Most answers are lost at {found['answers_lost_at']}: {count(found['answers_lost'])} of "
            f"{count(found['samples'])} samples fewer are {found['counted']} once it is in fixed point too."
        )


_SPIKE = {True: "a spike", False: "none"}


def _divergence(report: Json) -> Iterable[str]:
    first = report["first_divergence"]
    if report["layers"] and first is None:
        yield "No spike differs between float and fixed point."
    elif first is not None:
        neuron = ", ".join(map(str, first["neuron"]))
        yield (
            f"First difference: {first['layer']}, neuron ({neuron}), step {first['step']}, sample {first['sample']}: "
            f"{_SPIKE[first['spike_float']]} in float and {_SPIKE[first['spike_fixed']]} in fixed point, with "
            f"the membrane after the step at {first['v_float']:.6f} and {first['v_fixed']:.6f} thresholds."
        )


def _raster(report: Json) -> list[Block]:
    raster = report["raster"]
    if not raster.get("layers"):
        return []
    trains = [
        (r["name"], f"{count(r['neurons'])} neurons", [tuple(s) for s in r["spikes"]], -(-r["neurons"] // r["every"]))
        for r in raster["layers"]
    ]
    drawing = svg.raster(trains, raster["steps"], title="Spikes of the first sample in fixed point")
    thinned = ", ".join(f"every {r['every']}th neuron of {r['name']}" for r in raster["layers"] if r["every"] > 1)
    caption = f"Spikes of sample {raster['sample']} in fixed point" + (f" ({thinned})." if thinned else ".")
    return [Figure((("", drawing),), caption)]


def _operations(report: Json) -> list[Block]:
    rows = report["operations"]
    if not rows:
        return []
    table = [
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
    blocks: list[Block] = [_table(columns, [*table, sums], range(2, 8), caption)]
    synaptic = [row for row in rows if row["synops"]]
    if synaptic:
        values = [row["synops"] for row in synaptic]
        names = [row["name"] for row in synaptic]
        drawing = svg.bars(names, values, [number(v) for v in values], title="SynOps per layer and inference")
        blocks.append(Figure((("", drawing),), "SynOps per layer and inference."))
    return blocks


def _energy(report: Json) -> list[Block]:
    costs = report["energy"]
    if not costs:
        return []
    layers = list(dict.fromkeys(name for cost in costs for name in cost["layers"]))
    rows = [(name, *(_layer_energy(cost["layers"].get(name)) for cost in costs)) for name in layers]
    rows.append(("Chip", *(energy(cost["chip"]) for cost in costs)))
    rows.append(("Host", *(energy(cost["host"]) for cost in costs)))
    columns = ("Layer", *(cost["table"] for cost in costs))
    notes = [
        Text(
            f"{cost['table']}: {cost['title']}. {cost['basis']}"
            + (f" Not in this table: {', '.join(cost['unpriced']).replace('_', ' ')}." if cost["unpriced"] else "")
        )
        for cost in costs
    ]
    caption = "Energy per inference: the counts above times one named table a column. Columns are not to be added."
    return [_table(columns, rows, range(1, len(columns)), caption), *notes]


def _layer_energy(parts: Json | None) -> str:
    """The priced part of a layer, "not in this table" where nothing of it is priced, empty where it does
    nothing.
    """
    if not parts:
        return ""
    priced = [value for value in parts.values() if value is not None]
    return energy(sum(priced)) if priced else energy(None)


def _mapping(report: Json) -> list[Block]:
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
    chips = f"{placed['chips']} chip{'s' * (placed['chips'] != 1)} of {placed['cores_per_chip']} cores. "
    blocks: list[Block] = [_table(columns, rows, range(1, 6), chips + placed["basis"])]
    if placed["not_counted"]:
        blocks.append(Text("On the chip, but not counted: " + ", ".join(placed["not_counted"]) + "."))
    if report["violations"]:
        broken = [(v["layer"], v["rule"], v["found"], v["allowed"], v["fix"]) for v in report["violations"]]
        headings = ("Layer", "Limit", "Found", "Allowed", "What to do")
        blocks.append(_table(headings, broken, (), "Limits of the target that the network breaks."))
    else:
        blocks.append(Text("Every limit of the target that is checked is kept."))
    return blocks


def _verification(report: Json) -> list[Block]:
    rows = [
        (v["against"], "equal" if v.get("equal") else ("differs" if v["ran"] else "not run"), v["detail"])
        for v in report["verification"]
    ]
    return [_table(("Against", "Result", "Detail"), rows, ())] if rows else []


def _remarks(report: Json) -> list[Block]:
    blocks: list[Block] = [Text(text) for text in report["remarks"]]
    if report["not_done"]:
        rows = [(n["what"], n["why"], n["fix"]) for n in report["not_done"]]
        blocks.append(_table(("Not done", "Why", "What to do"), rows, ()))
    return blocks


def _provenance(report: Json) -> list[Block]:
    blocks: list[Block] = []
    files = [(a["path"], count(a["bytes"]), a["sha256"]) for a in report["artefacts"]]
    if files:
        blocks.append(_table(("Written", "Bytes", "SHA-256"), files, (1,)))
    read = list(report["inputs"].items())
    if read:
        blocks.append(_table(("Read", "SHA-256"), read, ()))
    settings = [("option", k, str(v)) for k, v in report["options"].items()]
    settings += [("version", k, v) for k, v in report["versions"].items()]
    if settings:
        blocks.append(_table(("", "Name", "Value"), settings, ()))
    return blocks


_SECTIONS: Sequence[tuple[str, Callable[[Json], list[Block]]]] = (
    ("Accuracy", _accuracy),
    ("Layer by layer", _layers),
    ("Spikes", _raster),
    ("Verification", _verification),
    ("Remarks", _remarks),
    ("Operations", _operations),
    ("Energy", _energy),
    ("Cores and memory", _mapping),
    ("Network", _network),
    ("Passes", _passes),
    ("Quantization", _quantization),
    ("Provenance", _provenance),
)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int], caption: str = "") -> Table:
    return Table(tuple(columns), tuple(tuple(row) for row in rows), frozenset(numeric), caption)


def _range(low: float, high: float) -> str:
    return f"{points(low).removesuffix(' points')} to {points(high)}"


def _decibel(value: float | None) -> str:
    return "–" if value is None else f"{sign(value)}{abs(value):.1f} dB"
