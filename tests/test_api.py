"""The public functions: names, laziness, and what ``compile`` promises."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snn2chip as s2c
from networks import graph, node, population, spikes, weights
from snn2chip import api
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Linear, Mul
from snn2chip.neurons.lif import LIF

X = spikes(np.random.default_rng(0), 30, 5, 8)


@pytest.fixture(scope="module")
def net() -> Graph:
    rng = np.random.default_rng(1)
    return graph(
        (8,),
        node("fc1", Linear(weights(rng, 12, 8, gain=2)), "x"),
        node("lif1", population(LIF(0.5, 0.75)), "fc1"),
        node("fc2", Linear(weights(rng, 3, 12, gain=2)), "lif1"),
        node("lif2", population(LIF(0.5, 0.75)), "fc2"),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_importing_is_light_and_names_stay_functions() -> None:
    """Subpackages of the same name must not take the functions' places."""
    script = """
import sys
import snn2chip
assert not {"torch", "numpy", "h5py"} & set(sys.modules), "import snn2chip imports more than it needs"
import snn2chip.simulate, snn2chip.quantize, snn2chip.verify
from snn2chip.simulate.counting import fan_out
from snn2chip import simulate
for name in ("trace", "load_graph", "quantize", "load", "simulate", "verify", "compile"):
    assert name in snn2chip.__all__ and type(getattr(snn2chip, name)).__name__ == "function", name
assert simulate is snn2chip.simulate
assert "torch" not in sys.modules, "only trace needs torch"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_torch_everything_but_trace_works(net: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python marks a module that cannot be imported.
    script = """
import sys
sys.modules["torch"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
import numpy as np, snn2chip
program = snn2chip.load(sys.argv[1])
snn2chip.simulate(program, np.load(sys.argv[2])["x"], record="v")
try:
    snn2chip.trace(object(), None)
except snn2chip.S2CError as error:
    assert "pip install torch" in error.fix
else:
    raise SystemExit("trace must say that torch is missing")
"""
    build = s2c.compile(net, calibration=X, out=tmp_path / "out", against=())
    np.savez(tmp_path / "x.npz", x=X)
    arguments = [sys.executable, "-c", script, str(build.out / "model.nir"), str(tmp_path / "x.npz")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_compile_is_repeatable_and_reads_back(net: Graph, tmp_path: Path) -> None:
    labels = s2c.simulate(net, X).outputs.argmax(axis=1)
    first = s2c.compile(net, calibration=X[:20], data=X, labels=labels, out=tmp_path / "a", against=("reference",))
    again = s2c.compile(net, calibration=X[:20], data=X, labels=labels, out=tmp_path / "b", against=("reference",))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert s2c.load(first.out / "model.nir") == first.program
    assert first.verified
    assert first.report == again.report == json.loads((first.out / "report.json").read_text("utf-8"))
    assert "20 of the 30 samples measured on were calibration samples too." in first.report["remarks"]


@pytest.mark.parametrize("label", [-1, 3, 255, 1.5, np.nan])
def test_a_label_that_is_no_class(net: Graph, tmp_path: Path, label: float) -> None:
    labels = np.where(np.arange(30) == 17, label, np.arange(30) % 3)
    with pytest.raises(S2CError, match="is no class") as caught:
        s2c.compile(net, calibration=X, data=X, labels=labels, out=tmp_path / "out")
    assert caught.value.where == "labels, sample 17"
    assert "0 to 2" in caught.value.why
    assert not list(tmp_path.iterdir())


def test_an_example_with_a_mask() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(S2CError, match="1 of 4 values are masked") as caught:
        s2c.trace(torch.nn.Linear(4, 2), np.ma.masked_equal(np.arange(4, dtype=np.float32)[None], 2))
    assert caught.value.where == "example"


def test_net_is_written_where_netx_can_take_it(net: Graph, tmp_path: Path) -> None:
    build = s2c.compile(net, calibration=X, out=tmp_path / "out", against=())
    refused = {entry["what"]: entry["why"] for entry in build.report["not_done"]}
    if (build.out / "model.net").exists():
        assert "model.net" not in refused
        result = s2c.simulate(s2c.load(build.out / "model.net"), X)
        np.testing.assert_array_equal(result.outputs_int, s2c.simulate(build.program, X).outputs_int)
    else:
        assert refused["model.net"]


def test_what_cannot_hold_products_is_left_out_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    gated = graph(
        (8,),
        node("fc1", Linear(weights(rng, 8, 8, gain=2)), "x"),
        node("lif1", population(LIF(0.5, 0.75)), "fc1"),
        node("gate", Mul(), "lif1", "x"),
        node("fc2", Linear(weights(rng, 3, 8, gain=2)), "gate"),
        node("lif2", population(LIF(0.5, 0.75)), "fc2"),
    )
    build = s2c.compile(gated, calibration=X, out=tmp_path / "out", against=("lava", "fast"), host=["products"])
    assert sorted(p.name for p in build.out.iterdir()) == [
        "manifest.json",
        "model.nir",
        "report.html",
        "report.json",
        "report.md",
    ]
    refused = {entry["what"]: entry["why"] for entry in build.report["not_done"]}
    assert refused["model.net"].startswith("gate (Mul): multiplies two computed values")
    assert "gate (Mul) on the host answers spikes of the same step for lif2" in refused["lava/"]
    nir, lava, fast = build.report["verification"]
    assert (nir["equal"], lava["ran"], fast["equal"], build.verified) == (True, False, True, True)
    assert "gate (Mul)" in lava["detail"]
    (row,) = [row for row in build.report["operations"] if row["name"] == "gate"]
    assert (row["placement"], row["macs"], row["synops"]) == ("host", 8 * 5, 0)
    for text in (build.summary(), (build.out / "report.md").read_text("utf-8")):
        assert "gate: multiplied on the host" in text
        assert "Host MACs per inference" in text


def test_a_difference_is_reported_and_not_hidden(net: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.verify

    def other(program: Any, x: Any, against: str) -> Any:
        """An oracle that runs another network: half of its first layer is gone."""
        spoiled = program["fc1"].layer.weight.copy()
        spoiled[::2] = 0
        layer = dataclasses.replace(program["fc1"].layer, weight=spoiled)
        bad = program.with_nodes(dataclasses.replace(n, layer=layer) if n.name == "fc1" else n for n in program)
        recorded = s2c.simulate(bad, x, record=("u", "v", "spikes"))
        recording = {name: {"v": r.v, "spikes": r.spikes} for name, r in recorded.recordings.items()}
        return real(program, x, recording)

    monkeypatch.setattr(api, "verify", other)
    build = s2c.compile(net, calibration=X, out=tmp_path / "out", against=("lava",))
    assert not build.verified
    entry = build.report["verification"][-1]
    assert entry["equal"] is False
    assert "lif1" in entry["detail"]
    assert "| differs |" in (build.out / "report.md").read_text("utf-8")


def test_an_oracle_that_is_missing_is_named_and_the_fast_engine_compared(
    net: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = api.verify

    def without_lava(*args: Any, against: Any) -> Any:
        if against == "lava":
            raise S2CError("Lava is not installed", fix="pip install --no-deps lava-nc")
        return real(*args, against=against)

    monkeypatch.setattr(api, "verify", without_lava)
    build = s2c.compile(net, calibration=X, out=tmp_path / "out", against=("lava",))
    entry, instead = build.report["verification"][-2:]
    assert (entry["ran"], entry["equal"], entry["detail"]) == (False, None, "Lava is not installed")
    assert (instead["against"], instead["ran"], instead["equal"]) == ("the fast engine", True, True)
    assert build.verified, "what did not run says nothing against the network"
    assert "| lava | not run | Lava is not installed |" in (build.out / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "calibration data is missing"),
        ({"calibration": X, "labels": np.zeros(30, int)}, "there are labels but no data"),
        ({"calibration": X, "time_steps": 9}, "contradicts the Graph"),
        ({"calibration": X, "data": X, "labels": np.zeros(7, int)}, r"labels of shape \(7,\) do not fit 30"),
        ({"calibration": X, "data": X, "labels": ["cat"] * 30}, "the label cat is no class"),
        ({"calibration": X, "data": X, "labels": np.ma.masked_equal(np.arange(30) % 3, 1)}, "10 of 30 values are mask"),
        ({"calibration": np.ma.masked_less(X, 0.5)}, "values are masked"),
        ({"calibration": X[:, :, :3]}, "the data has shape"),
        ({"calibration": X, "target": "loihi9"}, "there is no target"),
        ({"calibration": X, "against": ("magic",)}, "called 'magic'"),
    ],
)
def test_bad_arguments_leave_an_earlier_output_alone(
    net: Graph, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    s2c.compile(net, calibration=X, out=out, against=())
    before = contents(tmp_path)
    with pytest.raises(S2CError, match=message):
        s2c.compile(net, **arguments, out=out)
    assert contents(tmp_path) == before


def test_a_foreign_folder_is_not_replaced(net: Graph, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(S2CError, match="could not be written"):
        s2c.compile(net, calibration=X, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_samples_are_turned_for_a_model_that_takes_time_first(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class TimeFirst(torch.nn.Module):
        """[T, N, 8] → [N, 3], as SpikingJelly's step mode "m" has it."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            v = total = 0.0
            for frame in x:
                v = 0.5 * v + self.fc(frame)
                spike = (v > 0.3).float()
                v = v * (1 - spike)
                total = total + spike
            return total

    torch.manual_seed(0)
    model = TimeFirst()
    for steps in (None, 5):
        build = s2c.compile(model, time_steps=steps, calibration=X, out=tmp_path / "out", against=())
        assert (build.graph.time_steps, build.graph.coding) == (5, "steps")
        expected = model(torch.from_numpy(X).float().swapaxes(0, 1)).detach().numpy()
        np.testing.assert_array_equal(s2c.simulate(build.graph, X).outputs, expected)
    with pytest.raises(S2CError, match="time_steps is 7"):
        s2c.compile(model, time_steps=7, calibration=X, out=tmp_path / "out")


def test_usage_errors_are_usage_errors(net: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        s2c.compile(net, out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"(?s)a path holds a null byte.*net\\x00\.nir"):
        s2c.load("net\0.nir")
    with pytest.raises(UsageError, match="a path holds a null byte"):
        s2c.compile(net, calibration=X, out=f"{tmp_path}/out\0", against=())
    assert not contents(tmp_path)
