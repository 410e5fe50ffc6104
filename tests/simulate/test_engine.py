"""The reference engine: clocks, delays, recurrence, counts, recordings and the messages for data that does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from networks import graph, node, population, program, spikes, weights
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Edge
from snn2chip.ir.layers import Add, Conv1d, Conv2d, Delay, Flatten, Linear, Reshape
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.simulate import reference, simulate
from snn2chip.simulate.counting import fan_out


def lif(**options: object) -> IntegerLIF:
    defaults: dict[str, object] = {"v_threshold": 40, "decay_v": 1000, "decay_u": 4096, "bias": 3}
    return IntegerLIF(**(defaults | options))  # type: ignore[arg-type]


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-25, 30, shape) * 2


def conv_net(rng: np.random.Generator, **options: object) -> Program:
    return program(
        (2, 5, 6),
        node("conv", Conv2d(integers(rng, 3, 2, 3, 3), padding=(1, 1)), "x"),
        node("lif1", population(lif(**options)), "conv"),
        node("flat", Flatten(), "lif1"),
        node("fc", Linear(integers(rng, 4, 90)), "flat"),
        node("lif2", population(lif(decay_u=1024, reset="soft")), "fc"),
    )


def recurrent_net(rng: np.random.Generator, delay: int = 1) -> Program:
    back = Edge("lif1", delay=delay, recurrent=True)
    return program(
        (6,),
        node("fc1", Linear(integers(rng, 5, 6)), "x"),
        node("rec", Linear(integers(rng, 5, 5)), back),
        node("lif1", population(lif()), "fc1", "rec"),
        node("fc2", Linear(integers(rng, 3, 5)), "lif1"),
        node("lif2", population(lif()), "fc2"),
        time_steps=9,
    )


def looped_net(rng: np.random.Generator, delay: int = 2) -> Program:
    """The second layer feeds the first, through a layer that only moves."""
    return program(
        (2, 3),
        node("conv", Conv1d(integers(rng, 2, 2, 3), padding=(1,)), "x"),
        node("flat", Flatten(), "conv"),
        node("fb", Linear(integers(rng, 6, 4)), "back"),
        node("back", Flatten(), Edge("lif2", delay, recurrent=True)),
        node("lif1", population(lif()), "flat", "fb"),
        node("fc", Linear(integers(rng, 4, 6)), "lif1"),
        node("spread", Reshape((2, 2)), "fc"),
        node("lif2", population(lif()), "spread"),
    )


def test_a_loop_the_machine_is_too_slow_for() -> None:
    rng = np.random.default_rng(31)
    network = looped_net(rng, 1)
    x = spikes(rng, 1, 5, 2, 3).astype(int)
    assert simulate(network, x, record="spikes")["lif2"].spikes.any()
    with pytest.raises(S2CError, match="lif2 fires too late for back"):
        simulate(network, x, clock="machine")


def test_a_recurrent_spike_arrives_after_its_delay() -> None:
    for delay in (1, 2, 3):
        rng = np.random.default_rng(3)
        network = recurrent_net(rng, delay)
        x = spikes(rng, 4, 9, 6).astype(int)
        found = simulate(network, x, record=("spikes", "a"))
        s = found["lif1"].spikes
        w_in, w_rec = network["fc1"].layer.weight, network["rec"].layer.weight
        expected = np.stack([x[:, t] @ w_in.T + (s[:, t - delay] @ w_rec.T if t >= delay else 0) for t in range(9)], 1)
        np.testing.assert_array_equal(found["lif1"].a, expected)
        assert s.any()


def test_synaptic_and_axonal_delays() -> None:
    rng = np.random.default_rng(4)
    w, d = integers(rng, 3, 4), rng.integers(0, 4, (3, 4))
    x = spikes(rng, 2, 8, 4).astype(int)
    network = program(
        (4,),
        node("later", Delay(2), "x"),
        node("fc", Linear(w, delay=d), "later"),
        node("lif", population(lif()), "fc"),
        time_steps=8,
    )
    found = simulate(network, x, record="a")["lif"].a
    expected = np.zeros_like(found)
    for out, source in np.ndindex(3, 4):
        shift = d[out, source] + 2
        expected[:, shift:, out] += w[out, source] * x[:, : 8 - shift, source]
    np.testing.assert_array_equal(found, expected)


@given(
    seed=st.integers(0, 10**6),
    make=st.sampled_from([conv_net, recurrent_net, looped_net]),
    interval=st.integers(5, 9),
)
def test_the_machines_clock_shows_the_same_integers_one_step_later_per_layer(
    seed: int, make: Callable[[np.random.Generator], Program], interval: int
) -> None:
    rng = np.random.default_rng(seed)
    network = make(rng)
    steps, shape = network.time_steps, network.sample_shape[1:]
    assume(interval >= steps)
    depth = depths(network)
    x = spikes(rng, 1, steps, *shape).astype(int)
    own = simulate(network, x, record=("u", "v", "spikes"))
    padded = np.concatenate([x, np.zeros((1, 4, *shape), int)], axis=1)
    machine = simulate(network, padded, record=("u", "v", "spikes"), clock="machine", reset_interval=99)
    for name in ("lif1", "lif2"):
        window = slice(depth[name], depth[name] + steps)
        for what in ("u", "v", "spikes"):
            np.testing.assert_array_equal(getattr(own[name], what), getattr(machine[name], what)[:, window])


def test_back_to_back_samples_equal_isolated_ones_without_a_gap() -> None:
    rng = np.random.default_rng(5)
    network = conv_net(rng)
    x = spikes(rng, 3, 5, 2, 5, 6).astype(int)
    own = simulate(network, x, record=("v", "spikes"))
    stream = np.concatenate([x.reshape(1, 15, 2, 5, 6), np.zeros((1, 2, 2, 5, 6), int)], axis=1)
    machine = simulate(network, stream, record=("v", "spikes"), clock="machine", reset_interval=5)
    for name, depth in (("lif1", 1), ("lif2", 2)):
        window = machine[name].v[:, depth : depth + 15]
        np.testing.assert_array_equal(window.reshape(own[name].v.shape), own[name].v)


def test_registers_show_what_the_chip_shows() -> None:
    rng = np.random.default_rng(6)
    network = conv_net(rng)
    x = spikes(rng, 1, 5, 2, 5, 6).astype(int)
    plain = simulate(network, x, record=("v", "spikes"), clock="machine")
    silicon = simulate(network, x, record=("v", "spikes"), clock="machine", registers="silicon")
    fired = plain["lif1"].spikes != 0
    assert fired.any()
    np.testing.assert_array_equal(silicon["lif1"].spikes, plain["lif1"].spikes)
    np.testing.assert_array_equal(silicon["lif1"].v, np.where(fired, 128, plain["lif1"].v))
    with pytest.raises(UsageError, match="no register convention 'bronze'"):
        simulate(network, x, clock="machine", registers="bronze")


def test_results_do_not_depend_on_the_batch_split() -> None:
    rng = np.random.default_rng(7)
    network = conv_net(rng)
    x = spikes(rng, 7, 5, 2, 5, 6).astype(int)
    whole, parts = (simulate(network, x, record=("u", "v", "spikes"), batch_size=b) for b in (7, 2))
    for name in ("lif1", "lif2"):
        for what in ("u", "v", "spikes"):
            np.testing.assert_array_equal(getattr(whole[name], what), getattr(parts[name], what))
    np.testing.assert_array_equal(whole.outputs_int, parts.outputs_int)
    np.testing.assert_array_equal(whole.counts["conv"].synops, parts.counts["conv"].synops)


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
)
def test_synops_count_every_existing_synapse(seed, size, kernel, stride, padding, dilation, groups) -> None:  # type: ignore[no-untyped-def]
    assume(all(n + 2 * padding >= dilation * (k - 1) + 1 for n, k in zip(size, kernel, strict=True)))
    layer = Conv2d(np.ones((4, 4 // groups, *kernel)), None, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups)
    # Torch's gradient of the sum of all outputs to each input, with all weights one, is the number of synapses.
    x = torch.zeros(1, 4, *size, dtype=torch.float64, requires_grad=True)
    F.conv2d(x, torch.from_numpy(layer.weight), None, stride, padding, dilation, groups).sum().backward()
    np.testing.assert_array_equal(fan_out(layer, (4, *size)), x.grad[0])


def test_counts_per_sample_and_step() -> None:
    rng = np.random.default_rng(8)
    network = conv_net(rng)
    x = spikes(rng, 3, 5, 2, 5, 6).astype(int)
    found = simulate(network, x, record="spikes")
    np.testing.assert_array_equal(found.counts["lif1"].spikes, found["lif1"].spikes.sum(axis=(2, 3, 4)))
    np.testing.assert_array_equal(found.counts["fc"].synops, 4 * found.counts["lif1"].spikes)
    assert (found.counts["lif1"].neuron_updates == 90).all()
    assert found.totals()["macs"] == 0
    host = network.with_nodes([dataclasses.replace(n, placement="host") if n.name == "fc" else n for n in network])
    counted = simulate(host, x).counts["fc"]
    assert (counted.macs == 360).all()
    assert not counted.synops.any()


def test_a_synapses_name_stands_for_the_population_it_feeds() -> None:
    rng = np.random.default_rng(9)
    found = simulate(conv_net(rng), spikes(rng, 1, 5, 2, 5, 6), record="spikes")
    assert found["conv"].spikes is found["lif1"].spikes
    with pytest.raises(UsageError, match="no layer 'lif'") as caught:
        found["lif"]
    assert "lif" in caught.value.fix
    with pytest.raises(UsageError, match="nothing was recorded of 'x'"):
        found["x"]


def test_graded_sums_of_spikes_keep_their_value() -> None:
    network = program(
        (3,),
        node("twice", Add(), "x", "x"),
        node("fc", Linear(np.array([[2, 4, 6]])), "twice"),
        node("lif", population(lif(v_threshold=None, bias=0, decay_v=0)), "fc"),
    )
    x = np.zeros((1, 5, 3))
    x[0, 0] = 1
    assert simulate(network, x, record="a")["lif"].a[0, :, 0].tolist() == [24, 0, 0, 0, 0]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_float_graph_runs_through_the_same_door(backend: str) -> None:
    rng = np.random.default_rng(10)
    w = weights(rng, 5, 6, gain=2)
    model = graph((6,), node("fc", Linear(w), "x"), node("lif", population(LIF(1.0, 0.5, fire=">")), "fc"), how="mean")
    x = spikes(rng, 4, 5, 6)
    found = simulate(model, x, record=("spikes", "v", "h"), backend=backend)  # type: ignore[arg-type]
    v, total = np.zeros((4, 5), np.float32), np.zeros((4, 5), np.float32)
    for t in range(5):
        h = np.float32(0.5) * v + x[:, t] @ w.T
        fired = h > 1
        v = np.where(fired, np.float32(0), h)
        total += fired
        np.testing.assert_array_equal(found["lif"].spikes[:, t], fired)
        np.testing.assert_allclose(found["lif"].h[:, t], h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["lif"].v[:, t], v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.outputs, total / 5)
    assert found.outputs_int is None


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.zeros((2, 5, 2, 5, 5)), "the data has shape"),
        (np.zeros((2, 5, 2, 5, 6), dtype=str), "type <U1"),
        (np.full((2, 5, 2, 5, 6), np.nan), "NaN or infinite"),
        (np.full((2, 5, 2, 5, 6), 2), "the input holds 2"),
        (np.full((2, 5, 2, 5, 6), 0.5), "the input holds 0.5"),
        (np.zeros((0, 5, 2, 5, 6)), "nothing to simulate"),
        ([[0, 1], [0]], "cannot be read as an array"),
        (torch.zeros(2, 5, 2, 5, 6).to_sparse(), "cannot be read as an array"),
        (torch.zeros(2, 5, 2, 5, 6, device="meta"), "cannot be read as an array"),
    ],
)
def test_data_that_does_not_fit_is_refused(x: Any, what: str) -> None:
    with pytest.raises(S2CError, match=what):
        simulate(conv_net(np.random.default_rng(0)), x)


def test_floats_that_numpy_does_not_know_are_read_exactly() -> None:
    network = conv_net(np.random.default_rng(0))
    x = torch.from_numpy(spikes(np.random.default_rng(1), 2, 5, 2, 5, 6))
    expected = simulate(network, x).outputs_int
    assert expected.any()
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        np.testing.assert_array_equal(simulate(network, x.to(dtype)).outputs_int, expected)


def test_options_are_checked() -> None:
    network, x = conv_net(np.random.default_rng(0)), np.zeros((1, 5, 2, 5, 6))
    with pytest.raises(UsageError, match="cannot record w"):
        simulate(network, x, record="w")
    with pytest.raises(UsageError, match="no clock"):
        simulate(network, x, clock="wall")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="reset interval of 0"):
        simulate(network, x, clock="machine", reset_interval=0)
    for options in ({"reset_interval": 9}, {"reset_phase": 1}, {"registers": "silicon"}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}: only the machine's clock"):
            simulate(network, x, **options)
    for size in (0, -3, 1.5):
        with pytest.raises(UsageError, match=f"a batch of {size} samples"):
            simulate(network, x, batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a str is no network") as caught:
        simulate("network.nir", x)  # type: ignore[arg-type]
    assert "snn2chip.load" in caught.value.fix


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 GiB"), RuntimeError("can't allocate memory")])
def test_memory_that_does_not_suffice_is_said(error: Exception) -> None:
    """Numpy's error for it and torch's."""
    network, x = conv_net(np.random.default_rng(0)), np.zeros((1, 5, 2, 5, 6))
    with (
        mock.patch.object(reference, "run", side_effect=error),
        pytest.raises(S2CError, match="not enough memory") as caught,
    ):
        simulate(network, x, engine="reference")
    assert str(error) == caught.value.why
    assert "--batch-size" in caught.value.fix
