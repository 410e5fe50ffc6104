"""ONNX models against their own evaluation, step by step, and against the torch modules they were exported from."""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.load import load, load_graph
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Graph
from snn2chip.neurons.lif import LIF
from snn2chip.simulate import simulate

onnx = pytest.importorskip("onnx")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

Array = np.ndarray[Any, Any]

N, T, SIZE = 3, 40, 5
BETA, TAU, RATE, THETA, RESET, REST = 0.8125, 2.7, 0.3, 0.7, -0.15, 0.1


def _save(path: Path, signature: str, body: str, opset: int = 18, **constants: Any) -> Path:
    """A model in ONNX's own text form; ``constants`` become initializers (names with dots: ``_`` for ``.``)."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]>\nstep {signature}\n{{\n{body}\n}}'
    model = onnx.parser.parse_model(text)
    for name, value in constants.items():
        array = np.asarray(value, dtype=np.asarray(value).dtype if np.ndim(value) else _kind(value))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _kind(value: Any) -> Any:
    return np.int64 if isinstance(value, int) else np.float32


def _stepped(
    path: Path, states: Mapping[str, str], x: Array, start: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """Every output [N, T, ...] by ONNX's evaluator, each sample from the start values."""
    model = onnx.load(path)
    session = ReferenceEvaluator(model)
    names = [v.name for v in model.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in model.graph.input}
    (data,) = [n for n in shapes if n not in states]
    begin = {n: np.asarray((start or {}).get(n, 0), np.float32) for n in states}
    held = {n: np.broadcast_to(begin[n], (len(x), *shapes[n])).astype(np.float32) for n in states}
    steps = []
    for t in range(x.shape[1]):
        got = dict(zip(names, session.run(names, {data: x[:, t].astype(np.float32), **held}), strict=True))
        held = {n: got[out] for n, out in states.items()}
        steps.append(got)
    return {n: np.stack([s[n] for s in steps], 1) for n in names}


def _one(graph: Graph) -> LIF:
    (population,) = graph.neurons
    model = population.layer.model  # type: ignore[attr-defined]
    assert isinstance(model, LIF)
    return model


# ---------------------------------------------------------------- every neuron, operation by operation

FORMS = {
    "factor": "a = Mul(beta, v)\nh = Add(a, x)",
    "tau": "a = Sub(x, v)\nb = Div(a, tau)\nh = Add(v, b)",
    "tau_sum": "a = Sub(rest, v)\nb = Add(a, x)\nc = Div(b, tau)\nh = Add(v, c)",
    "tau_undriven": "a = Sub(v, rest)\nb = Div(a, tau)\nc = Sub(v, b)\nh = Add(c, x)",
    "rate": "a = Sub(v, rest)\nb = Sub(x, a)\nc = Mul(b, rate)\nh = Add(v, c)",
    "subtract": "a = Sub(v, rest)\nb = Mul(a, rate)\nc = Sub(v, b)\nh = Add(c, x)",
}
HEAVISIDE = (
    "over = Sub(h, theta)\nbelow = Less(over, zero)\nup = Where(below, zero, one)\nat = Equal(over, zero)\n"
    "stepped = Where(at, {}, up)\nfired = Cast <to = 9> (stepped)"
)
FIRES = {
    ">": "fired = Greater(h, theta)",
    ">=": "fired = GreaterOrEqual(h, theta)",
    "> by difference": "over = Sub(h, theta)\nfired = Greater(over, zero)",
    "> turned round": "fired = Less(theta, h)",
    ">= negated": "below = Less(h, theta)\nfired = Not(below)",
    "> as torch.heaviside": HEAVISIDE.format("zero"),
    ">= as torch.heaviside": HEAVISIDE.format("one"),
}
RESETS = {
    ("hard", "where"): "v_out = Where(fired, reset, h)",
    ("hard", "product"): "kept = Sub(one, s)\nd = Mul(kept, h)\ne = Mul(s, reset)\nv_out = Add(d, e)",
    ("soft", "product"): "d = Mul(s, theta)\nv_out = Sub(h, d)",
    ("soft", "where"): "d = Sub(h, theta)\nv_out = Where(fired, d, h)",
    ("none", ""): "v_out = Identity(h)",
}
CONSTANTS = {
    "beta": BETA,
    "tau": TAU,
    "rate": RATE,
    "rest": REST,
    "theta": THETA,
    "reset": RESET,
    "zero": 0.0,
    "one": 1.0,
}
SIGNATURE = f"(float[N,{SIZE}] x, float[N,{SIZE}] v) => (float[N,{SIZE}] s, float[N,{SIZE}] v_out)"


def _drive(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(0.5, 1.0, shape).astype(np.float32)


def _check_bit_for_bit(path: Path, model: dict[str, Any], states: dict[str, str], fire: str = "s") -> None:
    graph = load_graph(path, states=states, start=0, readout="none", output=fire)
    found = _one(graph)
    for name, value in model.items():
        assert getattr(found, name) == pytest.approx(value), name
    x = _drive(np.random.default_rng(1), N, T, SIZE)
    expected = _stepped(path, states, x)
    result = simulate(graph, x, record=("v", "spikes"), backend="numpy")
    population = result[graph.neurons[0].name]
    assert expected[fire].any()
    np.testing.assert_array_equal(population.spikes, expected[fire])
    np.testing.assert_array_equal(population.v, expected[states["v"]])
    np.testing.assert_array_equal(result.outputs, expected[fire])


@pytest.mark.parametrize(
    ("form", "fire", "reset"),
    [
        *itertools.product(FORMS, [">="], RESETS),
        *itertools.product(["factor", "tau"], FIRES, [("hard", "where"), ("soft", "product")]),
    ],
    ids=str,
)
def test_reset_in_the_step_of_the_spike(form: Any, fire: str, reset: tuple[str, str], tmp_path: Path) -> None:
    body = f"{FORMS[form]}\n{FIRES[fire]}\ns = Cast <to = 1> (fired)\n{RESETS[reset]}"
    path = _save(tmp_path / "n.onnx", SIGNATURE, body, **CONSTANTS)
    # Bit for bit the same operations as "tau".
    named = "tau" if form == "tau_sum" else form
    expected = {"decay_form": named, "fire": fire.split()[0], "reset": reset[0], "v_threshold": np.float32(THETA)}
    expected |= {"v_reset": np.float32(RESET)} if reset[0] == "hard" else {}
    _check_bit_for_bit(path, expected, {"v": "v_out"})


LATE = {
    ("hard", "gate"): "w = Where(before, reset, v)\na = Mul(beta, w)\nv_out = Add(a, x)",
    (
        "soft",
        "gate",
    ): "b = Cast <to = 1> (before)\nc = Mul(b, theta)\nw = Sub(v, c)\na = Mul(beta, w)\nv_out = Add(a, x)",
    ("hard", "next"): "a = Mul(beta, v)\nh = Add(a, x)\nv_out = Where(before, reset, h)",
    (
        "soft",
        "next",
    ): "a = Mul(beta, v)\nh = Add(a, x)\nb = Cast <to = 1> (before)\nc = Mul(b, theta)\nv_out = Sub(h, c)",
}


@pytest.mark.parametrize("late", LATE, ids=str)
@pytest.mark.parametrize(("operator", "fire"), [("Greater", ">"), ("GreaterOrEqual", ">=")])
def test_reset_one_step_late(late: tuple[str, str], operator: str, fire: str, tmp_path: Path) -> None:
    body = f"before = {operator}(v, theta)\n{LATE[late]}\nfired = {operator}(v_out, theta)\ns = Cast <to = 1> (fired)"
    path = _save(tmp_path / "n.onnx", SIGNATURE, body, **CONSTANTS)
    _check_bit_for_bit(path, {"fire": fire, "reset": late[0], "reset_timing": late[1]}, {"v": "v_out"})


@pytest.mark.parametrize("late", LATE, ids=str)
def test_a_spike_kept_as_a_state_of_its_own(late: tuple[str, str], tmp_path: Path) -> None:
    """The code of STBP and its descendants: membrane and spike are both carried on."""
    signature = SIGNATURE.replace("] v)", f"] v, float[N,{SIZE}] s_in)")
    body = f"before = Cast <to = 9> (s_in)\n{LATE[late]}\nfired = Greater(v_out, theta)\ns = Cast <to = 1> (fired)"
    path = _save(tmp_path / "n.onnx", signature, body, **CONSTANTS)
    _check_bit_for_bit(path, {"reset": late[0], "reset_timing": late[1]}, {"v": "v_out", "s_in": "s"})


def test_parameters_per_channel_and_per_neuron(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signature = "(float[N,2,3,4] x, float[N,2,3,4] v) => (float[N,2,3,4] s, float[N,2,3,4] v_out)"
    constants: dict[str, Any] = {
        "beta": rng.uniform(0.5, 0.9, (1, 2, 1, 1)).astype(np.float32),
        "theta": rng.uniform(0.5, 1.5, (2, 3, 4)).astype(np.float32),
        "reset": RESET,
    }
    body = f"{FORMS['factor']}\n{FIRES['>']}\ns = Cast <to = 1> (fired)\n{RESETS['hard', 'where']}"
    path = _save(tmp_path / "n.onnx", signature, body, **constants)
    graph = load_graph(path, states={"v": "v_out"}, start=0, readout="none")
    assert _one(graph).decay.shape == (2, 1, 1)
    np.testing.assert_array_equal(_one(graph).v_threshold, constants["theta"])
    x = _drive(rng, N, T, 2, 3, 4)
    expected = _stepped(path, {"v": "v_out"}, x)
    np.testing.assert_array_equal(simulate(graph, x, backend="numpy").outputs, expected["s"])


def test_start_values_are_those_of_every_sample(tmp_path: Path) -> None:
    body = f"{FORMS['factor']}\n{FIRES['>']}\ns = Cast <to = 1> (fired)\n{RESETS['hard', 'where']}"
    path = _save(tmp_path / "n.onnx", SIGNATURE, body, **CONSTANTS)
    start = np.linspace(0, 1, SIZE).astype(np.float32)
    x = _drive(np.random.default_rng(0), N, T, SIZE)
    seen = []
    for begin in (start, start[2]):
        graph = load_graph(path, states={"v": "v_out"}, start={"v": begin}, readout="none")
        expected = _stepped(path, {"v": "v_out"}, x, {"v": begin})
        result = simulate(graph, x, record="v", backend="numpy")
        np.testing.assert_array_equal(result["v"].v, expected["v_out"])
        seen.append(result["v"].v)
    assert not np.array_equal(*seen)


def test_a_leaky_integrator_returns_its_membrane(tmp_path: Path) -> None:
    signature = f"(float[N,{SIZE}] x, float[N,{SIZE}] v) => (float[N,{SIZE}] y, float[N,{SIZE}] v_out)"
    path = _save(tmp_path / "n.onnx", signature, "a = Mul(beta, v)\nv_out = Add(a, x)\ny = Identity(v_out)", beta=BETA)
    graph = load_graph(path, states={"v": "v_out"}, start=0, readout="max")
    assert graph.neurons[0].layer.kind == "LI"
    x = _drive(np.random.default_rng(0), N, T, SIZE)
    expected = _stepped(path, {"v": "v_out"}, x)["y"].max(1)
    np.testing.assert_array_equal(simulate(graph, x, backend="numpy").outputs, expected)


# ---------------------------------------------------------------- layers

STEP = "h = Add(a, {0})\nfired = Greater(h, theta)\ns = Cast <to = 1> (fired)\nv_out = Where(fired, zero, h)"


def _network(path: Path, shape: Iterable[int], out: Iterable[int], body: str, **constants: Any) -> Path:
    """Layers from ``x`` to ``y``, then a population."""
    sizes = [",".join(map(str, ("N", *s))) for s in (shape, out)]
    signature = f"(float[{sizes[0]}] x, float[{sizes[1]}] v) => (float[{sizes[1]}] s, float[{sizes[1]}] v_out)"
    body = f"{body}\na = Mul(beta, v)\n{STEP.format('y')}"
    return _save(path, signature, body, **{"beta": BETA, "theta": 0.5, "zero": 0.0, **constants})


def _w(*shape: int, seed: int = 3) -> Array:
    """Normal numbers; the same for a shape and a seed, whatever else is drawn."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], str, dict[str, Any], list[type[L.Layer]]]] = {
    "conv": (
        (4, 6, 7),
        (6, 4, 3),
        "y = Conv <pads = [1,0,1,0], strides = [2,3], dilations = [1,1], group = 2> (x, w, b)",
        {"w": _w(6, 2, 2, 1), "b": _w(6)},
        [L.Conv2d],
    ),
    "conv 1d, SAME": ((2, 9), (3, 9), 'y = Conv <auto_pad = "SAME_UPPER"> (x, w)', {"w": _w(3, 2, 3)}, [L.Conv1d]),
    "gemm": ((4,), (3,), "y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", {"w": _w(4, 3), "b": _w(3)}, [L.Linear]),
    "gemm, transposed": ((4,), (3,), "y = Gemm <transB = 1> (x, w)", {"w": _w(3, 4)}, [L.Linear]),
    "matmul and add": ((4,), (3,), "m = MatMul(x, w)\ny = Add(m, b)", {"w": _w(4, 3), "b": _w(3)}, [L.Linear]),
    "matmul over rows": ((2, 4), (2, 3), "m = MatMul(x, w)\ny = Add(b, m)", {"w": _w(4, 3), "b": _w(3)}, [L.Linear]),
    "batch norm": (
        (3, 2, 2),
        (3, 2, 2),
        "y = BatchNormalization <epsilon = 0.01> (x, g, b, m, var)",
        {"g": _w(3), "b": _w(3, seed=4), "m": _w(3, seed=5), "var": np.abs(_w(3, seed=6)) + 0.1},
        [L.BatchNorm],
    ),
    "average pool": (
        (2, 5, 5),
        (2, 3, 3),
        "y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x)",
        {},
        [L.AvgPool],
    ),
    "average pool, padding counted": (
        (2, 5, 5),
        (2, 3, 3),
        "y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], count_include_pad = 1> (x)",
        {},
        [L.AvgPool],
    ),
    "max pool": ((2, 5, 5), (2, 2, 2), "y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)", {}, [L.MaxPool]),
    "global pool, flatten": (
        (3, 4, 4),
        (3,),
        "p = GlobalAveragePool(x)\ny = Flatten(p)",
        {},
        [L.AvgPool, L.Flatten],
    ),
    "mean over space": (
        (3, 4, 4),
        (3,),
        "y = ReduceMean <keepdims = 0> (x, axes)",
        {"axes": np.array([2, 3])},
        [L.AvgPool, L.Flatten],
    ),
    "reshape, transpose, squeeze": (
        (2, 6),
        (3, 2, 2),
        "r = Reshape(x, size)\nt = Transpose <perm = [0,2,1,3]> (r)\nu = Unsqueeze(t, axis)\ny = Squeeze(u, axis)",
        {"size": np.array([0, 2, 3, 2]), "axis": np.array([1])},
        [L.Reshape, L.Permute],
    ),
    "reshape by computed shape": (
        (2, 3),
        (6,),
        "n = Shape <start = 0, end = 1> (x)\nsize = Concat <axis = 0> (n, rest)\ny = Reshape(x, size)",
        {"rest": np.array([-1])},
        [L.Flatten],
    ),
    "residual and concat": (
        (4,),
        (8,),
        "m = MatMul(x, w)\nr = Add(m, x)\nq = Sub(x, m)\ny = Concat <axis = -1> (r, q)",
        {"w": _w(4, 4)},
        [L.Add, L.Scale, L.Concat],
    ),
    "scale, cast, dropout": (
        (4,),
        (4,),
        "c = Cast <to = 1> (x)\nd = Dropout(c)\ne = Mul(d, g)\nf = Div(e, two)\ny = Neg(f)",
        {"g": _w(4), "two": -2.0},
        [L.Scale],
    ),
    "product of two branches": (
        (4,),
        (4,),
        "m = MatMul(x, w)\ny = Mul(m, x)",
        {"w": _w(4, 4)},
        [L.Linear, L.Mul],
    ),
    "slices with negative ends and steps": (
        (4, 6, 6),
        (3, 2, 6),
        "y = Slice(x, starts, ends, axes, steps)",
        {"starts": np.array([-3, 1]), "ends": np.array([9, -1]), "axes": np.array([1, -2]), "steps": np.array([1, 3])},
        [L.Gather],
    ),
    "split and joined": (
        (6,),
        (4,),
        "p, q, r = Split <axis = 1> (x, sizes)\ny = Concat <axis = 1> (r, p)",
        {"sizes": np.array([1, 2, 3])},
        [L.Gather, L.Concat],
    ),
    "one channel": (
        (3, 5),
        (5,),
        "c = Gather <axis = 1> (x, at)\ny = Squeeze(c, at)",
        {"at": np.array([1])},
        [L.Gather, L.Flatten],
    ),
    "padding before a convolution": (
        (2, 3, 3),
        (1, 4, 5),
        "p = Pad(x, ends, zero, axes)\ny = Conv <kernel_shape = [2,2]> (p, w)",
        {
            "ends": np.array([1, 2, 1, 1]),
            "axes": np.array([2, 3]),
            "w": np.linspace(-2, 3, 8, dtype=np.float32).reshape(1, 2, 2, 2),
        },
        [L.Gather, L.Conv2d],
    ),
    "picked twice, mirrored, repeated": (
        (4, 3),
        (6, 5),
        'g = Gather <axis = 1> (x, chosen)\np = Pad <mode = "reflect"> (g, ends)\ny = Tile(p, twice)',
        {"chosen": np.array([3, 0, 3]), "ends": np.array([0, 0, 1, 0, 0, 1]), "twice": np.array([1, 2, 1])},
        [L.Gather],
    ),
    "one value everywhere": (
        (3, 1),
        (3, 4),
        "y = Expand(x, size)",
        {"size": np.array([1, 3, 4])},
        [L.Gather],
    ),
    "constant per channel after pooling": (
        (2, 4, 4),
        (2, 2, 2),
        "p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)\ny = Add(p, b)",
        {"b": _w(2, 1, 1)},
        [L.MaxPool, L.BatchNorm],
    ),
    "constant per place after pooling": (
        (2, 4, 4),
        (2, 2, 2),
        "p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)\ny = Add(p, b)",
        {"b": _w(2, 1, 2)},
        [L.MaxPool, L.Conv2d],
    ),
    "constant per place behind a convolution": (
        (2, 4),
        (3, 4),
        "c = Conv <pads = [1,1]> (x, w, o)\ny = Add(c, b)",
        {"w": _w(3, 2, 3), "o": _w(3), "b": _w(3, 4)},
        [L.Conv1d],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_models_own_spikes(name: str, tmp_path: Path) -> None:
    shape, out, body, constants, kinds = LAYERS[name]
    path = _network(tmp_path / "n.onnx", shape, out, body, **constants)
    graph = load_graph(path, states={"v": "v_out"}, start=0, readout="none")
    held = [type(node.layer) for node in graph]
    assert all(kind in held for kind in kinds), str(graph)
    x = _drive(np.random.default_rng(0), N, T, *shape)
    expected = _stepped(path, {"v": "v_out"}, x)
    result = simulate(graph, x, record="v")
    assert expected["s"].any()
    np.testing.assert_array_equal(result.outputs, expected["s"])
    np.testing.assert_allclose(result[graph.neurons[0].name].v, expected["v_out"], atol=1e-5)


def test_one_population_reads_another_elementwise_and_an_earlier_step(tmp_path: Path) -> None:
    """A spike added to the input of the next population, scaled, and another that arrives one step late."""
    signature = (
        "(float[N,4] x, float[N,4] v, float[N,4] w, float[N,4] d) "
        "=> (float[N,4] y, float[N,4] v_out, float[N,4] w_out, float[N,4] s)"
    )
    body = (
        "a = Mul(beta, v)\nh = Add(a, x)\nf = Greater(h, theta)\ns = Cast <to = 1> (f)\nv_out = Where(f, zero, h)\n"
        "s2 = Mul(s, two)\nm = MatMul(d, k)\nin1 = Add(s2, m)\nb = Mul(beta, w)\ng = Add(b, in1)\n"
        "f2 = Greater(g, theta)\ny = Cast <to = 1> (f2)\nw_out = Where(f2, zero, g)"
    )
    path = _save(tmp_path / "n.onnx", signature, body, k=_w(4, 4), two=-0.4, **CONSTANTS)
    states = {"v": "v_out", "w": "w_out", "d": "s"}
    graph = load_graph(path, states=states, start=0, readout="none", output="y")
    late = [edge for node in graph for edge in node.inputs if edge.delay]
    assert [(edge.source, edge.delay, edge.recurrent) for edge in late] == [("v", 1, False)]
    x = _drive(np.random.default_rng(0), N, T, 4)
    expected = _stepped(path, states, x)["y"]
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(simulate(graph, x).outputs, expected)


# ---------------------------------------------------------------- exported from torch


def _torch_models() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    snn = pytest.importorskip("snntorch")
    nn = torch.nn

    class Leaky(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.conv, self.bn, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(2)
            self.l1, self.l2 = snn.Leaky(beta=0.9, **options), snn.Leaky(beta=0.8, **options)
            self.fc = nn.Linear(16, 6)
            with torch.no_grad():
                self.bn.running_var.uniform_(0.2, 0.6)
                self.bn.bias.uniform_(0.0, 0.6)

        def forward(self, x: Any, m1: Any, m2: Any) -> Any:
            s1, m1 = self.l1(self.bn(self.conv(x)), m1)
            s2, m2 = self.l2(self.fc(self.pool(s1).flatten(1)), m2)
            return s2, m1, m2

    class Synaptic(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.fc, self.l1 = nn.Linear(5, 6), snn.Synaptic(alpha=0.6, beta=0.9, **options)

        def forward(self, x: Any, i: Any, m: Any) -> Any:
            return self.l1(self.fc(x), i, m)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.l1 = nn.Linear(5, 6), snn.RLeaky(beta=0.9, linear_features=6)

        def forward(self, x: Any, s: Any, m: Any) -> Any:
            return self.l1(self.fc(x), s, m)

    class HandWritten(nn.Module):
        """Two populations in SpikingJelly's equations, the second with a residual from the first."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 6)

        def cell(self, x: Any, v: Any) -> Any:
            h = v + (x - v) / 2.0
            s = (h >= 0.5).to(h)
            return s, h * (1.0 - s)

        def forward(self, x: Any, v1: Any, v2: Any) -> Any:
            s1, v1 = self.cell(self.a(x) + 0.4, v1)
            s2, v2 = self.cell(self.b(s1) + s1, v2)
            return s1 + s2, v1, v2

    image, wide = (4, 4, 4), (6,)
    return {
        "snnTorch Leaky, subtract": (lambda: Leaky(), (1, 4, 4), [image, wide], 0),
        "snnTorch Leaky, zero": (lambda: Leaky(reset_mechanism="zero"), (1, 4, 4), [image, wide], 0),
        "snnTorch Leaky, none": (lambda: Leaky(reset_mechanism="none"), (1, 4, 4), [image, wide], 0),
        "snnTorch Synaptic": (Synaptic, (5,), [wide, wide], 0),
        "snnTorch Synaptic, zero": (lambda: Synaptic(reset_mechanism="zero"), (5,), [wide, wide], 0),
        "snnTorch RLeaky": (Recurrent, (5,), [wide, wide], 1),
        "hand-written, residual": (HandWritten, (5,), [wide, wide], 0),
    }


TORCH = (
    "snnTorch Leaky, subtract",
    "snnTorch Leaky, zero",
    "snnTorch Leaky, none",
    "snnTorch Synaptic",
    "snnTorch Synaptic, zero",
    "snnTorch RLeaky",
    "hand-written, residual",
)
# Opset 9 has no GreaterOrEqual.
EXPORTERS: dict[str, dict[str, Any]] = {
    "opset 9": {"dynamo": False, "opset_version": 9},
    "opset 17": {"dynamo": False, "opset_version": 17},
}


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:The tensor attribute .* was assigned during export:UserWarning",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
)
@pytest.mark.parametrize(
    ("name", "exporter"),
    [*itertools.product(TORCH, EXPORTERS), ("snnTorch Synaptic, zero", "dynamo"), ("hand-written, residual", "dynamo")],
)
def test_exports_of_torch_do_what_the_module_does(name: str, exporter: str, tmp_path: Path) -> None:
    """Several samples, one after another, each from zero; the data of ``output`` and of every membrane."""
    torch = pytest.importorskip("torch")
    make, shape, sizes, first_state = _torch_models()[name]
    torch.manual_seed(4)
    model = make().eval()
    zeros = [torch.zeros(1, *size) for size in sizes]
    path = tmp_path / "n.onnx"
    outs = [f"o{i}" for i in range(len(sizes) + 1 - first_state)]
    torch.onnx.export(
        model,
        (torch.zeros(1, *shape), *zeros),
        path,
        input_names=["x", *"ab"[: len(sizes)]],
        output_names=outs,
        **EXPORTERS.get(exporter, {"dynamo": True, "verbose": False}),
    )
    pairs = dict(zip("ab"[: len(sizes)], outs[1 - first_state :], strict=True))
    graph = load_graph(path, states=pairs, start=0, readout="none", output="o0")
    x = _drive(np.random.default_rng(0), N, T, *shape)
    expected, membranes = [], []
    with torch.no_grad():
        for sample in x:
            held = zeros
            for frame in sample:
                out = model(torch.from_numpy(frame)[None], *held)
                held = list(out[1 - first_state :])
                expected.append(out[0][0].numpy())
                membranes.append(held[-1][0].numpy())
    result = simulate(graph, x, record="v")
    spikes = np.stack(expected).reshape(N, T, *sizes[-1])
    assert 0.02 < (spikes != 0).mean() < 0.98
    np.testing.assert_array_equal(result.outputs, spikes)
    last = graph.neurons[-1].name
    np.testing.assert_allclose(result[last].v, np.stack(membranes).reshape(N, T, *sizes[-1]), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_reset_that_moves_the_next_threshold_is_refused(tmp_path: Path) -> None:
    """Without snnTorch's reset delay, a membrane above twice the threshold is reset once more by the next step."""
    torch = pytest.importorskip("torch")
    leaky = pytest.importorskip("snntorch").Leaky(beta=0.9, reset_delay=False).eval()
    zeros = (torch.zeros(1, 4), torch.zeros(1, 4))
    path = tmp_path / "n.onnx"
    torch.onnx.export(leaky, zeros, path, dynamo=False, input_names=["x", "m"], output_names=["s", "m_out"])
    with pytest.raises(S2CError, match="its threshold differs after a spike") as caught:
        load_graph(path, states={"m": "m_out"}, start=0, readout="sum")
    assert caught.value.why == "1, 2"


def test_a_graph_that_does_something_else_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = importlib.import_module("snn2chip.frontend.onnx.read")
    found = read.populations
    path = _plain(tmp_path / "n.onnx")

    def altered(step: Any) -> Any:
        return [replace(p, model=replace(p.model, v_threshold=p.model.v_threshold * 1.5)) for p in found(step)]

    monkeypatch.setattr(read, "populations", altered)
    with pytest.raises(S2CError, match=r"the graph does not do what n.onnx does") as caught:
        load_graph(path, **GIVEN)
    assert "layer v, sample" in caught.value.where


# ---------------------------------------------------------------- Scan

# What torch's exporter makes of torch._higher_order_ops.scan around a cell.
BODY = """
    m = MatMul(xt, w)
    i = Add(m, b)
    d = Sub(i, v)
    e = Div(d, two)
    h = Add(v, e)
    f = GreaterOrEqual(h, theta)
    st = Cast <to = 1> (f)
    k = Sub(one, st)
    v_next = Mul(h, k)
"""
SCAN = (
    "vT, sT = Scan <num_scan_inputs = 1, body = cell (float[N,3] v, float[N,4] xt) "
    "=> (float[N,3] v_next, float[N,3] st) {{{body}}}{more}> ({start}, {x})"
)
SCAN_CONSTANTS = {"w": _w(4, 3), "b": _w(3) + np.float32(0.4), "two": 2.0, "theta": 0.4, "one": 1.0, "zero": 0.0}
ZEROS = "n = Shape <start = {0}, end = {1}> (x)\nsize = Concat <axis = 0> (n, three)\nv0 = Expand(zero, size)"


def _scan(
    path: Path,
    before: str,
    after: str,
    signature: str,
    x: str = "x",
    start: str = "v0",
    more: str = "",
    body: str = BODY,
) -> Path:
    text = "\n".join([before, SCAN.format(body=body, start=start, x=x, more=more), after])
    return _save(path, signature, text, three=np.array([3]), axis0=np.array([0]), axis1=np.array([1]), **SCAN_CONSTANTS)


AFTER = {
    "mean": ("y = ReduceMean <keepdims = 0> (sT, axis0)", "N,3"),
    "sum": ("y = ReduceSum <keepdims = 0> (sT, axis0)", "N,3"),
    "max": ("y = ReduceMax <keepdims = 0> (sT, axis0)", "N,3"),
    "last": ("y = Gather <axis = 0> (sT, last)\nlast = Constant <value_int = -1> ()", "N,3"),
    "none": ("y = Transpose <perm = [1,0,2]> (sT)", "N,T,3"),
}


@pytest.mark.parametrize("readout", AFTER)
def test_a_scan_says_its_own_readout(readout: str, tmp_path: Path) -> None:
    after, shape = AFTER[readout]
    after = "\n".join(reversed(after.split("\n")))
    path = _scan(tmp_path / "n.onnx", ZEROS.format(1, 2), after, f"(float[T,N,4] x) => (float[{shape}] y)")
    graph = load_graph(path)
    assert (graph.time_steps, graph.coding) == (None, "steps")
    x = _drive(np.random.default_rng(0), N, 7, 4)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x.transpose(1, 0, 2)})
    assert expected.any()
    np.testing.assert_allclose(simulate(graph, x).outputs, expected, rtol=1e-6)


def test_a_scan_over_batch_first_data_with_fixed_sizes(tmp_path: Path) -> None:
    before = f"{ZEROS.format(0, 1)}\nxt0 = Transpose <perm = [1,0,2]> (x)"
    after, _ = AFTER["mean"]
    path = _scan(tmp_path / "n.onnx", before, after, "(float[2,6,4] x) => (float[2,3] y)", x="xt0")
    graph = load_graph(path)
    assert graph.sample_shape == (6, 4)
    x = _drive(np.random.default_rng(0), 2, 6, 4)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(simulate(graph, x).outputs, expected, rtol=1e-6)
    with pytest.raises(UsageError, match="time_steps=5 contradicts the file"):
        load_graph(path, time_steps=5)
    with pytest.raises(UsageError, match="readout='sum' contradicts the file"):
        load_graph(path, readout="sum")


def test_a_scan_over_one_frame_repeated_is_direct_coding(tmp_path: Path) -> None:
    before = (
        f"{ZEROS.format(0, 1)}\nu = Unsqueeze(x, axis0)\nfive = Constant <value_ints = [5]> ()\n"
        "rest = Shape(x)\nlong = Concat <axis = 0> (five, rest)\nxt0 = Expand(u, long)"
    )
    path = _scan(tmp_path / "n.onnx", before, AFTER["mean"][0], "(float[N,4] x) => (float[N,3] y)", x="xt0")
    graph = load_graph(path)
    assert (graph.time_steps, graph.coding) == (5, "direct")
    x = _drive(np.random.default_rng(0), N, 4)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(simulate(graph, x).outputs, expected, rtol=1e-6)


def test_the_final_membrane_of_a_scan_that_starts_from_an_input(tmp_path: Path) -> None:
    path = _scan(
        tmp_path / "n.onnx",
        "",
        "y = Identity(vT)",
        "(float[T,N,4] x, float[N,3] begin) => (float[N,3] y)",
        start="begin",
    )
    with pytest.raises(UsageError, match="the state at the start of a sample is missing"):
        load_graph(path)
    graph = load_graph(path, start={"begin": 0.25})
    x = _drive(np.random.default_rng(0), N, 7, 4)
    feeds = {"x": x.transpose(1, 0, 2), "begin": np.full((N, 3), 0.25, np.float32)}
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, feeds)
    np.testing.assert_allclose(simulate(graph, x).outputs, expected, atol=1e-6)


SCAN_REFUSALS = {
    "one time loop around the whole network": {
        "after": "y0, y1 = Scan <num_scan_inputs = 1, body = c (float[N,3] q, float[N,3] z) => "
        "(float[N,3] q1, float[N,3] z1) { q1 = Add(q, z) z1 = Identity(z) }> (v0, sT)\ny = Identity(y0)"
    },
    "the loop runs backwards in time": {"more": ", scan_input_directions = [1]"},
    "Softmax works on the outputs of all time steps": {
        "after": "z = ReduceMean <keepdims = 0> (sT, axis0)\ny = Softmax(z)"
    },
    "ReduceMean works on the outputs of all time steps": {"after": "y = ReduceMean <keepdims = 0> (sT, axis1)"},
    "Tanh works on the data of all time steps": {"before": ZEROS.format(1, 2) + "\nxx = Tanh(x)", "x": "xx"},
    "the start value of a state is computed from the data": {
        "before": "z = ReduceSum <keepdims = 0> (x, axis0)\nv0 = MatMul(z, w)"
    },
    "two values that change from step to step are multiplied": {"body": BODY.replace("d = Sub(i, v)", "d = Mul(i, v)")},
}


@pytest.mark.parametrize("message", SCAN_REFUSALS)
def test_what_a_scan_cannot_be_is_refused(message: str, tmp_path: Path) -> None:
    parts = {"before": ZEROS.format(1, 2), "after": AFTER["mean"][0], **SCAN_REFUSALS[message]}
    before, after = parts.pop("before"), parts.pop("after")
    path = _scan(tmp_path / "n.onnx", before, after, "(float[T,N,4] x) => (float[N,3] y)", **parts)
    with pytest.raises(S2CError) as caught:
        load_graph(path)
    assert message in str(caught.value)
    assert str(path) in caught.value.where


# ---------------------------------------------------------------- what is asked for, and refused

PLAIN = f"{FORMS['factor']}\n{FIRES['>']}\ns = Cast <to = 1> (fired)\n{RESETS['hard', 'where']}"


def _plain(path: Path, signature: str = SIGNATURE, body: str = PLAIN, **constants: Any) -> Path:
    return _save(path, signature, body, **{**CONSTANTS, **constants})


def test_one_state_for_current_and_membrane_is_told(tmp_path: Path) -> None:
    body = (
        "i = Gather <axis = 1> (q, first)\nv = Gather <axis = 1> (q, second)\na = Mul(beta, i)\nj = Add(a, x)\n"
        "b = Mul(beta, v)\nh = Add(b, j)\nfired = Greater(h, theta)\ns = Cast <to = 1> (fired)\n"
        "w = Where(fired, reset, h)\nq_out = Concat <axis = 1> (j, w)"
    )
    signature = "(float[N,1,4] x, float[N,2,4] q) => (float[N,1,4] s, float[N,2,4] q_out)"
    indices = {"first": np.array([0]), "second": np.array([1])}
    path = _save(tmp_path / "n.onnx", signature, body, **CONSTANTS, **indices)
    with pytest.raises(S2CError, match="a loop has no neuron in it") as caught:
        load_graph(path, states={"q": "q_out"}, start=0, readout="sum")
    assert "the next value of q" in caught.value.why
    assert "a state of its own" in caught.value.fix


def test_notes_that_make_no_sense_are_not_read(tmp_path: Path) -> None:
    path = _plain(tmp_path / "n.onnx")
    model = onnx.load(path)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'cut")
    onnx.save(model, path)
    assert load_graph(path, **GIVEN).neurons[0].name == "v"


def test_a_damaged_name_is_told(tmp_path: Path) -> None:
    path = _plain(tmp_path / "n.onnx", body=PLAIN.replace("fired", "ffffffff"))
    path.write_bytes(path.read_bytes().replace(b"ffffffff", b"ffff\xff\xfeff"))
    with pytest.raises(S2CError, match="no sound ONNX model"):
        load_graph(path, **GIVEN)


def test_states_guessed_by_name_are_told(tmp_path: Path) -> None:
    signature = SIGNATURE.replace("v_out", "next_mem").replace(" v)", " mem_in)")
    body = PLAIN.replace("v_out", "next_mem").replace("(beta, v)", "(beta, mem_in)")
    with pytest.warns(UserWarning, match=r"taken for states .*\{'mem_in': 'next_mem'\}") as told:
        graph = load_graph(_plain(tmp_path / "n.onnx", signature, body), start=0, readout="sum")
    assert told[0].filename == __file__
    assert graph.neurons[0].name == "mem"


def test_states_guessed_by_shape_are_told(tmp_path: Path) -> None:
    signature = "(float[N,3] q, float[N,4] x) => (float[N,3] r, float[N,2] o)"
    body = (
        "i = MatMul(x, w)\na = Mul(beta, q)\nh = Add(a, i)\nf = Greater(h, theta)\ns = Cast <to = 1> (f)\n"
        "r = Where(f, zero, h)\no = MatMul(s, k)"
    )
    path = _plain(tmp_path / "n.onnx", signature, body, w=_w(4, 3), k=_w(3, 2))
    with pytest.warns(UserWarning, match=r"\{'q': 'r'\}"):
        assert load_graph(path, start=0, readout="sum").input.name == "x"


def test_nothing_is_told_where_nothing_is_guessed(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_graph(_plain(tmp_path / "n.onnx"), states={"v": "v_out"}, start=0, readout="sum")


GIVEN: dict[str, Any] = {"states": {"v": "v_out"}, "start": 0, "readout": "sum"}
ASKED = {
    "the state at the start of a sample is missing": {"start": None},
    "the read-out is missing": {"readout": None},
    "readout cannot be 'average'": {"readout": "average"},
    "time_steps is missing": {"coding": "direct"},
    "time_steps is 0": {"time_steps": 0},
    "dt is -1": {"dt": -1},
    "states names the input 'w', which the model does not have": {"states": {"w": "v_out"}},
    "states names the output 'w', which the model does not have": {"states": {"v": "w"}},
    "one input must be left for the data": {"states": {"v": "v_out", "x": "s"}},
    "start names 'w', which is no state": {"start": {"v": 0, "w": 1}},
    "start for v has shape (2,)": {"start": [1.0, 2.0]},
    "start for v is NaN or infinite": {"start": float("nan")},
    "there is no output 'y'": {"output": "y"},
    "reset is no option for .onnx files": {"reset": "zero"},
}


@pytest.mark.parametrize("message", ASKED)
def test_what_the_file_cannot_say_is_asked_for(message: str, tmp_path: Path) -> None:
    path = _plain(tmp_path / "n.onnx")
    with pytest.raises(UsageError) as caught:
        load_graph(path, **{**GIVEN, **ASKED[message]})
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_ambiguous_states_are_asked_for_with_a_suggestion(tmp_path: Path) -> None:
    signature = f"(float[N,{SIZE}] x, float[N,{SIZE}] q) => (float[N,{SIZE}] s, float[N,{SIZE}] v_out)"
    path = _plain(tmp_path / "n.onnx", signature, PLAIN.replace("(beta, v)", "(beta, q)"))
    with pytest.raises(UsageError, match="not clear") as caught:
        load_graph(path, start=0, readout="sum")
    assert "states={'q': 'v_out'}" in caught.value.fix


REFUSED = {
    "two values that change from step to step are multiplied": PLAIN.replace("Mul(beta, v)", "Mul(x, v)"),
    "Relu is applied to something that changes": PLAIN.replace("h = Add(a, x)", "g = Add(a, x)\nh = Relu(g)"),
    "what a spike does to its membrane is no reset that is known": PLAIN.replace(
        "Where(fired, reset, h)", "Where(fired, half, h)"
    ).replace("fired = ", "half = Mul(rate, h)\nfired = "),
    "it is reset by another comparison than the one that makes it fire": PLAIN.replace(
        "v_out = Where(fired, reset, h)", "old = Greater(v, one)\nv_out = Where(old, reset, h)"
    ),
    "its next state or its spike depends on several comparisons": PLAIN.replace(
        "s = Cast <to = 1> (fired)", "low = Less(h, reset)\neither = Or(fired, low)\ns = Cast <to = 1> (either)"
    ).replace("Where(fired", "Where(either"),
    "it fires by a comparison of something else than its membrane": PLAIN.replace(
        "fired = Greater(h, theta)", "g = Add(h, x)\nfired = Greater(g, theta)"
    ),
    "decay is 2": PLAIN.replace("Mul(beta, v)", "Mul(two, v)"),
    "its membrane gets a constant at every step": PLAIN.replace("Mul(beta, v)", "Add(v, one)"),
    "2 of the new membrane, 0 of the stored one": PLAIN.replace("Greater(h, theta)", "Equal(h, theta)"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_neuron_of_the_family_is_refused(message: str, tmp_path: Path) -> None:
    path = _plain(tmp_path / "n.onnx", body=REFUSED[message], two=2.0)
    with pytest.raises(S2CError) as caught:
        load_graph(path, **GIVEN)
    assert message in str(caught.value)
    assert "v" in caught.value.where
    assert str(path) in caught.value.where


NO_LAYER: dict[str, tuple[tuple[int, ...], tuple[int, ...], str, dict[str, Any]]] = {
    "padding with other values than zeros": (
        (4,),
        (5,),
        "y = Pad(x, p, one)",
        {"p": np.array([0, 0, 0, 1]), "one": 1.0},
    ),
    "its choice of elements changes from step to step": (
        (4,),
        (1,),
        "m = ReduceMax <keepdims = 0> (x)\ni = Cast <to = 7> (m)\nu = Unsqueeze(i, zero_axis)\ne = Add(u, one)\n"
        "y = Slice(x, zero_axis, e, one)",
        {"zero_axis": np.array([0]), "one": np.array([1])},
    ),
    "padding (0, 0) in front and (1, 1) behind": (
        (1, 3, 3),
        (1, 3, 3),
        "y = Conv <pads = [0,0,1,1]> (x, w)",
        {"w": _w(1, 1, 2, 2)},
    ),
    "a transposition moves the batch axis": ((3,), (3,), "t = Transpose(x)\ny = Transpose(t)", {}),
    "a batch norm in training mode": (
        (3,),
        (3,),
        "y, m1, v1 = BatchNormalization <training_mode = 1> (x, g, b, m, var)",
        {"g": _w(3), "b": _w(3, seed=4), "m": _w(3, seed=5), "var": np.abs(_w(3, seed=6))},
    ),
    "a dropout in training mode": (
        (4,),
        (4,),
        "y = Dropout(x, ratio, yes)",
        {"ratio": 0.5, "yes": np.array(True)},
    ),
    "is not the batch": (
        (4,),
        (4,),
        "r = Reshape(x, s1)\ny = Reshape(r, s2)",
        {"s1": np.array([-1, 2]), "s2": np.array([-1, 4])},
    ),
    "Sigmoid is applied to a value that is no neuron's": ((4,), (4,), "y = Sigmoid(x)", {}),
    "a constant matrix is multiplied from the left": ((3, 4), (2, 4), "y = MatMul(w, x)", {"w": _w(2, 3)}),
    "a constant is added that is not the same for a whole channel": (
        (2, 3, 2, 2),
        (2, 3, 2, 2),
        "q = Neg(x)\ny = Add(q, b)",
        {"b": _w(2, 3, 1, 1)},
    ),
    "pooling with dilation": (
        (1, 5, 5),
        (1, 3, 3),
        "y = MaxPool <kernel_shape = [2,2], dilations = [2,2]> (x)",
        {},
    ),
}


@pytest.mark.parametrize("message", NO_LAYER)
def test_operators_without_a_layer_are_refused_by_name(message: str, tmp_path: Path) -> None:
    shape, out, body, constants = NO_LAYER[message]
    path = _network(tmp_path / "n.onnx", shape, out, body, **constants)
    with pytest.raises(S2CError) as caught:
        load_graph(path, **GIVEN)
    assert message in str(caught.value)


def test_a_model_without_states_is_no_network(tmp_path: Path) -> None:
    path = _save(tmp_path / "n.onnx", "(float[N,4] x) => (float[N,4] y)", "y = Neg(x)")
    with pytest.raises(S2CError, match="the model has no states") as caught:
        load_graph(path, start=0, readout="sum")
    assert "unrolled" in caught.value.why


def test_states_without_the_datas_batch_axis_are_refused(tmp_path: Path) -> None:
    path = _plain(
        tmp_path / "n.onnx",
        SIGNATURE.replace(f"float[N,{SIZE}] x", f"float[2,{SIZE}] x").replace(
            f"float[N,{SIZE}] v)", f"float[1,{SIZE}] v)"
        ),
    )
    with pytest.raises(S2CError, match="the input 'v' has 1 samples, the data 2"):
        load_graph(path, **GIVEN)


def test_half_precision_is_refused(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "n.onnx",
        "(float16[N,4] x, float16[N,4] v) => (float16[N,4] s, float16[N,4] v_out)",
        "v_out = Add(x, v)\ns = Identity(v_out)",
    )
    with pytest.raises(S2CError, match="x holds FLOAT16"):
        load_graph(path, **GIVEN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is no sound ONNX model"),
        (b"\x08\x08garbage that no protobuf holds", "this is no sound ONNX model"),
        (b"hello", "this is no sound ONNX model"),
        (None, "the file cannot be read"),
    ],
)
def test_files_that_are_no_models(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(S2CError, match=message) as caught:
        load_graph(path)
    assert str(path) in caught.value.where


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = _plain(tmp_path / "n.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(S2CError, match="this is no sound ONNX model"):
        load_graph(path, **GIVEN)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = _plain(tmp_path / "named.nir")
    assert load_graph(path, **GIVEN).neurons
    with pytest.raises(S2CError, match="this is not a program") as caught:
        load(path)
    assert "load_graph" in caught.value.fix


def test_without_onnx_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _plain(tmp_path / "n.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(S2CError, match="needs onnx") as caught:
        load_graph(path, **GIVEN)
    assert "snn2chip[onnx]" in caught.value.fix
