"""The single-process executor gives what Lava's own multi-process runtime gives, step by step."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.errors import S2CError
from snn2chip.verify.lava import runtime, shim
from snn2chip.verify.lava.inprocess import LavaNetwork, run_inprocess

if not shim.installed():
    pytest.skip("lava-nc is not installed", allow_module_level=True)

SCRIPT = Path(__file__).with_name("networks.py")
_spec = importlib.util.spec_from_file_location("lava_test_networks", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)


def _recordings(layers: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    names = ("u", "v", "s_out")
    return {f"{label}.{name}": (neurons, name) for label, neurons in layers.items() for name in names}


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_u_v_and_spike_equals_the_real_runtime(name: str, tmp_path: Path) -> None:
    layers = networks.NETWORKS[name]()
    got = run_inprocess(list(layers.values()), networks.STEPS, _recordings(layers))
    runtime.run_python([str(SCRIPT), name, str(tmp_path / "out.npz")], cwd=tmp_path, timeout=120)
    with np.load(tmp_path / "out.npz") as expected:
        assert set(expected) == set(got)
        for label in got:
            np.testing.assert_array_equal(got[label], expected[label], err_msg=label)
    for label in layers:
        spikes = got[f"{label}.s_out"]
        assert 0 < spikes.mean() < 1, f"{label} must fire, but not always, for this test to mean anything"


def test_any_process_of_the_network_may_be_named() -> None:
    one, two = networks.recurrent(), networks.recurrent()
    first = run_inprocess([one["first"]], 6, _recordings(one))
    second = run_inprocess([two["second"], two["first"]], 6, _recordings(two))
    for label in first:
        np.testing.assert_array_equal(first[label], second[label])


def test_a_process_that_ran_before_is_refused() -> None:
    neurons = networks.delay_dense()["neurons"]
    run_inprocess([neurons], 1, {})
    with pytest.raises(S2CError, match="compiled already"):
        run_inprocess([neurons], 1, {})


def test_helper_threads_end_with_the_network() -> None:
    before = threading.active_count()
    layers = networks.recurrent()
    with LavaNetwork([layers["first"]]) as network:
        network.step()
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_two_unconnected_networks_step_together() -> None:
    one, two = networks.dense_lif(), networks.delay_dense()
    both = {f"1.{label}": neurons for label, neurons in one.items()} | {"2": two["neurons"]}
    got = run_inprocess([one["output"], two["neurons"]], 5, _recordings(both))
    again = networks.delay_dense()["neurons"]
    alone = run_inprocess([again], 5, {"v": (again, "v")})
    np.testing.assert_array_equal(got["2.v"], alone["v"])


def test_a_loop_in_which_nobody_sends_first_is_an_error_and_no_hang() -> None:
    from lava.proc.lif.process import LIF

    one, two = LIF(shape=(2,)), LIF(shape=(2,))
    one.s_out.connect(two.a_in)
    two.s_out.connect(one.a_in)
    with pytest.raises(S2CError, match="waits for itself") as caught:
        run_inprocess([one], 1, {})
    assert "a_in waits for" in caught.value.why


def test_an_error_in_a_model_is_reported_with_process_and_step() -> None:
    from lava.proc.dense.process import DelayDense

    synapses = DelayDense(weights=np.ones((1, 1), int), delays=np.full((1, 1), 64), name="far")
    with pytest.raises(S2CError, match="raised") as caught:
        run_inprocess([synapses], 1, {})
    assert "far" in caught.value.where
    assert "step 1" in caught.value.where
    assert "between 0 and 63" in caught.value.why


def test_a_process_without_a_fixed_point_model_is_an_error() -> None:
    from lava.proc.lif.process import LIFRefractory

    with pytest.raises(S2CError, match="cannot compile"):
        run_inprocess([LIFRefractory(shape=(1,))], 1, {})


@pytest.mark.parametrize("name", ["w", "a_in", "run"])
def test_recording_something_unknown_is_an_error_that_lists_the_choices(name: str) -> None:
    neurons = networks.delay_dense()["neurons"]
    with pytest.raises(S2CError, match="not there") as caught:
        run_inprocess([neurons], 1, {"x": (neurons, name)})
    assert "s_out" in caught.value.why


def test_recording_a_process_of_another_network_is_an_error() -> None:
    with pytest.raises(S2CError, match="not connected"):
        run_inprocess([networks.delay_dense()["neurons"]], 1, {"x": (networks.delay_dense()["neurons"], "v")})


def test_several_sources_of_one_port_are_added() -> None:
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    one, two = np.arange(6).reshape(2, 3), np.arange(6, 12).reshape(2, 3)
    sink = Sink(shape=(2,), buffer=3)
    Source(data=one).s_out.connect(sink.a_in)
    Source(data=two).s_out.connect(sink.a_in)
    got = run_inprocess([sink], 3, {"data": (sink, "data")})
    np.testing.assert_array_equal(got["data"][-1], one + two)


@pytest.mark.skipif(not shim.netx_installed(), reason="lava-dl is not installed")
def test_a_hierarchical_network_read_by_netx_equals_its_parts(tmp_path: Path) -> None:
    import h5py
    from lava.proc.dense.process import Dense
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.lif.process import LIF

    rng = np.random.default_rng(5)
    weights, spikes = 2 * rng.integers(-60, 90, (4, 6)), rng.integers(0, 2, (6, 30))
    weights[0, :2] = 254, -256
    with h5py.File(tmp_path / "network.net", "w") as file:
        file["layer/0/type"], file["layer/0/shape"] = np.array([b"input"]), np.array([6])
        file["layer/1/type"], file["layer/1/shape"] = np.array([b"dense"]), np.array([4])
        file["layer/1/weight"] = weights
        file["layer/1/neuron/type"] = np.array([b"CUBA"])
        for name, value in {"iDecay": 1024, "vDecay": 128, "vThMant": 300, "refDelay": 1}.items():
            file[f"layer/1/neuron/{name}"] = value
        file["layer/1/neuron/gradedSpike"] = False

    shim.prepare_netx()
    from lava.lib.dl.netx.hdf5 import Network

    block = Network(net_config=str(tmp_path / "network.net")).layers[0]
    Source(data=spikes).s_out.connect(block.inp)
    recordings = {"u": (block.neuron, "u"), "v": (block.neuron, "v"), "s_out": (block, "out")}
    got = run_inprocess([block], 30, recordings)

    source, dense = Source(data=spikes), Dense(weights=weights)
    neurons = LIF(shape=(4,), du=1023, dv=128, vth=300, bias_mant=0, bias_exp=6)
    source.s_out.connect(dense.s_in)
    dense.a_out.connect(neurons.a_in)
    expected = run_inprocess([neurons], 30, {name: (neurons, name) for name in got})
    assert 0 < expected["s_out"].mean() < 1
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
