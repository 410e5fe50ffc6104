"""``snn2chip compile`` on an ONNX model of one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import snn2chip

onnx = pytest.importorskip("onnx")

STEP = """<ir_version: 8, opset_import: ["": 18]>
step (float[N,6] x, float[N,4] q) => (float[N,4] s, float[N,4] v) {
    i = MatMul(x, w)
    a = Mul(beta, q)
    h = Add(a, i)
    f = Greater(h, theta)
    s = Cast <to = 1> (f)
    v = Where(f, zero, h)
}"""
ASKED = ("--states", "q=v", "--start", "0", "--readout", "sum")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """The model and its data."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(STEP)
    constants = {"w": rng.normal(0.3, 0.5, (6, 4)), "beta": 0.75, "theta": 1.0, "zero": 0.0}
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=(rng.uniform(size=(12, 9, 6)) < 0.5).astype(np.float32))
    return str(tmp_path / "net.onnx"), str(tmp_path / "data.npz")


def test_compile_an_onnx_model(run, files: tuple[str, str], tmp_path: Path) -> None:
    model, data = files
    result = run("compile", model, "--data", data, *ASKED, "--against", "reference", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    program = snn2chip.load(tmp_path / "out" / "model.nir")
    x = np.load(data)["x"]
    graph = snn2chip.load_graph(model, states={"q": "v"}, start=0, readout="sum")
    wanted, got = (snn2chip.simulate(network, x).outputs for network in (graph, program))
    assert wanted.sum() > 50
    assert np.abs(wanted - got).mean() < 0.3


@pytest.mark.parametrize(
    ("given", "code", "parts"),
    [
        (("--states", "q"), 2, ("--states 'q' names no pair", "input=output")),
        (("--states", "q=v", "--start", "0"), 2, ("the read-out is missing", "net.onnx")),
        (("--states", "q=v", "--readout", "sum"), 2, ("the state at the start of a sample is missing",)),
        ((*ASKED, "--reset", "zero"), 2, ("reset is no option for .onnx files",)),
        ((*ASKED, "--weights", "w.pt"), 2, ("a .onnx file has its weights inside",)),
    ],
)
def test_what_is_missing_is_asked_for(
    run, files: tuple[str, str], given: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    model, data = files
    result = run("compile", model, "--data", data, *given)
    assert result.exit_code == code, result.output
    for part in parts:
        assert part in result.stderr


def test_states_are_for_onnx_models(run) -> None:
    for option in (("--states", "a=b"), ("--states", "a=b", "--start", "0")):
        result = run("compile", "user.py:network", "--data", "data.npz", *option)
        assert result.exit_code == 2
        assert f"{', '.join(option[::2])} is for .onnx models" in result.stderr


def test_an_onnx_model_is_no_network_to_simulate(run, files: tuple[str, str]) -> None:
    model, data = files
    result = run("simulate", model, "--data", data)
    assert result.exit_code == 1
    assert "it is an ONNX model: a float network" in result.stderr
