"""Everything measured, as the JSON of ``report.json``; its keys are described in ``docs/report.md``."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from snn2chip.energy import energy, usage
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.mapping import check, estimate
from snn2chip.report import statistics
from snn2chip.simulate.counting import fan_out
from snn2chip.simulate.readout import predictions
from snn2chip.verify.measure import ISOLATED_SAMPLES, LayerMeasure, Measurement
from snn2chip.version import __version__

FORMAT, VERSION = "snn2chip-report", 1

Json = dict[str, Any]

# Spikes of one population in the raster plot; more than this is a grey block anyway.
_RASTER_NEURONS = 128


def collect(
    program: Program,
    *,
    subject: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    measurement: Measurement | None = None,
    labels: Array | None = None,
    verification: Iterable[Mapping[str, Any]] = (),
    versions: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    artefacts: Iterable[Mapping[str, Any]] = (),
    not_done: Iterable[Mapping[str, str]] = (),
) -> Json:
    """The report of a Program as plain JSON data.

    Args:
        subject: "model" (how the user named it) and "notes" on it.
        options: what it was compiled with; left out, what the Program says of itself.
        measurement: float network and Program on the same data; None where there was no data.
        labels: [N] classes of that data.
        verification: one entry per oracle: "against", "ran", and what it found, or why it did not run.
        inputs, artefacts: SHA-256 of what was read and written.
        not_done: "what", "why" and "fix" of everything that was left out.
    """
    report: Json = _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "snn2chip": __version__,
            "subject": {"model": subject["model"], "origin": program.origin},
            "target": {"name": program.target.name, "title": program.target.title},
            "options": program.options if options is None else options,
            "versions": versions or {},
            "inputs": inputs or {},
            "artefacts": list(artefacts),
            "time_steps": program.time_steps,
            "coding": program.coding,
            "network": _network(program),
            "passes": [vars(record) for record in program.passes],
            "quantization": [vars(record) for record in program.quantization],
            **(_NOT_MEASURED if measurement is None else _measured(program, measurement, labels)),
            "mapping": dataclasses.asdict(estimate(program)),
            "violations": [vars(violation) for violation in check(program)],
            "verification": list(verification),
            "remarks": [*_remarks(program, measurement), *subject.get("notes", ())],
            "not_done": list(not_done),
        }
    )
    return report


# The keys of :func:`_measured` where there was no data.
_NOT_MEASURED: Json = {
    "accuracy": None,
    "layers": [],
    "first_divergence": None,
    "culprit": None,
    "operations": [],
    "energy": [],
    "raster": {},
}


def _measured(program: Program, measured: Measurement, labels: Array | None) -> Json:
    return {
        "accuracy": _accuracy(measured, labels),
        "layers": [_layer(m, labels) for m in measured.layers],
        "first_divergence": None if measured.first is None else vars(measured.first),
        "culprit": culprit(measured, labels),
        "operations": _operations(program, measured),
        "energy": _energy(program, measured),
        "raster": _raster(measured),
    }


def _network(network: Network) -> list[Json]:
    shapes = network.shapes()
    return [
        {
            "name": node.name,
            "kind": node.layer.kind,
            "shape": shapes[node.name],
            "detail": node.layer.describe(),
            "inputs": [str(edge) for edge in node.inputs],
            "placement": node.placement,
            "parameters": sum(a.size for a in _arrays(node.layer)),
        }
        for node in network
    ]


def _arrays(layer: Any) -> list[Array]:
    return [a for name in ("weight", "bias") if isinstance(a := getattr(layer, name, None), np.ndarray)]


def _accuracy(measured: Measurement, labels: Array | None) -> Json | None:
    real, fixed = predictions(measured.outputs_float), predictions(measured.outputs_fixed)
    deviation = float(np.max(np.abs(measured.outputs_float - measured.outputs_fixed), initial=0.0))
    entry: Json = {"samples": measured.samples, "output_deviation": deviation, "same_prediction": None}
    if real is None or fixed is None:
        return entry
    entry["same_prediction"] = float((real == fixed).mean())
    if labels is None:
        return entry
    right = np.stack([real == labels, fixed == labels])
    pair = statistics.Paired(
        int((right[0] & right[1]).sum()),
        int((right[0] & ~right[1]).sum()),
        int((~right[0] & right[1]).sum()),
        int((~right[0] & ~right[1]).sum()),
    )
    for name, row in zip(("float", "fixed"), right, strict=True):
        correct = int(row.sum())
        entry[name] = {
            "correct": correct,
            "accuracy": correct / measured.samples,
            "interval": statistics.wilson(correct, measured.samples),
            "method": statistics.WILSON,
        }
    entry["drop"] = {
        "value": pair.difference,
        "interval": pair.interval(),
        "method": statistics.PAIRED,
        "p_value": pair.p_value(),
        "test": statistics.MCNEMAR,
        "both": pair.both,
        "only_float": pair.only_first,
        "only_fixed": pair.only_second,
        "neither": pair.neither,
    }
    return entry


def _layer(layer: LayerMeasure, labels: Array | None) -> Json:
    per_slot = layer.slots / max(len(layer.spikes_float), 1)
    return {
        "name": layer.name,
        "neurons": layer.neurons,
        "fires": layer.fires,
        "rate_float": _share(int(layer.spikes_float.sum()), layer.slots),
        "rate_fixed": _share(int(layer.spikes_fixed.sum()), layer.slots),
        "rate_float_by_step": layer.spikes_float / per_slot if per_slot else None,
        "rate_fixed_by_step": layer.spikes_fixed / per_slot if per_slot else None,
        "slots": layer.slots,
        "differing": layer.slots - layer.equal,
        "agreement": _share(layer.equal, layer.slots),
        "own_agreement": _share(layer.own_equal, layer.own_slots),
        "sqnr_db": layer.sqnr,
        "prefix_samples": layer.prefix_samples,
        "prefix_accuracy": None if labels is None else _share(layer.prefix_right, layer.prefix_samples),
        "prefix_same_prediction": _share(layer.prefix_same, layer.prefix_samples),
        "membrane": None
        if layer.membrane is None
        else {"counts": layer.membrane, "low": layer.membrane_range[0], "high": layer.membrane_range[1]},
    }


def culprit(measured: Measurement, labels: Array | None) -> Json | None:
    """The layer that loses most spikes on the float network's own input, and where most answers are lost.

    None where every layer that can be cut out reproduces the float spikes and no answer is lost.
    """
    cut = [layer for layer in measured.layers if layer.own_slots]
    worst = min(cut, key=lambda m: m.own_equal / m.own_slots, default=None)
    chain = _answers(measured, labels)
    losses = {name: (before - after) for (_, before), (name, after) in itertools.pairwise(chain)}
    at = max(losses, key=lambda name: losses[name], default=None)
    lost = None if at is None or losses[at] <= 0 else losses[at]
    if (worst is None or worst.own_equal == worst.own_slots) and lost is None:
        return None
    return {
        "layer": None if worst is None else worst.name,
        "own_agreement": None if worst is None else _share(worst.own_equal, worst.own_slots),
        "answers_lost_at": at if lost else None,
        "answers_lost": lost,
        "samples": min(ISOLATED_SAMPLES, measured.samples),
        "counted": "same as float" if labels is None else "right",
    }


def _answers(measured: Measurement, labels: Array | None) -> list[tuple[str, int]]:
    """Right answers (or answers equal to the float network's) as one layer after another becomes fixed point."""
    n = min(ISOLATED_SAMPLES, measured.samples)
    real, fixed = predictions(measured.outputs_float[:n]), predictions(measured.outputs_fixed[:n])
    through = [m for m in measured.layers if m.prefix_samples == n]
    if real is None or fixed is None or not through:
        return []
    truth = real if labels is None else labels[:n]
    middle = [(m.name, m.prefix_same if labels is None else m.prefix_right) for m in through]
    last = measured.layers[-1].name
    rest = "the read-out" if last == through[-1].name else last
    return [("float", int((real == truth).sum())), *middle, (rest, int((fixed == truth).sum()))]


def _operations(program: Program, measured: Measurement) -> list[Json]:
    shapes = program.shapes()
    rows = [dataclasses.asdict(use) for use in usage(program, measured.counts)]
    for row in rows:
        node = program[row["name"]]
        row["placement"] = node.placement
        dense = int(fan_out(node.layer, shapes[node.inputs[0].source]).sum()) if node.layer.synaptic else None
        row["synapses"] = dense
        row["activity"] = row["synops"] / (dense * measured.steps) if dense and node.placement == "chip" else None
    return rows


def _energy(program: Program, measured: Measurement) -> list[Json]:
    used = usage(program, measured.counts)
    return [dataclasses.asdict(energy(program, used, table)) for table in program.target.energy]


def _remarks(program: Program, measured: Measurement | None) -> list[str]:
    remarks = list(program.notes)
    if measured is not None and measured.saturated_inputs:
        remarks.append(f"{measured.saturated_inputs} input values lay outside the input format and were clipped.")
    return remarks


def _raster(measured: Measurement) -> Json:
    rows = []
    for name, spikes in measured.raster.items():
        every = math.ceil(spikes.shape[1] / _RASTER_NEURONS)
        shown = spikes[:, ::every]
        if next(m.fires for m in measured.layers if m.name == name):
            rows.append({"name": name, "neurons": spikes.shape[1], "every": every, "spikes": np.argwhere(shown != 0)})
    return {"sample": 0, "steps": measured.steps, "layers": rows}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types; what JSON has no word for (NaN, infinity) becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
