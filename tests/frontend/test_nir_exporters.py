"""Files that the libraries' own NIR exporters write, against the libraries' own forward passes, over T steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.load import load_graph
from snn2chip.simulate import simulate

torch = pytest.importorskip("torch")
pytest.importorskip("nirtorch")

Array = np.ndarray[Any, Any]
N, T = 3, 30
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:nirtorch.*", "ignore::UserWarning")


def _data(*shape: int) -> Array:
    return np.random.default_rng(0).uniform(0, 2, (N, T, *shape)).astype(np.float32)


def _lively(model: Any, more: float) -> Any:
    """The model with weights a little more positive, so that it fires."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)):
                module.weight += more
    return model


def _stored(graph: Any, path: Path) -> Path:
    # Uncompressed: HDF5 cannot compress the single numbers that some exporters write.
    nir.write(path, graph, compression=None)
    return path


def _steps(step: Callable[[Any], Any], x: Array) -> Array:
    """Outputs [N, T, ...] of a module that takes one step at a time."""
    with torch.no_grad():
        return np.stack([step(torch.from_numpy(x[:, t])).numpy() for t in range(T)], 1)


def _check(path: Path, x: Array, expected: Array, exact: bool = True, **options: Any) -> None:
    outputs = simulate(load_graph(path, readout="none", **options), x).outputs
    if exact:
        assert 0.01 < expected.mean() < 0.99
        np.testing.assert_array_equal(outputs, expected)
    else:
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- snnTorch


def _snntorch(hidden: Any, mechanism: str) -> Any:
    import snntorch

    last = snntorch.Leaky(
        beta=0.5 + 0.4 * torch.rand(4),
        threshold=torch.full((4,), 0.3),
        reset_mechanism=mechanism,
        init_hidden=True,
        output=True,
    )
    return _lively(torch.nn.Sequential(torch.nn.Linear(6, 20), hidden, torch.nn.Linear(20, 4), last), 0.02)


@pytest.mark.parametrize("mechanism", ["zero", "subtract", "none"])
@pytest.mark.parametrize(
    ("kind", "all_to_all"),
    [("Synaptic", True), ("RLeaky", True), ("RLeaky", False), ("RSynaptic", True), ("RSynaptic", False)],
)
def test_snntorch(kind: str, mechanism: str, all_to_all: bool, tmp_path: Path) -> None:
    snntorch = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir
    from snntorch.utils import reset as reset_states

    torch.manual_seed(0)
    given: dict[str, Any] = {"beta": 0.5 + 0.4 * torch.rand(20), "threshold": torch.full((20,), 0.3)}
    if kind != "RLeaky":
        given["alpha"] = 0.5 + 0.4 * torch.rand(20)
    if kind.startswith("R"):
        given |= {"linear_features": 20} if all_to_all else {"all_to_all": False, "V": torch.rand(20)}
    model = _snntorch(getattr(snntorch, kind)(reset_mechanism=mechanism, init_hidden=True, **given), mechanism)
    x = _data(6)
    path = _stored(export_to_nir(model, torch.rand(1, 6), ignore_dims=[0]), tmp_path / "n.nir")
    reset_states(model)
    expected = _steps(lambda frame: model(frame)[0], x)
    population = "1.lif" if kind.startswith("R") else "1"
    # "zero": snnTorch's Leaky clears the membrane before the next step, its other neurons clear the next step's sum.
    timing: Any = {"zero": {population: "next"}, "subtract": "next", "none": "same"}[mechanism]
    _check(path, x, expected, dt=1e-4, reset=mechanism, reset_timing=timing)


def test_a_convolutional_network_of_snntorch(tmp_path: Path) -> None:
    snntorch = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir
    from snntorch.utils import reset as reset_states

    torch.manual_seed(0)

    def leaky(*shape: int, **more: Any) -> Any:
        beta = torch.full(shape, 0.8)
        return snntorch.Leaky(beta=beta, threshold=torch.full(shape, 0.4), init_hidden=True, **more)

    head = torch.nn.Linear(36, 5)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), leaky(4, 6, 6), torch.nn.AvgPool2d(2), torch.nn.Flatten(), head, leaky(5)
    )
    x = _data(2, 6, 6)
    path = _stored(export_to_nir(model, torch.rand(1, 2, 6, 6), ignore_dims=[0]), tmp_path / "n.nir")
    reset_states(model)
    _check(path, x, _steps(model, x), dt=1e-4, reset="subtract", reset_timing="next")


# ---------------------------------------------------------------- SpikingJelly


def _dense_sj(first: Any, last: Any) -> Any:
    from spikingjelly.activation_based import layer

    return torch.nn.Sequential(layer.Linear(6, 20), first, layer.Linear(20, 4), last)


SPIKINGJELLY: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...], dict[str, Any]]] = {
    "learned tau": (
        lambda n, layer: _dense_sj(
            n.ParametricLIFNode(1.7, v_threshold=0.2), n.ParametricLIFNode(3.0, decay_input=False, v_threshold=0.8)
        ),
        (6,),
        {"reset": "zero"},
    ),
    "reset elsewhere": (
        lambda n, layer: _dense_sj(
            n.LIFNode(1.7, v_threshold=0.2, v_reset=-0.1),
            n.LIFNode(3.0, decay_input=False, v_threshold=0.8, v_reset=-0.2),
        ),
        (6,),
        {"start": "v_reset"},
    ),
    "current": (
        lambda n, layer: _dense_sj(
            n.CUBALIFNode(c_decay=0.6, v_decay=0.7, v_threshold=0.4), n.CUBALIFNode(c_decay=0.5, v_decay=0.8)
        ),
        (6,),
        {"reset": "zero"},
    ),
    "convolutions": (
        lambda n, layer: torch.nn.Sequential(
            layer.Conv2d(2, 4, 3, padding="same", bias=False),
            n.IFNode(v_threshold=0.4),
            layer.AvgPool2d(3, 2, 1),
            layer.Flatten(),
            layer.Linear(36, 8),
            n.LIFNode(2.0, v_threshold=0.1),
        ),
        (2, 6, 6),
        {"reset": "zero"},
    ),
    "one axis": (
        lambda n, layer: torch.nn.Sequential(
            layer.Conv1d(2, 4, 3, stride=2),
            n.IFNode(),
            layer.Flatten(),
            layer.Linear(16, 8),
            n.LIFNode(v_threshold=0.1),
        ),
        (2, 9),
        {"reset": "zero"},
    ),
}


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("name", SPIKINGJELLY)
def test_spikingjelly(name: str, mode: str, tmp_path: Path) -> None:
    pytest.importorskip("spikingjelly")
    export = pytest.importorskip("spikingjelly.activation_based.nir_exchange").export_to_nir
    from spikingjelly.activation_based import functional, layer, neuron

    torch.manual_seed(1)
    build, shape, options = SPIKINGJELLY[name]
    model = _lively(build(neuron, layer), 0.08 if "elsewhere" in name else 0.0).eval()
    functional.set_step_mode(model, mode)
    x = _data(*shape)
    path = _stored(export(model, torch.rand(*((2, 1) if mode == "m" else (1,)), *shape), dt=1e-4), tmp_path / "n.nir")
    functional.reset_net(model)
    if mode == "m":
        with torch.no_grad():
            expected = model(torch.from_numpy(x.swapaxes(0, 1).copy())).numpy().swapaxes(0, 1)
    else:
        expected = _steps(model, x)
    _check(path, x, expected, dt=1e-4, fire=">=", **options)


# ---------------------------------------------------------------- Norse

# Its exporter writes dt/τ⁻¹ where τ is meant: with dt = 1 ms a step of the file lasts 1e-6 s.
NORSE_DT = 1e-6


def _norse(nt: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    box = nt.LIFBoxParameters(tau_mem_inv=torch.tensor(200.0), v_th=torch.tensor(0.12), v_leak=torch.tensor(0.05))
    lif, iaf = nt.LIFParameters(v_th=torch.tensor(0.1)), nt.IAFParameters(v_th=torch.tensor(0.5))
    first, last = torch.nn.Linear(6, 20), torch.nn.Linear(20, 4, bias=False)
    of_currents = {"start": "v_leak", "dt": NORSE_DT}
    return {
        "LIFBox": (
            nt.SequentialState(first, nt.LIFBoxCell(box), last, nt.LIFBoxCell(box)),
            {"start": "v_leak", "dt": NORSE_DT},
        ),
        "LIF": (
            nt.SequentialState(first, nt.LIFCell(lif), last, nt.LIFCell(lif)),
            of_currents | {"input_gain": "impulse"},
        ),
        "LIF, then LIBox": (
            nt.SequentialState(first, nt.LIFCell(lif), last, nt.LIBoxCell()),
            of_currents | {"input_gain": {"1": "impulse"}},
        ),
        "IAF": (
            nt.SequentialState(first, nt.IAFCell(iaf), last, nt.IAFCell(iaf)),
            {"dt": NORSE_DT, "integrator_gain": "r"},
        ),
    }


@pytest.mark.parametrize("name", ["LIFBox", "LIF", "LIF, then LIBox", "IAF"])
def test_norse(name: str, tmp_path: Path) -> None:
    nt = pytest.importorskip("norse.torch")
    from norse.torch.utils.export_nir import to_nir

    torch.manual_seed(0)
    model, options = _norse(nt)[name]
    _lively(model, 0.08)
    x = _data(6)
    path = _stored(to_nir(model, torch.rand(6), dt=1e-3), tmp_path / "n.nir")
    state, expected = None, []
    with torch.no_grad():
        for t in range(T):
            y, state = model(torch.from_numpy(x[:, t]), state)
            expected.append(y.numpy())
    _check(path, x, np.stack(expected, 1), exact="LIBox" not in name, reset="zero", **options)


# ---------------------------------------------------------------- sinabs


def _sinabs(sl: Any) -> dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]]:
    from sinabs.activation import MembraneReset, SingleSpike

    once = {"batch_size": N, "spike_fn": SingleSpike}

    def lif(size: int, theta: float, norm: bool) -> Any:
        tau = torch.linspace(3, 9, size)
        return sl.LIFSqueeze(tau_mem=tau, spike_threshold=torch.full((size,), theta), norm_input=norm, **once)

    def iaf(**more: Any) -> Any:
        return sl.IAFSqueeze(spike_threshold=torch.tensor(0.5), **once, **more)

    nn, seq = torch.nn, torch.nn.Sequential
    of_lif = {"integration": "exponential", "reset": "subtract"}
    return {
        "IAF": (seq(nn.Linear(6, 20, bias=False), iaf(), nn.Linear(20, 4), iaf()), (6,), {"reset": "subtract"}),
        "IAF to zero": (seq(nn.Linear(6, 4), iaf(reset_fn=MembraneReset())), (6,), {"reset": "zero"}),
        "LIF": (seq(nn.Linear(6, 20), lif(20, 0.2, True), nn.Linear(20, 4), lif(4, 0.1, True)), (6,), of_lif),
        "LIF without norm": (
            seq(nn.Linear(6, 20), lif(20, 0.5, False), nn.Linear(20, 4), lif(4, 0.3, True)),
            (6,),
            of_lif | {"input_gain": {"1": "impulse"}},
        ),
        "convolutions": (
            seq(
                *(nn.Conv2d(2, 4, 5, 2, 1, bias=False), iaf(), nn.Conv2d(4, 4, 3, padding=1, bias=False), iaf()),
                *(sl.SumPool2d(2), nn.Flatten(), nn.Linear(36, 10, bias=False), iaf()),
            ),
            (2, 15, 15),
            {"reset": "subtract"},
        ),
    }


@pytest.mark.parametrize("name", ["IAF", "IAF to zero", "LIF", "LIF without norm", "convolutions"])
def test_sinabs(name: str, tmp_path: Path) -> None:
    sl = pytest.importorskip("sinabs.layers")
    from sinabs.nir import to_nir

    torch.manual_seed(0)
    model, shape, options = _sinabs(sl)[name]
    _lively(model, 0.03)
    x = _data(*shape)
    flat = torch.from_numpy(x.reshape(-1, *shape))
    with torch.no_grad():
        expected = model(flat).numpy().reshape(N, T, -1)
    graph = to_nir(model, flat)
    graph.infer_types()
    _check(_stored(graph, tmp_path / "n.nir"), x, expected, dt=1.0, fire=">=", **options)


# ---------------------------------------------------------------- Rockpool, by hand as its exporter writes


def _rockpool(path: Path, dt: float, changed: float = 1.0) -> tuple[Path, Callable[[Array], Array]]:
    """LIFTorch with recurrent weights, then ExpSynTorch; the file, and the forward pass as in Rockpool's modules."""
    rng = np.random.default_rng(2)
    tau_mem, tau_syn = rng.uniform(4e-3, 2e-2, 20), rng.uniform(4e-3, 1e-2, 20)
    tau_out = rng.uniform(4e-3, 2e-2, 4)
    w, out = rng.normal(size=(20, 6)) / 6, rng.normal(size=(4, 20))
    alpha, beta, decay = np.exp(-dt / tau_mem), np.exp(-dt / tau_syn), np.exp(-dt / tau_out)
    one = np.ones(20)
    nodes = {
        "input": nir.Input(np.array([6])),
        "0_LinearTorch": nir.Linear(w.astype(np.float32)),
        "1_LIFTorch": nir.CubaLIF(tau_syn, tau_mem, tau_mem * alpha / dt * changed, 0 * one, one, w_in=one),
        "2_LinearTorch": nir.Linear(out.astype(np.float32)),
        "3_ExpSynTorch": nir.LI(tau_out, tau_out * decay / dt, np.zeros(4)),
        "output": nir.Output(np.array([4])),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(pairwise(names)), type_check=False)

    def forward(x: Array) -> Array:
        isyn, vmem, filtered = np.zeros((len(x), 20)), np.zeros((len(x), 20)), np.zeros((len(x), 4))
        steps, fired = [], 0
        for t in range(x.shape[1]):
            isyn = beta * (isyn + x[:, t] @ w.T)
            vmem = alpha * vmem + isyn
            spikes = (vmem >= 1).astype(float)
            fired += spikes.sum()
            vmem -= spikes
            filtered = decay * (filtered + spikes @ out.T)
            steps.append(filtered)
        assert fired > 50
        return np.stack(steps, 1)

    return _stored(graph, path), forward


def test_rockpool(tmp_path: Path) -> None:
    path, forward = _rockpool(tmp_path / "n.nir", 1e-3)
    x = _data(6) / 4
    options: dict[str, Any] = {"integration": "rockpool", "reset": "subtract", "fire": ">="}
    _check(path, x, forward(x), exact=False, dt=1e-3, **options)
    with pytest.raises(UsageError, match="contradicts the file") as caught:
        load_graph(path, dt=2e-3, **options)
    assert "exp(−dt/τ)" in caught.value.why


def test_what_rockpool_did_not_write_is_not_read_as_rockpools(tmp_path: Path) -> None:
    path, _ = _rockpool(tmp_path / "n.nir", 1e-3, changed=1.1)
    with pytest.raises(UsageError, match="contradicts the file"):
        load_graph(path, dt=1e-3, integration="rockpool", reset="subtract")


# ---------------------------------------------------------------- what a file leaves open


def _pair(path: Path, **changed: Any) -> Path:
    """Input → a (LIF) → b (LIF) → output, of four neurons each."""
    fields = {"tau": 2e-3, "r": 2.0, "v_leak": 0.0, "v_threshold": 0.7} | changed
    lif = {name: np.full(4, value) for name, value in fields.items()}
    nodes = {
        "input": nir.Input(np.array([4])),
        "a": nir.LIF(**lif),
        "b": nir.LIF(**lif),
        "output": nir.Output(np.array([4])),
    }
    edges = [("input", "a"), ("a", "b"), ("b", "output")]
    return _stored(nir.NIRGraph(nodes, edges, metadata={"dt": 5e-4}, type_check=False), path)


def test_options_by_name(tmp_path: Path) -> None:
    path = _pair(tmp_path / "n.nir")
    graph = load_graph(
        path,
        dt=1e-3,
        reset={"a": "zero", "b": "subtract"},
        reset_timing={"b": "next"},
        fire={"a": ">="},
        input_gain={"b": "impulse"},
    )
    a, b = (graph[name].layer.model for name in "ab")  # type: ignore[attr-defined]
    assert (a.reset, a.reset_timing, a.fire) == ("hard", "same", ">=")
    assert (b.reset, b.reset_timing, b.fire) == ("soft", "next", ">")
    assert (a.input_gain, b.input_gain) == (1.0, 2.0)
    for wrong in ({"fire": {"c": ">"}}, {"start": {"input": "zero"}}, {"reset": {"c": "zero", "b": "subtract"}}):
        with pytest.raises(UsageError, match="is no population") as caught:
            load_graph(path, dt=1e-3, **{"reset": "zero", **wrong})
        assert caught.value.fix == "populations: a, b"
    with pytest.raises(UsageError, match="start cannot be 'rest'"):
        load_graph(path, dt=1e-3, reset="zero", start={"a": "rest"})  # type: ignore[dict-item]


@pytest.mark.parametrize("changed", [{"v_reset": -0.25}, {"v_leak": 0.125}])
def test_where_the_membrane_starts(changed: dict[str, float], tmp_path: Path) -> None:
    path = _pair(tmp_path / "n.nir", **changed)
    reset: Any = "v_reset" if "v_reset" in changed else "zero"
    (field, value), x = next(iter(changed.items())), np.zeros((1, 1, 4))
    with pytest.warns(UserWarning, match="a, b starts every sample at zero"):
        graph = load_graph(path, dt=1e-3, reset=reset)
    assert not graph["a"].layer.model.v_start.any()  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started = load_graph(path, dt=1e-3, reset=reset, start=field)
        load_graph(_pair(tmp_path / "plain.nir"), dt=1e-3, reset="zero")
    # Half way from the start to v_leak.
    rest = changed.get("v_leak", 0.0)
    assert simulate(started, x, record="v")["a"].v[0, 0, 0] == pytest.approx((value + rest) / 2)


def test_a_time_step_in_the_metadata_is_told_not_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the length of a time step is missing") as caught:
        load_graph(_pair(tmp_path / "n.nir"), reset="zero")
    assert "metadata note 0.0005" in caught.value.fix


def test_a_batch_axis_that_was_exported_is_suspected(tmp_path: Path) -> None:
    conv = nir.Conv2d((6, 6), np.ones((3, 2, 3, 3), np.float32), 1, 1, 1, 1, np.zeros(3, np.float32))
    ends = {"input": nir.Input(np.array([1, 2, 6, 6])), "output": nir.Output(np.array([1, 3, 6, 6]))}
    graph = nir.NIRGraph(ends | {"conv": conv}, [("input", "conv"), ("conv", "output")], type_check=False)
    with pytest.raises(S2CError) as caught:
        load_graph(_stored(graph, tmp_path / "n.nir"))
    assert "(1, 2, 6, 6) is the batch" in caught.value.fix


@pytest.mark.parametrize("nested", [False, True])
def test_equal_parameters_of_the_wrong_size(nested: bool, tmp_path: Path) -> None:
    """Also in a loop, where a population is read before its size is known."""
    ends = {"input": nir.Input(np.array([4])), "output": nir.Output(np.array([4]))}
    nodes: dict[str, Any] = {"n": nir.IF(np.full(3, 1e3), np.full(3, 0.5))}
    edges = [("input", "n"), ("n", "output")]
    if nested:
        nodes["w"] = nir.Linear(np.eye(4, dtype=np.float32))
        edges += [("n", "w"), ("w", "n")]
    path = _stored(nir.NIRGraph(ends | nodes, edges, type_check=False), tmp_path / "n.nir")
    with pytest.raises(S2CError, match=r"shape \(3,\), which does not fit \(4,\)"):
        load_graph(path, dt=1e-3, reset="zero")


def test_unknown_nodes_behind_the_one_that_is_read(tmp_path: Path) -> None:
    import h5py

    path = _pair(tmp_path / "n.nir")
    with h5py.File(path, "r+") as file:
        del file["node/nodes/b/type"]
        file["node/nodes/b/type"] = "Izhikevich"
    with pytest.raises(S2CError, match="'Izhikevich'"):
        load_graph(path, dt=1e-3, reset="zero")
    assert [n.name for n in load_graph(path, dt=1e-3, reset="zero", output="a").neurons] == ["a"]
