"""The loop of ``simulate/cuda.py`` against the definition: everywhere on torch's CPU, on a GPU where there is one."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from effort import examples
from networks import graph, node, population, program, spikes
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.layers import Linear, MatMul, MaxPool, Mul, Neuron, Permute, Reshape, SumPool
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.simulate import cuda, simulate
from snn2chip.simulate.explain import explain_engine
from snn2chip.simulate.reference import MachineClock
from tests.emit.lava_networks import NETWORKS
from tests.emit.random_programs import Case, cases
from tests.simulate.test_fast import EVERYTHING, Unusual, assert_same, beyond_64_bits

GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine")
)
devices = pytest.mark.parametrize("device", ["cpu", GPU])


def run(made: Program, x: np.ndarray, device: str, **options: Any) -> Any:
    steps = x.shape[1] if made.coding == "steps" else made.time_steps
    given: dict[str, Any] = {"machine": None, "batch_size": 2, "progress": None, "device": device}
    return cuda.run(made, x, steps, frozenset(EVERYTHING), **(given | options))


@devices
def test_random_programs(device: str) -> None:
    @settings(max_examples=examples(60))
    @given(case=cases())
    def same(case: Case) -> None:
        expected = simulate(case.program, case.x, record=EVERYTHING, engine="reference")
        assert_same(expected, run(case.program, case.x, device))

    same()


@devices
def test_every_neuron_and_the_machines_clock(device: str) -> None:
    made, x = NETWORKS["programmed"]()
    samples = np.random.default_rng(9).integers(0, 2, (5, *x.shape[1:]))
    assert_same(simulate(made, samples, record=EVERYTHING, engine="reference"), run(made, samples, device))
    long = samples[:, np.arange(20) % samples.shape[1]]
    expected = simulate(made, long, record=EVERYTHING, clock="machine", reset_interval=9)
    assert_same(expected, run(made, long, device, machine=MachineClock(reset_interval=9)))


@devices
@pytest.mark.parametrize("size", [3, 1 << 20, 1 << 35])
def test_sums_of_any_width(device: str, size: int) -> None:
    """Products in float32, in float64 and beyond both."""
    rng = np.random.default_rng(0)
    unusual = Unusual(np.asarray(9), np.asarray(100), np.asarray(4096), np.asarray(3))
    made = program(
        (2, 3, 4),
        node("pool", SumPool((1, 2), (1, 1), (0, 1), ceil_mode=True), "x"),
        node("turned", Permute((0, 2, 1)), "x"),
        node("product", MatMul(), "x", "turned"),
        node("gate", Mul(), "product", "product"),
        node("flat", Reshape((18,)), "gate"),
        node("fc", Linear(rng.integers(-size, size, (5, 18)), rng.integers(-size, size, 5)), "flat"),
        node("lif", Neuron(unusual), "fc"),
        bits=8,
    )
    x = rng.integers(0, 200, (3, *made.sample_shape))
    assert_same(simulate(made, x, record=EVERYTHING, engine="reference"), run(made, x, device))


def test_the_gpu_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    unusual = Unusual(np.asarray(9), np.asarray(100), np.asarray(4096), np.asarray(3))
    made = program((4,), node("fc", Linear(np.eye(4, dtype=int)), "x"), node("lif", Neuron(unusual), "fc"), bits=8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(S2CError, match="there is no GPU"):
        explain_engine(made, 2, 5, engine="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    told = explain_engine(made, 2, 5, engine="cuda")
    assert (told.engine, told.why) == ("cuda", "it is asked for")
    (remark,) = told.remarks
    assert remark.startswith("lif: computed by numpy on the host")
    assert "numpy.sort" in remark


@devices
@pytest.mark.parametrize("pooling", [MaxPool, SumPool])
def test_pooling_over_three_axes(device: str, pooling: Any) -> None:
    rng = np.random.default_rng(0)
    made = program((2, 4, 3, 5), node("pool", pooling((2, 1, 2), (1, 2, 2), (1, 0, 1), ceil_mode=True), "x"), bits=8)
    x = rng.integers(0, 256, (3, *made.sample_shape))
    assert_same(simulate(made, x, record=EVERYTHING, engine="reference"), run(made, x, device))


@devices
def test_registers_beyond_64_bits(device: str) -> None:
    made, x = beyond_64_bits()
    assert_same(simulate(made, x, record=EVERYTHING, engine="reference"), run(made, x, device))


def test_an_inexact_library_is_found_out() -> None:
    rng = np.random.default_rng(0)
    lif = IntegerLIF(np.asarray(30), np.asarray(100), np.asarray(4096), np.asarray(3))
    made = program((6,), node("fc", Linear(rng.integers(-50, 80, (5, 6))), "x"), node("lif", Neuron(lif), "fc"))
    x = spikes(rng, 3, *made.sample_shape).astype(int)
    run(made, x, "cpu")
    honest = cuda.IntegerTensorOps.linear
    with (
        mock.patch.object(cuda.IntegerTensorOps, "linear", lambda *args: honest(*args) + 40),
        pytest.raises(S2CError, match="other integers than the processor"),
    ):
        run(made, x, "cpu")


def test_without_a_gpu_the_message_says_what_to_do() -> None:
    made, x = NETWORKS["programmed"]()
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=False),
        pytest.raises(S2CError, match="no GPU") as caught,
    ):
        simulate(made, x, engine="cuda")
    assert "the fast engine gives the same integers" in caught.value.fix


def test_memory_that_does_not_suffice_names_the_batch() -> None:
    made, x = NETWORKS["programmed"]()
    with (
        mock.patch.object(cuda.reference, "run", side_effect=torch.OutOfMemoryError("Tried to allocate 9 GiB")),
        pytest.raises(S2CError, match="batch of 2 samples") as caught,
    ):
        run(made, x, "cpu")
    assert "--batch-size" in caught.value.fix


def test_a_float_network_stays_on_the_processor() -> None:
    layers = node("fc", Linear(np.ones((3, 4), np.float32)), "x"), node("lif", population(LIF(1.0, 0.9)), "fc")
    with pytest.raises(UsageError, match="float network"):
        simulate(graph((4,), *layers), np.zeros((1, 5, 4)), engine="cuda")
