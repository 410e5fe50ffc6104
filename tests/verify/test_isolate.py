"""A network that is cut and put together again is the same network."""

from __future__ import annotations

import numpy as np
import pytest

from networks import graph, node, population, spikes, weights
from snn2chip.ir.graph import Edge, Graph
from snn2chip.ir.layers import Add, Conv2d, Flatten, Linear, Neuron
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.ternary import TernaryLIF
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate
from snn2chip.verify.compare import Execution, compare
from snn2chip.verify.isolate import part, tail


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return spikes(np.random.default_rng(3), 20, 5, 2, 6, 6)


@pytest.fixture(scope="module")
def chain() -> Graph:
    rng = np.random.default_rng(0)
    return graph(
        (2, 6, 6),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2)), "x"),
        node("a", population(LIF(0.5, 0.7)), "conv"),
        node("flat", Flatten(), "a"),
        node("fc", Linear(weights(rng, 12, 64, gain=2)), "flat"),
        node("again", Linear(weights(rng, 12, 12, gain=0.5)), Edge("b", 1, recurrent=True)),
        node("b", population(LIF(0.4, 0.8, reset="soft")), "fc", "again"),
        node("head", Linear(weights(rng, 3, 12)), "b"),
        node("c", population(LIF(0.3, 0.5)), "head"),
    )


@pytest.fixture(scope="module")
def program(chain: Graph, x: np.ndarray) -> Program:
    return quantize(chain, calibration=x)


@pytest.mark.parametrize("name", ["a", "b"])
def test_tail_continues_where_it_was_cut(chain: Graph, x: np.ndarray, name: str) -> None:
    whole = simulate(chain, x, record="spikes")
    rest = tail(chain, name)
    assert rest is not None
    assert (whole[name].spikes != 0).any()
    np.testing.assert_array_equal(simulate(rest, whole[name].spikes).outputs, whole.outputs)


@pytest.mark.parametrize(("name", "source"), [("a", "x"), ("b", "a"), ("c", "b")])
def test_part_computes_what_the_whole_does(program: Program, x: np.ndarray, name: str, source: str) -> None:
    whole = simulate(program, x, record=("spikes", "v"))
    found = part(program, name)
    assert found is not None
    cut, before = found
    assert before == source
    data = x if source == "x" else whole[source].spikes
    alone = simulate(cut, data, record=("spikes", "v"))
    np.testing.assert_array_equal(alone[name].spikes, whole[name].spikes)
    np.testing.assert_array_equal(alone[name].v, whole[name].v)


def test_a_branch_past_the_cut_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    net = graph(
        (4,),
        node("fc", Linear(weights(rng, 4, 4, gain=2)), "x"),
        node("a", population(LIF(0.5, 0.7)), "fc"),
        node("fc2", Linear(weights(rng, 4, 4, gain=2)), "a"),
        node("b", population(LIF(0.5, 0.7)), "fc2"),
        node("sum", Add(), "a", "b"),
        node("fc3", Linear(weights(rng, 4, 4)), "sum"),
        node("c", population(LIF(0.5, 0.7)), "fc3"),
    )
    assert tail(net, "b") is None, "a reaches c past b"
    assert tail(net, "a") is not None


def test_spikes_of_both_signs_keep_them(x: np.ndarray) -> None:
    """A population fed by ternary spikes, cut out and given them, is the population; signs that differ are counted."""
    rng = np.random.default_rng(5)
    net = graph(
        (2, 6, 6),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2)), "x"),
        node("signs", Neuron(TernaryLIF(0.5, 0.7)), "conv"),
        node("flat", Flatten(), "signs"),
        node("fc", Linear(weights(rng, 12, 64, gain=2)), "flat"),
        node("b", Neuron(TernaryLIF(0.4, 0.8, reset="soft")), "fc"),
    )
    made = quantize(net, calibration=x)
    cut = part(made, "b")
    assert cut is not None
    whole = simulate(made, x, record="spikes")
    assert {-1, 1} < set(np.unique(whole["signs"].spikes).tolist())
    assert whole["b"].spikes is not None
    assert (simulate(cut[0], whole["signs"].spikes, record="spikes")["b"].spikes == whole["b"].spikes).all()
    real = Execution.of("float", simulate(net, x, record="spikes"))
    mirrored = Execution("mirrored", {n: {"spikes": -q["spikes"]} for n, q in real.layers.items()}, real.outputs)
    for row in compare(real, mirrored, layers=("signs", "b"), scales={"signs": 1.0, "b": 1.0}):
        fired = int(np.count_nonzero(real.layers[row.name]["spikes"]))
        assert row.differing["spikes"] == fired > 0
        assert row.spike_agreement == pytest.approx(1 - fired / row.values["spikes"])
