"""Foreign NIR graphs against NIR's equations worked out by hand, and against the frameworks that wrote them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.load import load, load_graph
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Graph
from snn2chip.simulate import simulate

Array = np.ndarray[Any, Any]
DT = 1e-3
SIZE = 5


def _write(path: Path, nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Path:
    nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, type_check=False))
    return path


def _chain(path: Path, shape: tuple[int, ...], **nodes: Any) -> Path:
    last = list(nodes.values())[-1]
    out = last.output_type["output"] if last.output_type["output"] is not None else np.array([1])
    every = {"input": nir.Input(np.array(shape)), **nodes, "output": nir.Output(np.array(out))}
    names = list(every)
    return _write(path, every, list(pairwise(names)))


def _full(value: float | Array) -> Array:
    return np.ones(SIZE) * value


TAU, TAU_SYN, R, REST, W_IN, THETA = 0.02, 0.008, 30.0, 0.2, 3.0, 0.7

# node → what one forward-Euler step of NIR's equations does to (I, v) for input x, written from the NIR reference.
NEURONS: dict[str, tuple[Any, Callable[[Array, Array, Array], tuple[Array, Array]]]] = {
    "I": (nir.I(_full(R)), lambda i, v, x: (x, v + DT * R * x)),
    "LI": (
        nir.LI(_full(TAU), _full(R), _full(REST)),
        lambda i, v, x: (x, v + DT / TAU * ((REST - v) + R * x)),
    ),
    "LI without r": (
        nir.LI(_full(TAU), _full(1.0), _full(REST)),
        lambda i, v, x: (x, v + DT / TAU * ((REST - v) + x)),
    ),
    "CubaLI": (
        nir.CubaLI(_full(TAU_SYN), _full(TAU), _full(R), _full(REST), _full(W_IN)),
        lambda i, v, x: ((j := i + DT / TAU_SYN * (-i + W_IN * x)), v + DT / TAU * ((REST - v) + R * j)),
    ),
    "IF": (nir.IF(_full(R), _full(THETA)), lambda i, v, x: (x, v + DT * R * x)),
    "LIF": (
        nir.LIF(_full(TAU), _full(R), _full(REST), _full(THETA)),
        lambda i, v, x: (x, v + DT / TAU * ((REST - v) + R * x)),
    ),
    "CubaLIF": (
        nir.CubaLIF(_full(TAU_SYN), _full(TAU), _full(R), _full(REST), _full(THETA), w_in=_full(W_IN)),
        lambda i, v, x: ((j := i + DT / TAU_SYN * (-i + W_IN * x)), v + DT / TAU * ((REST - v) + R * j)),
    ),
}


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("name", NEURONS)
def test_euler_steps_of_every_neuron(name: str, reset: str, tmp_path: Path) -> None:
    node, step = NEURONS[name]
    path = _chain(tmp_path / "n.nir", (SIZE,), n=node)
    graph = load_graph(path, dt=DT, reset=reset, start="zero", readout="none")  # type: ignore[arg-type]
    x = np.random.default_rng(0).uniform(-0.3, 1.5, (3, 80, SIZE))
    result = simulate(graph, x, record=("v", "spikes"))
    fires = name.endswith("F")
    i, v = np.zeros((3, SIZE)), np.zeros((3, SIZE))
    fired = 0
    for t in range(x.shape[1]):
        i, v = step(i, v, x[:, t])
        spikes = v > THETA if fires else np.zeros_like(v, dtype=bool)
        fired += int(spikes.sum())
        if fires:
            np.testing.assert_array_equal(result["n"].spikes[:, t], spikes)
            v = {"zero": np.where(spikes, 0.0, v), "subtract": v - THETA * spikes, "none": v}[reset]
        np.testing.assert_allclose(result["n"].v[:, t], v, rtol=1e-4, atol=1e-4)
    assert fired > 20 or not fires


def test_v_reset_of_the_file(tmp_path: Path) -> None:
    node = nir.LIF(_full(TAU), _full(R), _full(0.0), _full(THETA), _full(-0.25))
    path = _chain(tmp_path / "n.nir", (SIZE,), n=node)
    for reset in ("v_reset", None):
        graph = load_graph(path, dt=DT, reset=reset, start="zero")  # type: ignore[arg-type]
        result = simulate(graph, np.ones((1, 20, SIZE)), record=("v", "spikes"))
        after = result["n"].v[result["n"].spikes > 0]
        assert after.size
        assert (after == np.float32(-0.25)).all()
    with pytest.raises(UsageError, match="contradicts"):
        load_graph(path, dt=DT, reset="zero")


def test_exponential_integration(tmp_path: Path) -> None:
    path = _chain(tmp_path / "n.nir", (SIZE,), n=nir.LI(_full(TAU), _full(R), _full(0.0)))
    result = simulate(load_graph(path, dt=DT, integration="exponential"), np.ones((1, 30, SIZE)), record="v")
    # The closed solution of τ v' = −v + r for a constant input.
    np.testing.assert_allclose(result["n"].v[0, :, 0], R * (1 - np.exp(-DT / TAU * np.arange(1, 31))), rtol=1e-5)


def test_threshold_is_a_step_without_memory(tmp_path: Path) -> None:
    path = _chain(tmp_path / "n.nir", (SIZE,), n=nir.Threshold(_full(0.5)))
    x = np.random.default_rng(0).uniform(0, 1, (2, 9, SIZE))
    np.testing.assert_array_equal(simulate(load_graph(path, readout="none"), x).outputs, x > 0.5)


@pytest.mark.parametrize(("gain", "adds"), [("r", 1.0), ("r*dt", DT)])
def test_an_if_with_r_1_is_asked_about(gain: Any, adds: float, tmp_path: Path) -> None:
    path = _chain(tmp_path / "n.nir", (SIZE,), n=nir.IF(_full(1.0), _full(1e3)))
    with pytest.raises(UsageError, match="what one input adds"):
        load_graph(path, dt=DT, reset="zero")
    graph = load_graph(path, dt=DT, reset="zero", integrator_gain=gain)
    assert simulate(graph, np.ones((1, 3, SIZE)), record="v")["n"].v[0, -1, 0] == pytest.approx(3 * adds)


def _torch_conv(x: Array, node: Any) -> Array:
    torch = pytest.importorskip("torch")
    frames = torch.from_numpy(x.reshape(-1, *x.shape[2:]).astype(np.float32))
    y = torch.conv2d(
        frames,
        torch.from_numpy(node.weight),
        torch.from_numpy(node.bias),
        tuple(map(int, node.stride)),
        tuple(map(int, node.padding)),
        tuple(map(int, node.dilation)),
        int(node.groups),
    )
    return y.numpy().reshape(*x.shape[:2], *y.shape[1:])


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_with_a_kernel_that_is_not_square_and_groups(groups: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 2 // groups, 3, 5)).astype(np.float32)
    node = nir.Conv2d((9, 11), weight, (2, 1), (1, 2), (1, 1), groups, rng.normal(size=4).astype(np.float32))
    graph = load_graph(_chain(tmp_path / "n.nir", (2, 9, 11), conv=node), readout="none")
    x = rng.normal(size=(2, 3, 2, 9, 11))
    np.testing.assert_allclose(simulate(graph, x).outputs, _torch_conv(x, node), atol=1e-4)


def test_named_padding_and_scalar_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 2, 3, 5)).astype(np.float32)
    same = nir.Conv2d((9, 11), weight, 1, "same", 1, 1, np.zeros(4, np.float32))
    graph = load_graph(_chain(tmp_path / "n.nir", (2, 9, 11), conv=same), readout="none")
    assert graph.shapes()["conv"] == (4, 9, 11)
    assert graph["conv"].layer.padding == (1, 2)  # type: ignore[attr-defined]
    even = nir.Conv2d((9, 11), weight[..., :4], 1, "same", 1, 1, np.zeros(4, np.float32))
    with pytest.raises(S2CError, match="padding 'same'"):
        load_graph(_chain(tmp_path / "e.nir", (2, 9, 11), conv=even))


def test_pools_scale_conv1d_and_sums(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pair = np.array([2, 2])
    nodes = {
        "input": nir.Input(np.array([2, 4, 6])),
        "avg": nir.AvgPool2d(pair, pair, np.array([0, 0])),
        "sum": nir.SumPool2d(pair, pair, np.array([0, 0])),
        "scale": nir.Scale(np.full((2, 2, 3), 3.0)),
        "output": nir.Output(np.array([2, 2, 3])),
    }
    edges = [("input", "avg"), ("input", "sum"), ("avg", "scale"), ("sum", "scale"), ("scale", "output")]
    x = rng.normal(size=(2, 3, 2, 4, 6))
    blocks = x.reshape(2, 3, 2, 2, 2, 3, 2)
    expected = 3 * (blocks.mean((4, 6)) + blocks.sum((4, 6)))
    outputs = simulate(load_graph(_write(tmp_path / "n.nir", nodes, edges), readout="none"), x).outputs
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    line = nir.Conv1d(7, rng.normal(size=(2, 3, 3)).astype(np.float32), 2, 1, 1, 1, np.ones(2, np.float32))
    graph = load_graph(_chain(tmp_path / "l.nir", (3, 7), conv=line), readout="none")
    assert graph.shapes()["conv"] == (2, 4)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_flatten_from_axis_0_or_1_means_everything(start: int, channels: int, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(2, channels * 12)).astype(np.float32)
    flat = nir.Flatten(np.array([channels, 3, 4]), start, -1)
    graph = load_graph(_chain(tmp_path / "n.nir", (channels, 3, 4), flat=flat, fc=nir.Linear(weight)), readout="none")
    x = np.random.default_rng(1).normal(size=(2, 3, channels, 3, 4))
    expected = x.reshape(2, 3, -1) @ weight.T
    np.testing.assert_allclose(simulate(graph, x).outputs, expected, rtol=1e-4, atol=1e-5)


def test_flatten_from_axis_1_is_literal_where_only_that_fits(tmp_path: Path) -> None:
    flat = nir.Flatten(np.array([3, 2, 4]), 1, -1)
    graph = load_graph(_chain(tmp_path / "n.nir", (3, 2, 4), flat=flat, scale=nir.Scale(np.ones((3, 8)))))
    assert graph.shapes()["flat"] == (3, 8)
    neuron = nir.Threshold(np.arange(24.0).reshape(3, 8))
    graph = load_graph(_chain(tmp_path / "m.nir", (3, 2, 4), flat=flat, n=neuron))
    assert graph.shapes()["n"] == (3, 8)


def test_delays_are_whole_steps(tmp_path: Path) -> None:
    path = _chain(tmp_path / "n.nir", (SIZE,), d=nir.Delay(_full(3 * DT)))
    x = np.random.default_rng(0).normal(size=(1, 8, SIZE))
    outputs = simulate(load_graph(path, dt=DT, readout="none"), x).outputs
    np.testing.assert_allclose(outputs, np.concatenate([np.zeros((1, 3, SIZE)), x[:, :-3]], axis=1), rtol=1e-6)
    with pytest.raises(S2CError, match="time steps"):
        load_graph(path, dt=0.7 * DT)
    uneven = _chain(tmp_path / "u.nir", (SIZE,), d=nir.Delay(DT * np.arange(SIZE)))
    with pytest.raises(S2CError, match="a delay of its own"):
        load_graph(uneven, dt=DT)


RNG = np.random.default_rng(7)
W_FF, W_REC = (RNG.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(2))
BIAS = RNG.normal(size=SIZE).astype(np.float32) / 4
CELL = nir.CubaLIF(_full(2 * DT), _full(4 * DT), _full(4.0), _full(0.0), _full(1.0), w_in=_full(2.0))


def _recurrent(path: Path, nested: bool, delay: float | None = None) -> Path:
    """Input → fc → cell ⟲ w_rec → output, the loop in a subgraph (snnTorch, Norse) or at the top (the NIR paper)."""
    loop: dict[str, Any] = {"lif": CELL, "w_rec": nir.Affine(W_REC, BIAS)}
    ring = [("lif", "w_rec"), ("w_rec", "lif")]
    if delay is not None:
        loop["d"] = nir.Delay(_full(delay))
        ring = [("lif", "d"), ("d", "w_rec"), ("w_rec", "lif")]
    ends: dict[str, Any] = {"input": nir.Input(np.array([SIZE])), "output": nir.Output(np.array([SIZE]))}
    outer = {**ends, "fc": nir.Linear(W_FF)}
    if not nested:
        named = [(f"rnn.{a}", f"rnn.{b}") for a, b in ring]
        edges = [("input", "fc"), ("fc", "rnn.lif"), *named, ("rnn.lif", "output")]
        return _write(path, outer | {f"rnn.{k}": v for k, v in loop.items()}, edges)
    inner = nir.NIRGraph(ends | loop, [("input", "lif"), *ring, ("lif", "output")], type_check=False)
    return _write(path, outer | {"rnn": inner}, [("input", "fc"), ("fc", "rnn"), ("rnn", "output")])


def _loop_by_hand(x: Array, back_by: int) -> Array:
    i, v = np.zeros(SIZE), np.zeros(SIZE)
    spikes = [np.zeros(SIZE)] * back_by
    for frame in x:
        i = 0.5 * i + W_FF @ frame + W_REC @ spikes[-back_by] + BIAS
        v = 0.75 * v + i
        spikes.append((v > 1).astype(float))
        v = np.where(spikes[-1] > 0, 0.0, v)
    return np.array(spikes[back_by:])


@pytest.mark.parametrize("delay", [None, DT, 3 * DT])
@pytest.mark.parametrize("nested", [False, True])
def test_a_loop_is_closed_one_step_late_or_by_its_delay(nested: bool, delay: float | None, tmp_path: Path) -> None:
    graph = load_graph(_recurrent(tmp_path / "n.nir", nested, delay), dt=DT, reset="zero", readout="none")
    x = np.random.default_rng(1).normal(size=(40, SIZE))
    expected = _loop_by_hand(x, 1 if delay is None else round(delay / DT))
    assert expected.sum() > 20
    np.testing.assert_array_equal(simulate(graph, x[None]).outputs[0], expected)
    assert {"fc", "rnn.lif", "rnn.w_rec"} <= set(graph.nodes)


def test_a_loop_over_two_populations_and_one_before_the_weights(tmp_path: Path) -> None:
    ends = {"input": nir.Input(np.array([SIZE])), "output": nir.Output(np.array([SIZE]))}
    pair = ends | {"a": CELL, "b": CELL, "ab": nir.Linear(W_FF), "ba": nir.Linear(W_REC)}
    edges = [("input", "a"), ("a", "ab"), ("ab", "b"), ("b", "ba"), ("ba", "a"), ("b", "output")]
    graph = load_graph(_write(tmp_path / "n.nir", pair, edges), dt=DT, reset="zero")
    late = {node.name: edge.source for node in graph for edge in node.inputs if edge.recurrent}
    assert late == {"ba": "b"}
    shared = ends | {"a": CELL, "w": nir.Linear(W_FF)}
    edges = [("input", "w"), ("w", "a"), ("a", "w"), ("a", "output")]
    graph = load_graph(_write(tmp_path / "m.nir", shared, edges), dt=DT, reset="zero")
    assert [str(e) for e in graph["w.sum"].inputs] in (["input", "a[t-1]"], ["a[t-1]", "input"])


def _snntorch_spikes(model: Any, x: Array) -> Array:
    import torch

    with torch.no_grad():
        return np.stack([model(torch.from_numpy(frame))[0].numpy() for frame in x])


@pytest.mark.parametrize(("mechanism", "reset", "timing"), [("zero", "zero", "same"), ("subtract", "subtract", "next")])
def test_a_network_snntorch_exported(mechanism: str, reset: Any, timing: Any, tmp_path: Path) -> None:
    torch, snn = pytest.importorskip("torch"), pytest.importorskip("snntorch")
    export = pytest.importorskip("snntorch.export_nir").export_to_nir
    torch.manual_seed(0)

    def leaky(size: int, **kw: Any) -> Any:
        beta, theta = 0.7 + 0.2 * torch.rand(size), torch.full((size,), 0.2)
        return snn.Leaky(beta=beta, threshold=theta, reset_mechanism=mechanism, init_hidden=True, **kw)

    model = torch.nn.Sequential(torch.nn.Linear(6, 20), leaky(20), torch.nn.Linear(20, 4), leaky(4, output=True))
    nir.write(tmp_path / "n.nir", export(model, torch.rand(1, 6), ignore_dims=[0]))
    names = [n for n, node in nir.read(tmp_path / "n.nir").nodes.items() if isinstance(node, nir.LIF)]
    snn.Leaky.reset_hidden()
    x = np.random.default_rng(0).uniform(0, 2, (50, 3, 6)).astype(np.float32)
    expected = _snntorch_spikes(model, x)
    graph = load_graph(tmp_path / "n.nir", dt=1e-4, reset=reset, reset_timing=timing, readout="none")
    result = simulate(graph, x.transpose(1, 0, 2), record="spikes")
    np.testing.assert_array_equal(result.outputs, expected.transpose(1, 0, 2))
    assert all(result[name].spikes.sum() > 50 for name in names)


@pytest.mark.parametrize("decay_input", [True, False])
def test_a_network_spikingjelly_exported(decay_input: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    sj = pytest.importorskip("spikingjelly.activation_based")
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    from spikingjelly.activation_based import functional, layer, neuron

    del sj
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        neuron.IFNode(v_threshold=0.4),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(36, 8),
        neuron.LIFNode(tau=2.0, decay_input=decay_input, v_threshold=0.1),
    ).eval()
    functional.reset_net(model)
    nir.write(tmp_path / "n.nir", exchange.export_to_nir(model, torch.rand(1, 2, 6, 6), dt=1e-4))
    functional.reset_net(model)
    x = np.random.default_rng(0).uniform(0, 2, (20, 3, 2, 6, 6)).astype(np.float32)
    with torch.no_grad():
        expected = np.stack([model(torch.from_numpy(frame)).numpy() for frame in x])
    graph = load_graph(tmp_path / "n.nir", dt=1e-4, reset="zero", fire=">=", readout="none")
    outputs = simulate(graph, x.swapaxes(0, 1)).outputs
    np.testing.assert_array_equal(outputs, expected.swapaxes(0, 1))
    assert 0.05 < expected.mean() < 0.95


def test_parameters_are_stripped_of_repetition(tmp_path: Path) -> None:
    theta = np.broadcast_to(np.arange(1.0, 4).reshape(3, 1, 1), (3, 2, 2)).copy()
    ones = np.ones((3, 2, 2))
    path = _chain(tmp_path / "n.nir", (3, 2, 2), n=nir.LIF(ones * TAU, ones, ones * 0, theta))
    model = load_graph(path, dt=DT, reset="zero")["n"].layer.model  # type: ignore[attr-defined]
    assert (model.decay.shape, model.v_threshold.shape) == ((), (3, 1, 1))


def test_time_steps_come_from_the_data_or_the_option(tmp_path: Path) -> None:
    path = _chain(tmp_path / "n.nir", (SIZE,), fc=nir.Linear(W_FF))
    graph = load_graph(path)
    assert simulate(graph, np.ones((1, 4, SIZE))).counts["fc"].synops.shape == (1, 4)
    with pytest.raises(S2CError, match="no time step"):
        simulate(graph, np.ones((1, 0, SIZE)))
    with pytest.raises(S2CError, match="data has shape"):
        simulate(load_graph(path, time_steps=5), np.ones((1, 4, SIZE)))
    direct = load_graph(path, coding="direct", time_steps=5)
    np.testing.assert_allclose(simulate(direct, np.ones((1, SIZE))).outputs[0], 5 * W_FF.sum(1), rtol=1e-5)


def test_an_earlier_node_can_be_read(tmp_path: Path) -> None:
    path = _recurrent(tmp_path / "n.nir", True)
    graph: Graph = load_graph(path, output="fc", readout="none")
    assert list(graph.nodes) == ["input", "fc", "output"]
    assert isinstance(graph.output.layer, L.Output)
    with pytest.raises(UsageError, match="no node 'nowhere'"):
        load_graph(path, output="nowhere")


def _lif(**changes: Any) -> Any:
    fields = {"tau": _full(TAU), "r": _full(R), "v_leak": _full(0.0), "v_threshold": _full(THETA)} | changes
    return nir.LIF(**fields)


THREE = {name: np.arange(1.0, 4) for name in ("tau", "r", "v_leak", "v_threshold")}
LOOP = [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")]
TWO_ENDS = [("input", "a"), ("a", "o2"), ("a", "output")]


ONES = {"dt": DT, "reset": "zero"}
ENDS = {"input": nir.Input(np.array([SIZE])), "output": nir.Output(np.array([SIZE]))}
FC = nir.Linear(W_FF)


@pytest.mark.parametrize(
    ("nodes", "edges", "options", "error", "says"),
    [
        ({"n": _lif()}, None, {"reset": "zero"}, UsageError, "dt in seconds"),
        ({"n": _lif()}, None, {"dt": DT}, UsageError, "the kind of reset is missing"),
        ({"n": _lif()}, None, {"dt": DT, "reset": {"other": "zero"}}, UsageError, "which is no population"),
        ({"n": _lif()}, None, {"dt": -1.0, "reset": "zero"}, UsageError, "dt is -1.0"),
        ({"n": _lif()}, None, {"dt": 1.0, "reset": "zero"}, UsageError, "longer than tau"),
        ({"n": _lif()}, None, ONES | {"reset": "hard"}, UsageError, "use one of 'zero'"),
        ({"n": _lif()}, None, ONES | {"time_steps": 0}, UsageError, "time_steps is 0"),
        ({"n": _lif()}, None, ONES | {"coding": "direct"}, UsageError, "time_steps is missing"),
        ({"n": _lif(tau=_full(0.0))}, None, ONES, S2CError, "time constant is positive"),
        ({"n": _lif(tau=_full(np.nan))}, None, ONES, S2CError, "tau holds 5 of 5 values that are NaN"),
        ({"n": nir.Linear(W_FF * np.inf)}, None, {}, S2CError, "weight holds 25 of 25"),
        ({"n": nir.Linear(W_FF[:, :3])}, None, {}, S2CError, "3 inputs is fed"),
        (
            {"n": _lif(**THREE)},
            None,
            ONES,
            S2CError,
            "does not fit",
        ),
        (
            {"a": FC, "b": FC},
            LOOP,
            {},
            S2CError,
            "no neuron in it",
        ),
        ({"a": FC, "b": FC}, [("input", "a"), ("a", "output"), ("b", "output")], {}, S2CError, "reads nothing"),
        ({"a": FC}, [("input", "a"), ("input", "a"), ("a", "output")], {}, S2CError, "there twice"),
        ({"a": FC}, [("input", "a")], {}, S2CError, "nothing reaches the output"),
        (
            {"a": FC, "o2": nir.Output(np.array([SIZE]))},
            [("input", "a"), ("a", "o2"), ("a", "output")],
            {},
            UsageError,
            "output=",
        ),
        (
            {"n": CELL, "w": FC, "s": FC},
            [("input", "n"), ("n", "w"), ("w", "n"), ("w", "s"), ("s", "output")],
            ONES,
            S2CError,
            "its own copy",
        ),
    ],
)
def test_errors_name_the_place_and_the_remedy(
    nodes: dict[str, Any], edges: Any, options: Any, error: type[S2CError], says: str, tmp_path: Path
) -> None:
    if edges is None:
        edges = [("input", "n"), ("n", "output")]
    path = _write(tmp_path / "bad.nir", ENDS | nodes, edges)
    with pytest.raises(error) as caught:
        load_graph(path, **options)
    assert says in str(caught.value)
    assert caught.value.exit_code == (2 if error is UsageError else 1)


def _changed(path: Path, change: Callable[[Any], None]) -> Path:
    _chain(path, (SIZE,), n=_lif())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _replace(name: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_replace("node/nodes/n/type", "Izhikevich"), "'Izhikevich'"),
        (_replace("node/nodes/n/type", None), "no type"),
        (_replace("node/nodes/n/tau", None), "no tau"),
        (_replace("node/nodes/n/tau", "slow"), "no numbers"),
        (_replace("node/nodes/input/shape", np.array([0.5])), "whole numbers"),
        (_replace("node/edges", None), "no edges"),
        (_replace("node/edges", np.array([[b"input", b"nix"]])), "'nix'"),
        (_replace("node/edges", np.array([b"input"])), "no pairs"),
        (_replace("node", None), "neither"),
        (_replace("node/type", None), "neither"),
    ],
)
def test_damaged_graphs(change: Callable[[Any], None], says: str, tmp_path: Path) -> None:
    with pytest.raises(S2CError) as caught:
        load_graph(_changed(tmp_path / "bad.nir", change), **ONES)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert "bad.nir" in caught.value.where


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.nir").write_text("hello")
    (tmp_path / "empty.nir").write_bytes(b"")
    whole = _chain(tmp_path / "n.nir", (SIZE,), n=_lif()).read_bytes()
    (tmp_path / "cut.nir").write_bytes(whole[: len(whole) // 2])
    for name in ("text.nir", "empty.nir", "cut.nir", "absent.nir", "."):
        for read in (load_graph, load):
            with pytest.raises(S2CError) as caught:
                read(tmp_path / name)
            assert str(tmp_path) in caught.value.where


def test_load_says_how_to_read_a_foreign_graph(tmp_path: Path) -> None:
    with pytest.raises(S2CError) as caught:
        load(_chain(tmp_path / "n.nir", (SIZE,), n=_lif()))
    assert "load_graph" in caught.value.fix
    assert "dt=" in caught.value.fix
    assert "reset=" in caught.value.fix
