"""Programs as ``.onnx``: ONNX's reference evaluator and onnxruntime must give the integers of the reference engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from effort import examples
from snn2chip.emit.onnx import write_onnx
from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import simulate
from snn2chip.simulate.data import to_integers
from tests.emit.random_programs import Case, cases
from tests.networks import node, population, program

onnx = pytest.importorskip("onnx")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], dict[str, Array]]


def _reference(model: Any) -> Run:
    session = ReferenceEvaluator(model)
    names = [value.name for value in model.graph.output]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def _onnxruntime(model: Any) -> Run:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


ENGINES = {"reference": _reference, "onnxruntime": _onnxruntime}


def _metadata(model: Any) -> dict[str, Any]:
    return {p.key.removeprefix("snn2chip."): json.loads(p.value) for p in model.metadata_props}


def _stepped(model: Any, run: Run, x: Array) -> dict[str, Array]:
    """Every output [N, T, ...] of the model on integers [N, T, ...], its states fed back as its metadata say."""
    said = _metadata(model)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in model.graph.input}
    (data,) = [name for name in shapes if name not in said["states"]]
    states = {
        name: np.broadcast_to(np.asarray(said["start"].get(name, 0), np.int64), (len(x), *shapes[name])).copy()
        for name in said["states"]
    }
    steps = []
    for t in range(x.shape[1]):
        steps.append(run({data: x[:, t], **states}))
        states = {name: steps[-1][out] for name, out in said["states"].items()}
    return {name: np.stack([step[name] for step in steps], 1) for name in steps[0]}


def _check(case_program: Program, x: Array, model: Any, run: Run) -> Counter[str]:
    """u, v, spikes and outputs against the reference engine; how often each population fired."""
    result = simulate(case_program, x, record=("u", "v", "spikes"))
    integers, _ = to_integers(case_program, x)
    if case_program.coding == "direct":
        integers = np.repeat(integers[:, None], case_program.time_steps or 0, axis=1)
    got = _stepped(model, run, integers)
    fired: Counter[str] = Counter()
    for pop in case_program.neurons:
        expected = result[pop.name]
        for state in ("u", "v"):
            np.testing.assert_array_equal(got[f"{pop.name}.{state}.next"], getattr(expected, state), f"{pop.name}")
        np.testing.assert_array_equal(got[f"{pop.name}.out"], expected.spikes, pop.name)
        fired[pop.name] = int((expected.spikes != 0).sum())
    outputs = got[case_program.output.name]
    how = _metadata(model)["readout"]
    read = {"sum": lambda: outputs.sum(1), "last": lambda: outputs[:, -1], "max": lambda: outputs.max(1)}[how]()
    np.testing.assert_array_equal(read, result.outputs_int)
    return fired


def _written(case_program: Program, path: Path) -> Any:
    write_onnx(case_program, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("engine", ENGINES)
def test_random_programs_give_the_same_integers(engine: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("onnx") / "program.onnx"
    seen: Counter[str] = Counter()

    @settings(max_examples=examples(200), deadline=None)
    @given(cases())
    def check(case: Case) -> None:
        model = _written(case.program, path)
        fired = _check(case.program, case.x, model, ENGINES[engine](model))
        seen["programs"] += 1
        seen["all fire"] += all(fired.values())
        seen.update({type(n.layer).__name__ for n in case.program})
        seen["recurrent"] += any(e.recurrent for n in case.program for e in n.inputs)
        seen["start"] += bool(_metadata(model)["start"])

    check()
    assert seen["all fire"] > 0.3 * seen["programs"]
    for kind in ("Linear", "Conv2d", "Conv1d", "SumPool", "Permute", "Flatten", "Add", "Rescale", "recurrent", "start"):
        assert seen[kind] >= 1, f"{kind} was never tried: {dict(seen)}"


def _by_hand(*nodes: Any, shape: tuple[int, ...] = (2,)) -> Program:
    return program(shape, *nodes, time_steps=4)


_FORGETS, _KEEPS = np.asarray(4096), np.asarray(0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_case_worked_by_hand(engine: str, tmp_path: Path) -> None:
    """One neuron, weights 2 and −4, threshold 3 << 6, decay of v 1/4 toward zero, hard reset."""
    lif = IntegerLIF(np.asarray(3), np.asarray(1024), _FORGETS, np.asarray(-1), 0)
    hand = _by_hand(node("s", L.Linear(np.array([[2, -4]])), "x"), node("n", population(lif), "s"))
    model = _written(hand, tmp_path / "hand.onnx")
    x = np.array([[[1, 0], [1, 0], [0, 1], [0, 0]]])
    got = _stepped(model, ENGINES[engine](model), x)
    # 128 − 1 = 127; trunc(127·3/4) + 127 = 222 > 192: spike, 0; −256 − 1 = −257; trunc(−257·3/4) − 1 = −193.
    assert got["n.v.next"][0, :, 0].tolist() == [127, 0, -257, -193]
    assert got["n.out"][0, :, 0].tolist() == [0, 1, 0, 0]
    assert got["n.u.next"][0, :, 0].tolist() == [128, 128, -256, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_wrapping_and_saturating_registers(engine: str, tmp_path: Path) -> None:
    lif = IntegerLIF(np.asarray(131071), _KEEPS, _KEEPS, np.asarray(0))
    heavy = _by_hand(node("s", L.Linear(np.array([[65000, 0], [0, -65000]])), "x"), node("n", population(lif), "s"))
    model = _written(heavy, tmp_path / "heavy.onnx")
    x = np.ones((1, 4, 2))
    fired = _check(heavy, x, model, ENGINES[engine](model))
    result = simulate(heavy, x, record=("u", "v"))["n"]
    assert result.u is not None
    assert result.v is not None
    # 3 · 65000 · 64 lies beyond 2**23, and the membrane reaches the threshold only at the end of its register.
    assert result.u[0, :3, 0].tolist() == [4160000, 8320000, 3 * 4160000 - 2**24]
    assert result.v[0, 1, 1] == -(2**23 - 1)
    assert fired["n"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_pooling_groups_dilation_and_host_layers(engine: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lif = IntegerLIF(np.asarray(2), _KEEPS, _FORGETS, np.asarray(0), reset="soft", fire=">=")
    net = _by_hand(
        node("conv", L.Conv2d(rng.integers(-3, 6, (4, 1, 3, 2)), None, (2, 1), (1, 2), (1, 2), 2), "x"),
        node("n", population(lif), "conv"),
        node("max", L.MaxPool((2, 2), (2, 1), (1, 0), ceil_mode=True), "n"),
        node("sum", L.SumPool((2, 2), (1, 2), (0, 1)), "n"),
        node("weights", L.Scale(np.array(3)), "max"),
        node("flat", L.Flatten(), "weights"),
        node("flat2", L.Flatten(), "sum"),
        node("all", L.Concat(0), "flat", "flat2"),
        node("late", L.Delay(2), "all"),
        node("pair", L.Mul(), "late", "all"),
        shape=(2, 5, 6),
    )
    model = _written(net, tmp_path / "net.onnx")
    x = (rng.uniform(size=(2, 4, 2, 5, 6)) < 0.5).astype(float)
    assert _check(net, x, model, ENGINES[engine](model))["n"] > 10
    assert simulate(net, x).outputs_int.any()


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    lif = IntegerLIF(np.asarray(3), _KEEPS, _FORGETS, np.asarray(1))
    net = _by_hand(node("s", L.Linear(np.array([[2, 4]])), "x"), node("n", population(lif), "s"))
    write_onnx(net, tmp_path / "a.onnx")
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import numpy as np\n"
        "from networks import node, population, program\n"
        "from snn2chip.ir import layers as L\n"
        "from snn2chip.neurons.lif import IntegerLIF\n"
        "from snn2chip.emit.onnx import write_onnx\n"
        "lif = IntegerLIF(np.asarray(3), np.asarray(0), np.asarray(4096), np.asarray(1))\n"
        "net = program((2,), node('s', L.Linear(np.array([[2, 4]])), 'x'), node('n', population(lif), 's'),"
        " time_steps=4)\n"
        f"write_onnx(net, {str(tmp_path / 'b.onnx')!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "1", "PYTHONPATH": "."})
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_equal_neurons_share_one_function(tmp_path: Path) -> None:
    def lif(threshold: int, **options: Any) -> L.Neuron:
        return population(IntegerLIF(np.asarray(threshold), np.asarray(100), _FORGETS, np.asarray(1), **options))

    net = _by_hand(
        node("s", L.Linear(np.array([[2, 4]])), "x"),
        node("a", lif(3), "s"),
        node("t", L.Linear(np.array([[2], [6]])), "a"),
        node("b", lif(5), "t"),
        node("w", L.Linear(np.array([[2, 8]])), "b"),
        node("c", lif(5, reset="soft"), "w"),
    )
    model = _written(net, tmp_path / "net.onnx")
    called = {n.name: n.op_type for n in model.graph.node if n.domain == "snn2chip"}
    assert called["a"] == called["b"] != called["c"]
    assert {f.name for f in model.functions} == set(called.values())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (L.AvgPool((2,), (2,), (0,)), "AvgPool has no exact integer operator"),
        (
            L.Neuron(
                type("Random", (IntegerLIF,), {"step": lambda s, state, a, c: (state, np.sin(a))})(
                    np.asarray(3), _KEEPS, _FORGETS, np.asarray(0)
                )
            ),
            "is not made of integer operations alone: the step uses numpy.sin",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(layer: Any, message: str, tmp_path: Path) -> None:
    net = _by_hand(node("odd", layer, "x"), shape=(2, 4))
    (tmp_path / "old.onnx").write_bytes(b"before")
    with pytest.raises(S2CError, match="cannot be written") as caught:
        write_onnx(net, tmp_path / "old.onnx")
    assert message in caught.value.why
    assert caught.value.where.startswith("odd")
    assert (tmp_path / "old.onnx").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_onnx_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    net = _by_hand(node("s", L.Linear(np.array([[2, 4]])), Edge("x")))
    with pytest.raises(S2CError, match="needs onnx") as caught:
        write_onnx(net, tmp_path / "net.onnx")
    assert "snn2chip[onnx]" in caught.value.fix
