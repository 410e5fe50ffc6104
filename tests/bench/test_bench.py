"""The benchmark itself, at tiny sizes: every variant computes the same network, and the report holds what is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snn2chip as s2c
from bench import __main__, docs, forms, memory, plots, results, sweeps, tables, tracing
from bench.measure import Variant, interleaved, summary
from bench.networks import NETS, Net, dense_recurrent, from_zoo, named, slayer_convolutions, vgg_like
from bench.variants import BARE, ONE_THREAD, REFERENCE, case

STEPS = 3
VGG = dataclasses.replace(
    NETS["vgg"],
    build=vgg_like((4,), (6,), size=8),
    shape=(3, 8, 8),
    samples={STEPS: 4},
    slayer=slayer_convolutions((3, 8, 8), ((4,), (6,)), (10,)),
)
TINY: dict[str, Net] = {
    "vgg": VGG,
    "resnet": Net("", from_zoo("resnet34-cifar", width=1 / 16, layout={"depths": (1, 1, 1, 1)}), (3, 8, 8), {STEPS: 3}),
    "spikformer": Net(
        "", from_zoo("spikformer-4-384", width=1 / 16, layout={"blocks": 1, "heads": 4}), (3, 8, 8), {STEPS: 3}
    ),
    "recurrent": Net(
        "",
        lambda neuron: dense_recurrent(neuron, 12, 16, 5),
        (12,),
        {STEPS: 4},
        events=True,
        rate=0.3,
        recurrent=True,
    ),
    "gesture": Net(
        "", from_zoo("dvsgesturenet", shape=(2, 32, 32), width=1 / 16), (2, 32, 32), {STEPS: 2}, events=True, rate=0.2
    ),
}


@pytest.fixture(scope="module")
def vgg_report() -> dict[str, Any]:
    found = case(VGG, VGG.program(STEPS), STEPS, without={forms.COMPILED})
    return {"name": "vgg", **results.timed(found, 2)}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("form", [f for f in forms.FORMS if f not in (forms.WRITTEN, forms.COMPILED)])
def test_every_form_is_the_network_as_written(name: str, form: str) -> None:
    net = TINY[name]
    x = net.data(net.samples[STEPS], STEPS)
    try:
        run = forms.FORMS[form](net, STEPS)
    except forms.UnavailableError as why:
        pytest.skip(str(why))
    with torch.inference_mode():
        expected, outputs = forms.as_written(net, STEPS)(x), run(x)
        again = run(x)
    assert expected.std() > 0.01, "the output hardly changes: nothing is tested"
    torch.testing.assert_close(again, outputs, msg="the second run starts from the first one's states")
    if form in forms.OF_ITS_OWN:
        assert outputs.shape == expected.shape
    else:
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)


def test_samples_in_parts_are_the_same_samples() -> None:
    x = VGG.data(5, STEPS)
    form = forms.folded(VGG, STEPS)
    with torch.inference_mode():
        torch.testing.assert_close(forms.in_parts(form, 2)(x), form(x))


def test_a_case_times_every_engine_and_says_what_it_left_out(vgg_report: dict[str, Any]) -> None:
    rows = vgg_report["variants"]
    assert {*forms.EAGER, ONE_THREAD, REFERENCE, BARE} <= set(rows)
    assert min(rows[name]["ratio"] for name in forms.EAGER) == 1
    assert vgg_report["claims"][f"{ONE_THREAD} / the soonest eager float"] == rows[ONE_THREAD]["ratio"]
    assert all(row["median_ms"] > 0 for row in rows.values())
    assert rows[forms.FOLDED]["same_predictions"] == 1
    assert 0 < vgg_report["program"]["lowest_rate"] <= vgg_report["program"]["mean_rate"] < 1
    assert vgg_report["claims"][f"{ONE_THREAD} / {BARE}"] > 0


def test_a_network_that_never_fires_is_no_benchmark() -> None:
    silent = sweeps.at_rate(VGG.program(STEPS), VGG.data(4, STEPS).numpy(), 0.0)
    with pytest.raises(AssertionError, match="never or always fire"):
        case(VGG, silent, STEPS, without=set(forms.FORMS) - {forms.WRITTEN})


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    variants = {
        "a": Variant(lambda: order.append("a"), 2),
        "b": Variant(lambda: order.append("b"), 2, every=2),
    }
    times = interleaved(variants, 3)
    assert order == ["a", "b", "a", "a", "b"]
    assert [len(t) for t in times.values()] == [3, 2]
    assert summary([0.1, 0.2, 0.3], 2)["ms_per_sample"] == pytest.approx(100)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_thresholds_are_found_for_a_firing_rate(rate: float) -> None:
    x = VGG.data(8, STEPS).numpy()
    program = sweeps.at_rate(VGG.program(STEPS), x, rate)
    counts = s2c.simulate(program, x, engine="reference").counts
    for name in ("body.0.neuron", "body.1.neuron"):
        fired = counts[name].spikes.sum() / counts[name].neuron_updates.sum()
        assert fired == pytest.approx(rate, abs=0.03)


def test_memory_of_a_run_is_what_it_adds(tmp_path: Path) -> None:
    net = named("chain-1")
    path = tmp_path / "chain.program"
    memory.keep(net.program(2), path)
    fast = memory.measured(memory.Job(memory.FAST, "chain-1", 2, 2, str(path), runs=1))
    with memory.workers() as run:
        few, many = (run(memory.Job(forms.FOLDED, "chain-1", 2, n, runs=1)) for n in (1, 64))
    assert set(fast) == set(few) == {"added_mib", "peak_mib", "ms_per_sample"}
    # 64 samples of two steps of 64 channels of 16×16 in float32 are 8 MiB, and there are several such tensors.
    assert many["added_mib"] > few["added_mib"] + 8
    assert few["peak_mib"] > few["added_mib"]


def test_tracing_is_timed_beside_the_exporters() -> None:
    variants, skipped = tracing.variants(VGG, 2)
    assert {tracing.OURS, tracing.TORCHSCRIPT} <= set(variants) | set(skipped)
    assert len(variants[tracing.OURS].run().neurons) == 2


def test_the_report_is_told_and_written(vgg_report: dict[str, Any], tmp_path: Path) -> None:
    row = {"axis": "samples", "variant": memory.FAST, "ms_per_sample": 1.5, "added_mib": 3.0, "peak_mib": 9.0}
    report = {
        **json.loads((docs.FOLDER / docs.NUMBERS).read_text("utf-8")),
        "networks": [vgg_report, {"name": "x", "title": "X", "time_steps": 1, "refused": "too strange"}],
        "sweeps": {"batch": [{**row, "at": 1}, {**row, "at": 2}]},
    }
    report = json.loads(json.dumps(report))
    (tmp_path / docs.PAGE).write_text((docs.FOLDER / docs.PAGE).read_text("utf-8"), "utf-8")
    docs.write(report, tmp_path)
    page = (tmp_path / docs.PAGE).read_text("utf-8")
    assert tables.networks(report) in page
    assert "too strange" in page
    assert f"| {ONE_THREAD} | {vgg_report['variants'][ONE_THREAD]['ms_per_sample']:.3g} |" in page
    assert json.loads((tmp_path / docs.NUMBERS).read_text("utf-8")) == report
    first = (tmp_path / "speed-batch.svg").read_bytes()
    plots.write(report["sweeps"], tmp_path)
    assert (tmp_path / "speed-batch.svg").read_bytes() == first


def test_the_page_holds_the_numbers_beside_it() -> None:
    page = (docs.FOLDER / docs.PAGE).read_text("utf-8")
    report = json.loads((docs.FOLDER / docs.NUMBERS).read_text("utf-8"))
    assert docs.with_numbers(page, report) == page, "docs/speed.md and docs/speed.json are of different runs"
    assert all((docs.FOLDER / f"speed-{name}.svg").exists() for name in report["sweeps"])


def test_a_network_the_quantizer_refuses_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: Net, steps: int) -> Any:
        raise s2c.errors.S2CError("this layer is not known", where="attention")

    monkeypatch.setattr(Net, "program", refuse)
    options = results.Options(["vgg"], [4])
    (row,) = results.networks(options, results.Programs(tmp_path), lambda _: None)
    assert "this layer is not known" in row["refused"]
    assert "not timed" in tables.networks({"networks": [row]})


@pytest.mark.parametrize("arguments", [["--network", "vgg,nets"], ["--parts", "speed"]])
def test_names_that_do_not_exist_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        __main__.main(arguments)
    assert end.value.code == 2
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize("name", TINY)
def test_the_fast_engine_has_the_integers_of_the_reference(name: str) -> None:
    net = TINY[name]
    x, program = net.data(2, STEPS).numpy(), net.program(STEPS)
    expected = s2c.simulate(program, x, engine="reference").outputs_int
    assert expected.std() > 0
    np.testing.assert_array_equal(s2c.simulate(program, x, engine="fast").outputs_int, expected)
