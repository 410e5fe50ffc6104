"""``report.json`` as a document: which sections it has, in which order, and the facts at its head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from snn2chip.report import construction, cost, fidelity
from snn2chip.report.blocks import Block, Document, Json, Section
from snn2chip.report.units import count, counted, interval, number, percent, points, share

_SECTIONS: Sequence[tuple[str, Callable[[Json], list[Block]]]] = (
    ("Accuracy", fidelity.accuracy),
    ("Layer by layer", fidelity.layers),
    ("Spikes", fidelity.raster),
    ("Verification", fidelity.verification),
    ("Remarks", construction.remarks),
    ("Operations", cost.operations),
    ("Energy", cost.energy),
    ("Cores and memory", cost.mapping),
    ("Network", construction.network),
    ("Passes", construction.passes),
    ("Quantization", construction.quantization),
    ("Not written", construction.not_written),
    ("Provenance", construction.provenance),
)

_CODING = {"direct": "the same at every step", "steps": "one frame a step"}


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


def _facts(report: Json) -> Iterable[tuple[str, str, str]]:
    """(label, value, remark) for the head of the page."""
    accuracy = report["accuracy"] or {}
    if "drop" in accuracy:
        fixed, drop = accuracy["fixed"], accuracy["drop"]
        yield "Accuracy in fixed point", percent(fixed["accuracy"]), f"float {percent(accuracy['float']['accuracy'])}"
        yield "Drop", points(drop["value"]), f"95 % interval {interval(*drop['interval'])}"
    elif accuracy.get("same_prediction") is not None:
        yield "Same answer as float", percent(accuracy["same_prediction"]), counted(accuracy["samples"], "sample")
    layers = [row for row in report["layers"] if row["agreement"] is not None]
    if layers:
        slots, differing = (sum(row[key] for row in layers) for key in ("slots", "differing"))
        yield "Spikes equal to float", share(1 - differing / slots), f"{count(differing)} of {count(slots)} differ"
    oracles = [v for v in report["verification"] if v["ran"]]
    if oracles:
        equal = [v for v in oracles if v["equal"]]
        names = ", ".join(v["against"] for v in oracles)
        missing = ", ".join(v["against"] for v in report["verification"] if not v["ran"])
        yield "Verified against", f"{len(equal)} of {len(oracles)}", names + (missing and f"; not run: {missing}")
    if report["operations"]:
        synops = sum(row["synops"] for row in report["operations"])
        populations = counted(len(report["mapping"]["layers"]), "population")
        yield "SynOps per inference", number(synops), f"{populations} on the chip"
        if macs := [row["macs"] for row in report["operations"] if row["macs"]]:
            yield "Host MACs per inference", number(sum(macs)), f"{counted(len(macs), 'layer')} on the host"
    cores = report["mapping"]
    yield "Cores, at least", count(cores["cores"]), counted(cores["chips"], "chip")
