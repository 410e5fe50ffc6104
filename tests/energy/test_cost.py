"""Energy against sums worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from snn2chip.energy import energy, usage
from snn2chip.errors import UsageError
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.layers import Input, Linear, Neuron, Output, Readout
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import EnergyTable, load_target
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import simulate


@pytest.fixture(scope="module")
def program() -> Program:
    """Two spikes in → 3 neurons that fire on any input → a host head of 2 outputs; T = 2."""
    neuron = IntegerLIF(np.asarray(1), np.asarray(0), np.asarray(4096), np.asarray(0))
    nodes = [
        Node("input", Input((2,))),
        Node("fc", Linear(np.full((3, 2), 2, dtype=np.int64)), (Edge("input"),)),
        Node("lif", Neuron(neuron), (Edge("fc"),)),
        Node("head", Linear(np.ones((2, 3), dtype=np.int64)), (Edge("lif"),), placement="host"),
        Node("sum", Readout("sum"), (Edge("head"),), placement="host"),
        Node("out", Output(), (Edge("sum"),)),
    ]
    spikes = {"input": Format(1, False, 1.0, overflow="error")}
    return Program(in_order(nodes), 2, "steps", load_target("loihi2"), spikes, np.asarray(1.0)).verify()


@pytest.fixture(scope="module")
def used(program: Program):
    # Sample 0: one spike in at t = 0 and two at t = 1; sample 1: none at all.
    x = np.array([[[1, 0], [1, 1]], [[0, 0], [0, 0]]])
    return usage(program, simulate(program, x).counts)


def test_counts_per_inference(used) -> None:
    rows = {u.name: u for u in used}
    assert set(rows) == {"fc", "lif", "head"}
    assert rows["fc"].synops == (1 + 2) * 3 / 2
    assert (rows["lif"].spikes, rows["lif"].neuron_updates) == ((3 + 3) / 2, 3 * 2)
    assert (rows["lif"].multiplications, rows["lif"].additions) == (2 * 6, 3 * 6)
    assert (rows["head"].synops, rows["head"].macs) == (0, 6 * 2), "host work is dense and is no SynOp"


def test_a_vendors_table(program: Program, used) -> None:
    cost = energy(program, used, "loihi1-davies2018")
    assert cost.layers["fc"] == {"synops": pytest.approx(4.5 * 23.6)}
    assert cost.layers["lif"] == {"neuron_updates": pytest.approx(6 * 81.0), "spikes": pytest.approx(3 * 1.7)}
    assert cost.chip == pytest.approx(4.5 * 23.6 + 6 * 81.0 + 3 * 1.7)
    assert cost.layers["head"] == {"macs": None}, "a chip's table has no figure for the host: never zero"
    assert (cost.host, cost.unpriced) == (None, ("macs",))
    assert "Davies 2018" in cost.sources["synop"]


def test_an_arithmetic_table_charges_the_neurons_operations(program: Program, used) -> None:
    cost = energy(program, used, "horowitz-45nm-fp32")
    assert cost.layers["lif"] == {"neuron_updates": pytest.approx(12 * 3.7 + 18 * 0.9), "spikes": None}
    assert cost.host == pytest.approx(12 * 4.6)
    assert cost.unpriced == ("spikes",)


def test_an_empty_table_prices_nothing(program: Program, used) -> None:
    cost = energy(program, used, EnergyTable("none", "", "", {}))
    assert (cost.chip, cost.host) == (None, None)
    assert cost.unpriced == ("synops", "neuron_updates", "spikes", "macs")


def test_unknown_table_names_those_there_are(program: Program, used) -> None:
    with pytest.raises(UsageError, match="no energy table 'loihi9'") as caught:
        energy(program, used, "loihi9")
    assert "horowitz-45nm-int32" in caught.value.fix
