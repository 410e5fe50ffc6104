"""What is measured between float and fixed point: planted differences are found where they were planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from networks import graph, node, population, program, spikes, weights
from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Conv2d, Flatten, Linear, MaxPool, Neuron
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.quantize import quantize
from snn2chip.report.collect import culprit
from snn2chip.simulate import simulate
from snn2chip.verify import measure as module
from snn2chip.verify.measure import measure


@pytest.fixture(scope="module")
def net() -> Graph:
    rng = np.random.default_rng(1)
    layers, before = [], "x"
    for name, width, inputs in (("a", 24, 16), ("b", 20, 24), ("c", 6, 20)):
        layers.append(node(f"{name}.fc", Linear(weights(rng, width, inputs, gain=2)), before))
        layers.append(node(name, population(LIF(0.5, 0.75)), f"{name}.fc"))
        before = name
    return graph((16,), *layers, time_steps=6)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return spikes(np.random.default_rng(2), 150, 6, 16)


@pytest.fixture(scope="module")
def labels(net: Graph, x: np.ndarray) -> np.ndarray:
    return simulate(net, x).outputs.argmax(axis=1)


@pytest.fixture(scope="module")
def good(net: Graph, x: np.ndarray) -> Program:
    return quantize(net, calibration=x[:64])


def spoiled(program: Program, name: str) -> Program:
    """Every fourth weight of a synapse is gone."""
    weight = program[name].layer.weight.copy()
    weight.ravel()[::4] = 0
    layer = dataclasses.replace(program[name].layer, weight=weight)
    return program.with_nodes(dataclasses.replace(n, layer=layer) if n.name == name else n for n in program)


def test_counts_agree_with_a_plain_simulation(net: Graph, good: Program, x: np.ndarray) -> None:
    measured = measure(net, good, x)
    real, fixed = simulate(net, x, record="spikes"), simulate(good, x, record="spikes")
    np.testing.assert_array_equal(measured.outputs_float, real.outputs)
    np.testing.assert_array_equal(measured.outputs_fixed, fixed.outputs)
    for layer in measured.layers:
        a, b = real[layer.name].spikes != 0, fixed[layer.name].spikes != 0
        assert (layer.slots, layer.equal) == (a.size, int((a == b).sum()))
        np.testing.assert_array_equal(layer.spikes_float, a.sum(axis=(0, 2)))
        np.testing.assert_array_equal(layer.spikes_fixed, b.sum(axis=(0, 2)))
        np.testing.assert_array_equal(measured.counts[layer.name].spikes, fixed.counts[layer.name].spikes)
        assert layer.membrane is not None
        assert layer.membrane.sum() == a.size


def test_batches_do_not_change_what_is_measured(
    net: Graph, good: Program, x: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(net, good, x, labels)
    monkeypatch.setattr(module, "BATCH", 7)
    parts = measure(net, good, x, labels)
    assert parts.first == whole.first
    for a, b in zip(parts.layers, whole.layers, strict=True):
        for name, value in vars(b).items():
            if isinstance(value, float):
                assert getattr(a, name) == pytest.approx(value), "sums of floats depend on their order"
            else:
                np.testing.assert_array_equal(getattr(a, name), value)


@pytest.mark.parametrize("bad", ["a", "b", "c"])
def test_the_culprit_is_the_layer_that_was_spoiled(
    net: Graph, good: Program, x: np.ndarray, labels: np.ndarray, bad: str
) -> None:
    measured = measure(net, spoiled(good, f"{bad}.fc"), x, labels)
    rows = {layer.name: layer for layer in measured.layers}
    own = {name: row.own_equal / row.own_slots for name, row in rows.items()}
    assert all(own[name] > 0.99 for name in own if name != bad)
    assert own[bad] < 0.97
    found = culprit(measured, labels)
    assert found is not None
    assert found["layer"] == bad
    assert found["answers_lost_at"] == bad
    assert found["answers_lost"] > 5
    assert measured.first is not None
    assert measured.first.layer == bad


def test_a_layer_behind_a_max_pool_is_given_the_pooled_spikes(chip_pool: tuple[Graph, Program, np.ndarray]) -> None:
    """The chip has a population where the graph has a max pool; alone, every layer still meets what it meets there.

    The shapes before and after ``b``'s synapse are equal, those of ``c``'s are not.
    """
    net, made, x = chip_pool
    assert {n.name for n in made.neurons} - {n.name for n in net.neurons}, "a max pool became a population"
    for layer in measure(net, made, x).layers:
        assert layer.own_slots == simulate(net, x, record="spikes")[layer.name].spikes.size
        assert layer.own_equal / layer.own_slots > 0.97, layer.name


@pytest.fixture(scope="module")
def chip_pool() -> tuple[Graph, Program, np.ndarray]:
    rng = np.random.default_rng(4)
    net = graph(
        (2, 8, 8),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("a", population(LIF(0.5, 0.75)), "conv"),
        node("pool", MaxPool((2, 2), (2, 2), (0, 0)), "a"),
        node("conv2", Conv2d(weights(rng, 4, 4, 3, 3, gain=2), padding=(1, 1)), "pool"),
        node("b", population(LIF(0.5, 0.75)), "conv2"),
        node("pool2", MaxPool((2, 2), (2, 2), (0, 0)), "b"),
        node("flat", Flatten(), "pool2"),
        node("fc", Linear(weights(rng, 6, 16, gain=2)), "flat"),
        node("c", population(LIF(0.5, 0.75)), "fc"),
    )
    x = spikes(rng, 10, 5, 2, 8, 8)
    return net, quantize(net, calibration=x), x


def test_first_difference_shows_both_membranes(net: Graph, good: Program, x: np.ndarray) -> None:
    bad = spoiled(good, "b.fc")
    first = measure(net, bad, x).first
    assert first is not None
    real, fixed = simulate(net, x, record=("spikes", "v")), simulate(bad, x, record=("spikes", "v"))
    at = (first.sample, first.step, *first.neuron)
    assert (real["b"].spikes[at] != 0, fixed["b"].spikes[at] != 0) == (first.spike_float, first.spike_fixed)
    assert first.v_float == pytest.approx(real["b"].v[at] / 0.5)
    theta = bad["b"].layer.model.v_threshold << 6
    assert first.v_fixed == pytest.approx(fixed["b"].v[at] / np.broadcast_to(theta, (20,))[first.neuron])
    before = real["b"].spikes[: first.sample] != fixed["b"].spikes[: first.sample]
    assert not before.any(), "no earlier sample differs"


def test_equal_networks_have_no_culprit(x: np.ndarray) -> None:
    """The same whole numbers as floats and as integers, without decay: nothing is rounded."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(-20, 40, (10, 16)) * 2, rng.integers(-20, 40, (4, 10)) * 2

    def layers(a: Neuron, b: Neuron, dtype: type) -> list[Node]:
        return [
            node("fc", Linear(first.astype(dtype)), "x"),
            node("a", a, "fc"),
            node("fc2", Linear(second.astype(dtype)), "a"),
            node("b", b, "fc2"),
        ]

    def real(theta: float) -> Neuron:
        return population(LIF(theta, 1.0))

    def fixed(theta: int) -> Neuron:
        model = IntegerLIF(np.asarray(theta), np.asarray(0), np.asarray(4096), np.asarray(0), fire=">=")
        return population(model)

    measured = measure(
        graph((16,), *layers(real(32.0), real(64.0), np.float32), time_steps=6),
        program((16,), *layers(fixed(32), fixed(64), np.int64), time_steps=6),
        x,
    )
    assert all(layer.equal == layer.slots > 0 for layer in measured.layers)
    assert all(layer.spikes_float.sum() > 0 for layer in measured.layers)
    assert measured.first is None
    assert culprit(measured, None) is None
