"""Runs that were interrupted, whatever interrupted them, end in the result of one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from snn2chip.emit.nir import write_program
from snn2chip.errors import S2CError
from snn2chip.evaluate import Evaluation, Progress, evaluate
from snn2chip.simulate import simulate
from tests.evaluate.conftest import Whole, classifier

_COMMAND = (sys.executable, "-c", "from snn2chip.cli import main; main(prog_name='snn2chip')", "simulate")


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards/*/*.shard"))


def resumed(whole: Whole, folder: Path, **options: Any) -> int:
    """Samples of an earlier run that a complete one takes over; its result is the whole."""
    told: list[Progress] = []
    given = {"data": whole.x, "labels": whole.y, "run_folder": folder, "progress": told.append, **options}
    assert evaluate(whole.program, **given) == whole.evaluation
    return told[-1].resumed


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """50,000 samples from the command line, killed again and again until it is done."""
    rng = np.random.default_rng(5)
    made = classifier(rng)
    x, y = (rng.random((50_000, 4, 6)) < 0.4).astype(np.uint8), rng.integers(0, 3, 50_000)
    write_program(made, tmp_path / "net.nir")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    command = ("net.nir", "--data", "x.npy", "--labels", "y.npy", "--run-folder", "run", "--shard-size", "500")
    run, chance, kills, done = tmp_path / "run", random.Random(5), 0, None
    while done is None:
        process = subprocess.Popen(
            (*_COMMAND, *command, "--output", "outputs.npz", "--json"),
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        # The first run is killed before it has a folder, the others a little later than the one before.
        enough = len(shards(run)) + chance.randint(5, 30) if kills else 0
        while process.poll() is None and len(shards(run)) < enough and kills < 4:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        if kills < 4 and process.poll() is None:
            process.kill()
            kills += 1
            process.communicate()
            continue
        done, _ = process.communicate(timeout=120)
    assert kills >= 3
    assert len(shards(run)) == 100
    found, expected = json.loads(done), simulate(made, x)
    assert found["layers"] == Evaluation.of(expected).as_dict()["counts"]
    assert found["accuracy"] == Evaluation.of(expected, y).accuracy
    with np.load(tmp_path / "outputs.npz") as arrays:
        np.testing.assert_array_equal(arrays["outputs_int"], expected.outputs_int)
    assert {path.name for path in tmp_path.iterdir()} == {"net.nir", "x.npy", "y.npy", "run", "outputs.npz"}


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    write_program(classifier(np.random.default_rng(5)), tmp_path / "net.nir")
    (tmp_path / "endless.py").write_text(
        "import time, numpy as np\n"
        "def data():\n"
        "    for i in range(10**6):\n"
        "        time.sleep(0.01 * (i > 40))\n"
        "        yield np.zeros((4, 6))\n"
    )
    options = ("net.nir", "--data", "endless.py:data", "--run-folder", "run", "--shard-size", "20")
    process = subprocess.Popen(
        (*_COMMAND, *options), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(shards(tmp_path / "run")) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    kept = len(shards(tmp_path / "run"))
    assert stderr.splitlines()[-1] == f"Interrupted; {kept} shards are kept in run; the same call continues there."


def test_a_finished_run_is_read_again(whole: Whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert resumed(whole, run, shard_size=20) == 0
    assert len(shards(run)) == 6
    with mock.patch("snn2chip.evaluate.workers.run_job", side_effect=AssertionError):
        assert resumed(whole, run) == 103, "the size of a shard is the earlier run's"
        assert resumed(whole, run, batch_size=7, engine="fast") == 103, "the same integers from any engine"


def test_outputs_of_an_earlier_run(whole: Whole, tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "outputs.npz"
    resumed(whole, run, shard_size=20, output=output)
    output.unlink()
    shards(run)[2].unlink()
    assert resumed(whole, run, output=output) == 83
    with np.load(output) as arrays:
        np.testing.assert_array_equal(arrays["outputs_int"], whole.result.outputs_int)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_shard_is_computed_again(whole: Whole, tmp_path: Path, seed: int) -> None:
    run, rng = tmp_path / "run", np.random.default_rng(seed)
    resumed(whole, run, shard_size=20, output=tmp_path / "o.npz")
    victim = shards(run)[rng.integers(5)]
    content = bytearray(victim.read_bytes())
    if seed < 4:
        content = content[: rng.integers(len(content))]
    else:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    victim.write_bytes(content)
    assert resumed(whole, run, output=tmp_path / "o.npz") == 83
    with np.load(tmp_path / "o.npz") as arrays:
        np.testing.assert_array_equal(arrays["outputs_int"], whole.result.outputs_int)


def test_shards_of_another_place_or_run_are_not_taken(whole: Whole, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    resumed(whole, run, shard_size=20)
    shards(run)[1].write_bytes(shards(run)[0].read_bytes())
    assert resumed(whole, run) == 83
    evaluate(whole.program, whole.x, whole.y, run_folder=other, shard_size=20, output=tmp_path / "o.npz")
    shards(run)[1].write_bytes(shards(other)[1].read_bytes())
    assert resumed(whole, run) == 83


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shard_size": 10}, "options.shard_size was 20, and is 10"),
        ({"labels": None}, "data.labels was True, and is False"),
        ({"output": "o.npz"}, "options.outputs was False, and is True"),
        ({"clock": "machine"}, "options.clock was sample, and is None"),
        ({"data": np.zeros((50, 4, 6), np.uint8), "labels": np.zeros(50)}, "data.samples was 103, and is 50"),
        ({"data": np.zeros((103, 4, 6), np.float32)}, "data.dtype was |u1, and is <f4"),
    ],
)
def test_another_evaluation_is_refused(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    resumed(whole, tmp_path / "run", shard_size=20)
    given = {"data": whole.x, "labels": whole.y, "run_folder": tmp_path / "run", **change}
    with pytest.raises(S2CError, match="belongs to another evaluation") as refused:
        evaluate(whole.program, **given)
    assert says in refused.value.why
    assert resumed(whole, tmp_path / "run") == 103


def test_another_network_or_version_is_refused(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed(whole, tmp_path / "run", shard_size=20)
    fc2 = whole.program["fc2"]
    changed = dataclasses.replace(fc2, layer=dataclasses.replace(fc2.layer, weight=fc2.layer.weight + 2))
    nodes = [changed if node.name == "fc2" else node for node in whole.program]
    with pytest.raises(S2CError) as refused:
        evaluate(whole.program.with_nodes(nodes), whole.x, whole.y, run_folder=tmp_path / "run")
    assert "network was" in refused.value.why
    monkeypatch.setattr(sys.modules["snn2chip.evaluate.evaluate"], "__version__", "9.9")
    with pytest.raises(S2CError) as refused:
        evaluate(whole.program, whole.x, whole.y, run_folder=tmp_path / "run")
    assert refused.value.why.endswith("and is 9.9")


@pytest.mark.parametrize("what", ["x", "y"])
def test_data_that_changed_is_refused(whole: Whole, tmp_path: Path, what: str) -> None:
    resumed(whole, tmp_path / "run", shard_size=20)
    x, y = whole.x.copy(), whole.y.copy()
    if what == "x":
        x[47, 0, 0] ^= 1
    else:
        y[47] += 1
    with pytest.raises(S2CError, match="not what it was") as refused:
        evaluate(whole.program, x, y, run_folder=tmp_path / "run")
    assert refused.value.where == "samples 40 to 59"


def test_folders_that_are_no_run_folders(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place, says in ((tmp_path, "holds files, and is no run folder"), (tmp_path / "file", "cannot be made")):
        with pytest.raises(S2CError, match=says):
            evaluate(whole.program, whole.x, run_folder=place)
    for text in ("", "{}", '{"format": "snn2chip-manifest", "version": 1, "options": {}}', "[1]"):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "manifest.json").write_text(text)
        with pytest.raises(S2CError, match="manifest of the run folder cannot be read"):
            evaluate(whole.program, whole.x, run_folder=run)
        assert (run / "manifest.json").read_text() == text


def test_one_process_at_a_time(whole: Whole, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(S2CError, match="in use"):
            evaluate(whole.program, whole.x, run_folder=tmp_path / "run")

    evaluate(whole.program, whole.x, run_folder=tmp_path / "run", progress=second)


def test_a_folder_in_the_home(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert evaluate(whole.program, whole.x, whole.y, run_folder="~/run") == whole.evaluation
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
