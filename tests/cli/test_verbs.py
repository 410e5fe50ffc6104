"""Every verb doing its job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

import snn2chip
from snn2chip.cli.app import VERBS
from tests.frontend.test_netx import dense, write


def out(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, result.output
    return result.stdout


def test_compile_leaves_what_the_architecture_promises(run, built: Path) -> None:
    files = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert {"model.nir", "report.json", "report.html", "report.md", "manifest.json", "lava/run.py"} <= files
    manifest = json.loads((built / "manifest.json").read_text("utf-8"))
    assert set(manifest["outputs"]) == files - {"manifest.json"}
    for name, entry in manifest["outputs"].items():
        assert hashlib.sha256((built / name).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["target"] == "loihi2"
    assert manifest["options"]["seed"] == 0
    assert manifest["inputs"]["data file"] == hashlib.sha256((built.parent / "data.npz").read_bytes()).hexdigest()
    report = json.loads((built / "report.json").read_text("utf-8"))
    assert report["accuracy"]["samples"] == 40
    assert [v["equal"] for v in report["verification"]] == [True, True]


def test_same_inputs_give_the_same_bytes(run, built: Path) -> None:
    result = run("compile", "user.py:network", "--data", "data.npz", "--against", "reference", "--out", "again")
    out(result)
    for path in built.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (built.parent / "again" / path.relative_to(built)).read_bytes(), path.name


def test_compile_as_json_is_one_document(run, built: Path) -> None:
    text = out(
        run("compile", "user.py:as_mapping", "--data", "user.py:data", "--against", "none", "--out", "json", "--json")
    )
    assert json.loads(text)["out"] == "json"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", "nested.pt"])
def test_weights_replace_the_factorys(run, built: Path, suffix: str) -> None:
    import torch
    from safetensors.torch import save_file

    state = {
        "fc1.weight": torch.full((12, 6), 0.5),
        "fc1.bias": torch.zeros(12),
        "fc2.weight": torch.full((3, 12), 0.25),
        "fc2.bias": torch.zeros(3),
    }
    path = built.parent / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == "nested.pt" else state, path)
    folder = f"with{suffix}"
    out(
        run(
            *("compile", "user.py:pair", "--weights", str(path), "--data", "x.npy"),
            *("--against", "none", "--out", folder),
        )
    )
    program = snn2chip.load(built.parent / folder / "model.nir")
    assert len(np.unique(program["fc2"].layer.weight)) == 1
    manifest = json.loads((built.parent / folder / "manifest.json").read_text("utf-8"))
    assert manifest["inputs"]["weights file"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_simulate_writes_what_the_library_computes(run, built: Path) -> None:
    text = out(
        run("simulate", "built", "--data", "data.npz", "--record", "u,v,spikes", "--output", "recorded.npz", "--json")
    )
    program = snn2chip.load(built / "model.nir")
    with np.load(built.parent / "data.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    result = snn2chip.simulate(program, x, record=("u", "v", "spikes"))
    with np.load(built.parent / "recorded.npz", allow_pickle=False) as recorded:
        np.testing.assert_array_equal(recorded["outputs"], result.outputs)
        for name in ("lif1", "lif2"):
            for quantity in ("u", "v", "spikes"):
                np.testing.assert_array_equal(recorded[f"{name}.{quantity}"], getattr(result[name], quantity))
    told = json.loads(text)
    assert told["accuracy"] == float((result.outputs.argmax(axis=1) == y).mean())
    assert told["totals"] == dict(result.totals())


@pytest.mark.parametrize(
    "data",
    [
        ("data.npz",),
        ("x.npy", "--labels", "y.npy"),
        ("user.py:data",),
        ("user.py:dataset",),
        ("user.py:loader", "--shard-size", "9", "--run-folder", "evaluation"),
        ("user.py:loader", "--run-folder", "evaluation"),
        ("data.npz", "--workers", "2"),
    ],
)
def test_simulate_takes_every_kind_of_data(run, built: Path, data: tuple[str, ...]) -> None:
    if "--workers" in data:
        pytest.importorskip("ray", reason="workers need ray")
    told = json.loads(out(run("simulate", "built", "--data", *data, "--json")))
    with np.load(built.parent / "data.npz") as arrays:
        result = snn2chip.simulate(snn2chip.load(built / "model.nir"), arrays["x"])
        assert told["accuracy"] == float((result.outputs.argmax(axis=1) == arrays["y"]).mean())
    assert told["totals"] == dict(result.totals())
    assert told["samples"] == 40
    assert told["run"]["peak_memory"] > 0


@pytest.mark.parametrize(
    ("options", "engine", "told"),
    [
        ((), "reference", "too short to repay"),
        (("--engine", "fast"), "fast", "steps at once in"),
        (("--engine", "reference"), "reference", "as it is defined, in numpy's 64-bit integers"),
        (("--clock", "machine", "--reset-interval", "9"), "reference", "the machine's clock is the reference"),
    ],
)
def test_the_engine_that_is_asked_for_is_explained(
    run, built: Path, options: tuple[str, ...], engine: str, told: str
) -> None:
    arguments = ("simulate", "built", "--data", "data.npz", "--explain-engine", *options)
    text = out(run(*arguments))
    assert f"4 steps: {engine} (" in text
    assert told in text
    assert json.loads(out(run(*arguments, "--json")))["engine"] == engine


def test_a_gpu_that_is_not_there_is_not_explained(run, built: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU on this machine")
    result = run("simulate", "built", "--data", "data.npz", "--explain-engine", "--engine", "cuda")
    assert result.exit_code == 1
    assert "there is no GPU to simulate on" in result.stderr


def test_simulate_states_its_memory_first(run, built: Path) -> None:
    result = run("simulate", "built", "--data", "data.npz", "--shard-size", "15")
    assert result.stderr.startswith("40 samples of 4 steps, 15 to a shard, reference engine: takes at most ")
    assert "MiB are free." in result.stderr
    assert "40 samples; counts are means per sample." in result.stdout


def test_simulate_continues_a_run(run, built: Path, tmp_path: Path) -> None:
    arguments = ("simulate", "built", "--data", "data.npz", "--run-folder", str(tmp_path / "run"), "--shard-size", "15")
    first = run(*arguments)
    (tmp_path / "run/shards/0000/000001.shard").write_bytes(b"")
    again = run(*arguments)
    assert out(again) == out(first)
    assert "25 samples were there from an earlier run.\nA shard was damaged, and computed again.\n" in again.stderr
    told = json.loads(out(run(*arguments, "--json")))["run"]
    assert (told["resumed"], told["damaged"]) == (40, 0)


def test_simulate_compares_with_a_recording(run, built: Path) -> None:
    out(run("simulate", "built", "--data", "data.npz", "--record", "v,spikes", "--output", "same.npz"))
    assert "all" in out(run("simulate", "built", "--data", "data.npz", "--compare", "same.npz"))
    with np.load(built.parent / "same.npz") as arrays:
        changed = {key: arrays[key].copy() for key in arrays}
    changed["lif2.v"][7, 2, 1] += 1
    np.savez(built.parent / "changed.npz", **changed)
    text = out(run("simulate", "built", "--data", "data.npz", "--compare", "changed.npz"), code=1)
    assert "First difference: lif2: v is" in text
    assert "(sample 7, step 2, neuron (1,))" in text


def test_recordings_are_renamed(run, built: Path) -> None:
    out(run("simulate", "built", "--data", "data.npz", "--record", "v", "--output", "same.npz"))
    with np.load(built.parent / "same.npz") as arrays:
        np.savez(built.parent / "foreign.npz", **{"hidden-v": arrays["lif1.v"]})
    verify = ("verify", "built", "--data", "data.npz", "--against", "foreign.npz")
    assert "equal" in out(run(*verify, "--rename", "lif1=hidden"))
    assert "no population to compare" in run(*verify).stderr
    assert "holds nothing called 'other'" in run(*verify, "--rename", "lif1=other").stderr


def test_a_net_file_without_an_input_layer(run, built: Path, tmp_path: Path) -> None:
    flat = {"type": "flatten", "shape": np.array([18, 1, 1])}
    path, given = str(write(tmp_path / "headless.net", flat, dense(3, 18))), ("--input-shape", "2,3,3")
    x = (np.random.default_rng(0).random((9, 5, 2, 3, 3)) < 0.5).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    data = ("--data", str(tmp_path / "x.npy"))
    refused = run("simulate", path, *data)
    assert (refused.exit_code, "--input-shape C,H,W" in refused.stderr) == (1, True)
    expected = snn2chip.simulate(snn2chip.load(path, input_shape=(2, 3, 3)), x)
    told = json.loads(out(run("simulate", path, *given, *data, "--json")))
    assert told["totals"] == dict(expected.totals())
    assert "equal" in out(run("verify", path, *given, *data, "--against", "reference"))
    assert json.loads(out(run("inspect", path, *given, "--json")))["layers"][0]["shape"] == [2, 3, 3]


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        ("built", ("--input-shape", "6"), "input_shape is no option for compiled programs"),
        ("built", ("--input-shape", "6x6"), "'6x6' is no shape: write C,H,W"),
        ("built", ("--input-shape", "6", "--dt", "1e-3"), "--input-shape is for .net files, --dt for .nir and .onnx"),
        ("headless.net", ("--input-shape", "0"), "input_shape is (0,)"),
    ],
)
def test_an_input_shape_that_cannot_be(run, built: Path, network: str, options: tuple[str, ...], says: str) -> None:
    write(built.parent / "headless.net", {"type": "flatten", "shape": np.array([18, 1, 1])}, dense(3, 18))
    result = run("inspect", network, *options)
    assert (result.exit_code, says in result.stderr) == (2, True), result.stderr


def test_vendor_recordings_through_the_command_line(run, material: Path) -> None:
    """The whole of a vendor's network, in the vendor's clock, layout and names."""
    folder = material / "pilotnet_lif"
    names = [f"layer.{i}=conv-{i - 1}" for i in range(1, 6)] + [f"layer.{i}=fc-{i - 7}" for i in range(7, 10)]
    result = run(
        *("simulate", str(folder / "network.net"), "--data", str(folder / "recordings.npz"), "--data-key", "input"),
        *("--axes", "WHCT", "--clock", "machine", "--reset-interval", "17", "--registers", "silicon"),
        *("--compare", str(folder / "recordings.npz"), "--layout", "lava"),
        *(part for name in names for part in ("--rename", name)),
    )
    assert "all 8,561,376 values equal" in out(result)


def test_verify_against_the_reference(run, built: Path) -> None:
    told = json.loads(out(run("verify", "built", "--data", "data.npz", "--against", "reference", "--json")))
    assert told["equal"] is True
    assert told["samples"] == 40


def test_verify_against_lava(run, built: Path) -> None:
    pytest.importorskip("lava.magma", reason="lava-nc is not installed")
    text = out(run("verify", "built", "--data", "data.npz", "--samples", "2"))
    assert "values equal" in text


def test_report_draws_the_same_views_again(run, built: Path) -> None:
    before = {name: (built / name).read_bytes() for name in ("report.html", "report.md", "manifest.json")}
    (built / "report.html").write_text("spoiled")
    assert "Drawn again" in out(run("report", "built"))
    assert {name: (built / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("view", ["md", "html", "json"])
def test_report_prints_and_writes_a_view(run, built: Path, view: str) -> None:
    expected = (built / f"report.{view}").read_text("utf-8")
    assert out(run("report", "built", "--format", view)) == expected
    out(run("report", "built", "--output", f"copy.{view}"))
    assert (built.parent / f"copy.{view}").read_text("utf-8") == expected


def test_inspect_prints_the_program(run, built: Path) -> None:
    text = out(run("inspect", "built", "--cores"))
    assert str(snn2chip.load(built / "model.nir")) in text
    assert "Lower bound" in text
    told = json.loads(out(run("inspect", "built/model.nir", "--cores", "--json")))
    assert told["target"] == "loihi2"
    assert told["violations"] == []
    assert [row["name"] for row in told["mapping"]["layers"]] == ["lif1", "lif2"]


def test_targets_name_a_source_for_every_value(run) -> None:
    assert "loihi2" in out(run("targets"))
    for name in ("loihi1", "loihi2"):
        values = json.loads(out(run("targets", name, "--json")))["values"]
        assert len(values) > 30
        assert all(entry["source"] for entry in values)


def test_doctor_names_what_is_installed(run) -> None:
    checks = {check["name"]: check for check in json.loads(out(run("doctor", "--json")))}
    assert checks["numpy"]["ok"]
    assert checks["numpy"]["detail"] == np.__version__


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_explains_itself(run, verb: str) -> None:
    assert "Usage: snn2chip" in out(run(*verb.split(), "--help"))


def test_without_a_verb_the_help_is_shown(run) -> None:
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_version(run) -> None:
    assert snn2chip.__version__ in out(run("--version"))
