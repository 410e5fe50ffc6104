"""A NIR file on the command line: every question its reader asks can be answered there, also by population."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nir
import numpy as np
import pytest

import snn2chip

N, T, SIZE = 40, 12, 6
OF_A = ("--reset", "a=zero", "--reset-timing", "a=next", "--fire", "a=>=")
OF_B = ("--reset", "b=subtract", "--input-gain", "b=impulse", "--integrator-gain", "c=r", "--reset", "c=zero")
ANSWERS = ("--dt", "1e-3", *OF_A, *OF_B, "--integration", "exponential", "--start", "a=v_leak")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Path of input → fc → a → b → c with two outputs, and of data."""
    folder = tmp_path_factory.mktemp("nir")
    rng = np.random.default_rng(0)
    full = {name: np.full(SIZE, value) for name, value in (("half", 0.5), ("one", 1.0), ("tau", 4e-3), ("rest", 0.05))}
    nodes = {
        "input": nir.Input(np.array([SIZE])),
        "fc": nir.Linear(rng.uniform(0, 0.8, (SIZE, SIZE)).astype(np.float32)),
        "a": nir.LIF(full["tau"], full["one"], full["rest"], full["half"]),
        "b": nir.LIF(full["tau"], full["one"], 0 * full["rest"], full["half"]),
        "c": nir.IF(full["one"], full["one"]),
        "early": nir.Output(np.array([SIZE])),
        "late": nir.Output(np.array([SIZE])),
    }
    edges = [("input", "fc"), ("fc", "a"), ("a", "b"), ("b", "c"), ("b", "early"), ("c", "late")]
    nir.write(folder / "net.nir", nir.NIRGraph(nodes, edges, type_check=False))
    np.savez(folder / "data.npz", x=(rng.random((N, T, SIZE)) < 0.5).astype(np.float32))
    return str(folder / "net.nir"), str(folder / "data.npz")


def test_compile_with_an_answer_by_population(run, files: tuple[str, str], tmp_path: Path) -> None:
    model, data = files
    arguments = ("--data", data, *ANSWERS, "--output-node", "late", "--against", "reference")
    result = run("compile", model, *arguments, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    graph = snn2chip.load_graph(
        model,
        dt=1e-3,
        reset={"a": "zero", "b": "subtract", "c": "zero"},
        reset_timing={"a": "next"},
        fire={"a": ">="},
        input_gain={"b": "impulse"},
        integrator_gain={"c": "r"},
        integration="exponential",
        start={"a": "v_leak"},
        output="late",
    )
    program, x = snn2chip.load(tmp_path / "out" / "model.nir"), np.load(data)["x"]
    wanted, got = (snn2chip.simulate(network, x).outputs for network in (graph, program))
    assert wanted.sum() > 50
    assert np.abs(wanted - got).mean() < 0.3


def test_inspect_asks_the_same(run, files: tuple[str, str]) -> None:
    result = run("inspect", files[0], *ANSWERS, "--output-node", "late")
    assert result.exit_code == 0, result.output
    assert "v >= 0.5" in result.stdout
    assert "soft reset" in result.stdout
    assert "leaks to 0.05" in result.stdout
    assert "starts at 0.05" in result.stdout


def test_inspect_without_answers_asks_for_them(run, files: tuple[str, str]) -> None:
    result = run("inspect", files[0], "--output-node", "late")
    assert result.exit_code == 2
    bare = run("inspect", files[0])
    assert bare.exit_code == 2
    assert "Output nodes" in bare.stderr
    assert "--dt 1e-4" in result.stderr


def test_what_is_guessed_is_told_in_one_line(files: tuple[str, str]) -> None:
    """In a process of its own: pytest takes warnings away."""
    call = "from snn2chip.cli import main; main(prog_name='snn2chip')"
    arguments = [sys.executable, "-c", call, "inspect", files[0], *ANSWERS[:-2], "--output-node", "late"]
    told = subprocess.run(arguments, capture_output=True, text=True, check=True).stderr
    assert told.startswith("warning: the membrane of a starts every sample at zero")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ((), ("2 Output nodes", "--output-node late")),
        (("--output-node", "late"), ("time step is missing", "dt in seconds")),
        (("--output-node", "late", "--dt", "1e-3"), ("kind of reset is missing", 'reset="zero"')),
        (("--output-node", "late", "--dt", "1e-3", "--reset", "zero"), ("c (IF)", 'integrator_gain="r"')),
        (("--reset", "soft"), ("--reset", "'soft' is not one of zero, v_reset, subtract, none")),
        (("--reset", "zero", "--reset", "a=none"), ("one value for all, or NAME=VALUE",)),
        ((*ANSWERS, "--output-node", "late", "--fire", "q=>"), ("fire names 'q'", "populations: a, b, c")),
        ((*ANSWERS, "--output-node", "late", "--start", "a=0.5"), ("start cannot be 0.5", "'v_leak'")),
    ],
)
def test_what_is_missing_is_asked_for(
    run, files: tuple[str, str], given: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    model, data = files
    result = run("compile", model, "--data", data, *given)
    assert result.exit_code == 2, result.output
    for part in parts:
        assert part in result.stderr
