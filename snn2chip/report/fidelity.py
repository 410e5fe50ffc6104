"""What the chip computes beside what was trained: accuracy, every layer, spikes, oracles."""

from __future__ import annotations

from collections.abc import Iterable

from snn2chip.report import svg
from snn2chip.report.blocks import Block, Figure, Json, Text, table
from snn2chip.report.units import count, counted, decibel, interval, number, percent, points, share


def accuracy(report: Json) -> list[Block]:
    """What fixed point costs in right answers, with its interval and test."""
    entry = report["accuracy"]
    if entry is None:
        return []
    deviation = Text(
        f"Largest difference of an output between float and fixed point: {number(entry['output_deviation'])}, "
        f"on {counted(entry['samples'], 'sample')}."
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
    sentence = (
        f"Drop: {points(drop['value'])}, interval {interval(*drop['interval'])} ({drop['method']}). "
        f"Right only in float: {counted(drop['only_float'], 'sample')}; only in fixed point: "
        f"{counted(drop['only_fixed'], 'sample')}; p = {number(drop['p_value'])} ({drop['test']})."
    )
    columns = ("Network", "Right", "Samples", "Accuracy", "95 % interval")
    return [table(columns, rows, (1, 2, 3, 4), entry["float"]["method"] + "."), Text(sentence), same, deviation]


def layers(report: Json) -> list[Block]:
    """Every population in float and in fixed point, where spikes and answers are lost, rates and membranes."""
    populations = report["layers"]
    if not populations:
        return []
    scored = "accuracy" if any(row["prefix_accuracy"] is not None for row in populations) else "same answer"
    key = "prefix_accuracy" if scored == "accuracy" else "prefix_same_prediction"
    rows = [
        (
            row["name"],
            count(row["neurons"]),
            percent(row["rate_float"]),
            percent(row["rate_fixed"]),
            share(row["agreement"]),
            share(row["own_agreement"]),
            decibel(row["sqnr_db"]),
            percent(row[key]),
        )
        for row in populations
    ]
    columns = (
        "Population",
        "Neurons",
        "Rate, float",
        "Rate, fixed",
        "Spikes equal",
        "Equal on float input",
        "SQNR of v",
        "Accuracy up to here" if scored == "accuracy" else "Same answer up to here",
    )
    caption = (
        "Rates are spikes per neuron and step. “Equal on float input” gives the layer the float network's own spikes, "
        "so it shows this layer's rounding alone. “Up to here” runs the network in fixed point up to and including the "
        "layer, and in float after it."
    )
    sentences = map(Text, (*_culprit(report), *_divergence(report)))
    return [table(columns, rows, range(1, 8), caption), *sentences, *_drawings(populations)]


def _drawings(populations: list[Json]) -> Iterable[Figure]:
    """Firing rates of all, and the membranes of those that fire."""
    firing = [row for row in populations if row["rate_float"] is not None]
    if firing:
        drawing = svg.pairs(
            [row["name"] for row in firing],
            [100 * row["rate_float"] for row in firing],
            [100 * row["rate_fixed"] for row in firing],
            names=("float", "fixed point"),
            title="Firing rate per layer in float and fixed point",
        )
        yield Figure((("", drawing),), "Firing rate per layer, spikes per neuron and step in %.")
    membranes = tuple(
        (
            row["name"],
            svg.histogram(m["counts"], m["low"], m["high"], 1.0, title=f"Membrane of {row['name']}"),
        )
        for row in populations
        if (m := row["membrane"])
    )
    if membranes:
        caption = (
            "Membrane after the step in fixed point, in units of the threshold (line); root scale; "
            "the outer bins hold everything beyond."
        )
        yield Figure(membranes, caption)


def _culprit(report: Json) -> Iterable[str]:
    found = report["culprit"]
    if found is None:
        return
    if found["layer"] is not None and found["own_agreement"] < 1:
        yield (
            f"Most spikes are lost to rounding in layer {found['layer']}: on the float network's own input it "
            f"reproduces {share(found['own_agreement'])} of its spike slots."
        )
    if found["answers_lost_at"] is not None:
        yield (
            f"Most answers are lost at layer {found['answers_lost_at']}: with it in fixed point too, "
            f"{count(found['answers_lost'])} fewer of {counted(found['samples'], 'sample')} "
            f"{'is' if found['answers_lost'] == 1 else 'are'} {found['counted']}."
        )


_SPIKE = {True: "a spike", False: "none"}


def _divergence(report: Json) -> Iterable[str]:
    first = report["first_divergence"]
    if report["layers"] and first is None:
        yield "No spike differs between float and fixed point."
    elif first is not None:
        neuron = ", ".join(map(str, first["neuron"]))
        yield (
            f"First difference: layer {first['layer']}, neuron ({neuron}), step {first['step']}, sample "
            f"{first['sample']}: {_SPIKE[first['spike_float']]} in float and {_SPIKE[first['spike_fixed']]} in fixed "
            f"point; the membrane after the step, reset where it fired, at {first['v_float']:.6f} and "
            f"{first['v_fixed']:.6f} thresholds."
        )


def raster(report: Json) -> list[Block]:
    """The spikes of one sample."""
    shown = report["raster"]
    if not shown.get("layers"):
        return []
    trains = [
        (
            r["name"],
            f"{count(r['neurons'])} neurons" + (f", 1 in {r['every']}" if r["every"] > 1 else ""),
            [tuple(s) for s in r["spikes"]],
            -(-r["neurons"] // r["every"]),
        )
        for r in shown["layers"]
    ]
    drawing = svg.raster(trains, shown["steps"], title="Spikes of the first sample in fixed point")
    thinned = any(r["every"] > 1 for r in shown["layers"])
    caption = f"Spikes of sample {shown['sample']} in fixed point" + "; “1 in n”: one neuron of every n" * thinned + "."
    return [Figure((("", drawing),), caption)]


def verification(report: Json) -> list[Block]:
    """What every oracle found."""
    rows = [
        (v["against"], "equal" if v.get("equal") else ("differs" if v["ran"] else "not run"), v["detail"])
        for v in report["verification"]
    ]
    return [table(("Against", "Result", "Detail"), rows, ())] if rows else []
