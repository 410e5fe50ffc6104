"""How the Program was made: its layers, the rewrites, the rounding, what was left undone, and from what."""

from __future__ import annotations

from snn2chip.report import svg
from snn2chip.report.blocks import Block, Figure, Json, Text, table
from snn2chip.report.units import count, decibel, number, share


def network(report: Json) -> list[Block]:
    """The layers as the Program has them."""
    rows = [
        (n["name"], n["kind"], "×".join(map(str, n["shape"])), n["detail"], ", ".join(n["inputs"]), n["placement"])
        for n in report["network"]
    ]
    return [table(("Layer", "Kind", "Shape", "Detail", "Reads", "Runs on"), rows, ())]


def passes(report: Json) -> list[Block]:
    """What every rewrite promised and what its proof found."""
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
    return [table(columns, rows, (1, 3, 4, 5), caption)] if rows else []


def quantization(report: Json) -> list[Block]:
    """Units, rounding, and the proof that no register overflows."""
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
        (name, q["name"], _ratio(s.get("sqnr_db")), share(s.get("clipped")), count(int(s.get("exponent", 0))))
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
        table(names, rows, range(1, 7), "What one unit of the membrane is worth, and what rounding did."),
        table(("Synapse", "Into", "SQNR", "Clipped", "Exponent"), weights, (2, 3, 4), "Weights."),
        table(
            ("Layer", "Register", "Worst case", "Seen", "Limit", "Overflow"),
            proof,
            (2, 3, 4),
            "Largest magnitudes: the worst any input could cause, what the calibration data caused, and the register.",
        ),
    ]
    said: dict[str, list[str]] = {}
    for q in records:
        for remark in q["remarks"]:
            said.setdefault(remark, []).append(q["name"])
    ratios = [(name, s.get("sqnr_db")) for q in records for name, s in q["synapses"].items()]
    bars = [(name, ratio) for name, ratio in ratios if ratio and ratio < _EXACT]
    if bars:
        synapses, values = zip(*bars, strict=True)
        drawing = svg.bars(synapses, values, [decibel(v) for v in values], title="SQNR of the weights per synapse")
        blocks.append(
            Figure((("", drawing),), "Signal to quantization noise of the weights that were rounded; 6 dB are one bit.")
        )
    return [*blocks, *(Text(f"{', '.join(layers)}: {remark}.") for remark, layers in said.items())]


# The ratio in dB that is written for weights that lost nothing, where it would be infinite.
_EXACT = 120.0


def _ratio(value: float | None) -> str:
    return "exact" if value is not None and value >= _EXACT else decibel(value)


def remarks(report: Json) -> list[Block]:
    """What the reader has to know, and in short what was not written."""
    return [*map(Text, report["remarks"]), *(Text(f"Not written: {line}") for line in unwritten(report))]


def unwritten(report: Json) -> list[str]:
    """A line for every file that was left out: the first reason, and how many more there are."""
    lines = []
    for entry in report["not_done"]:
        first, *rest = entry["why"].splitlines() or [""]
        lines.append(f"{entry['what']}: {first}" + (f" (and {len(rest)} more)" if rest else ""))
    return lines


def not_written(report: Json) -> list[Block]:
    """Every reason for which a file was left out; of a deep network there are hundreds."""
    rows = [(n["what"], n["why"], n["fix"]) for n in report["not_done"]]
    return [table(("File", "Why", "What to do"), rows, ())] if rows else []


def provenance(report: Json) -> list[Block]:
    """What was read and written, by which options and versions."""
    blocks: list[Block] = []
    files = [(a["path"], count(a["bytes"]), a["sha256"]) for a in report["artefacts"]]
    if files:
        blocks.append(table(("Written", "Bytes", "SHA-256"), files, (1,)))
    read = list(report["inputs"].items())
    if read:
        blocks.append(table(("Read", "SHA-256"), read, ()))
    options = [(name, str(value)) for name, value in report["options"].items()]
    if options:
        blocks.append(table(("Option", "Value"), options, ()))
    if report["versions"]:
        blocks.append(table(("Package", "Version"), report["versions"].items(), ()))
    return blocks
