"""The pass ``retime`` on hand-made graphs: where delays go, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from snn2chip.ir.graph import Edge, Graph, Node, in_order
from snn2chip.ir.layers import Delay, Input, Linear, Neuron, Output, Readout
from snn2chip.neurons.fixed_cuba import FixedCubaLIF
from snn2chip.neurons.lif import LIF
from snn2chip.passes import run_passes
from snn2chip.simulate import simulate

T = 9


def weight(out: int, width: int, seed: int) -> Linear:
    mantissas = np.random.default_rng(seed).integers(-40, 60, (out, width)) * 2
    return Linear((mantissas / 64).astype(np.float32))


def cuba(bias: float = 0.0) -> Neuron:
    return Neuron(FixedCubaLIF(np.asarray(0.5), np.asarray(900), np.asarray(200), np.asarray(bias)))


def branches(first: int, second: int, end: Neuron) -> Graph:
    """Two populations, late by ``first`` and ``second`` steps, meet in a third, which also hears itself."""
    nodes = [
        Node("input", Input((5,))),
        Node("a.fc", weight(6, 5, 0), (Edge("input"),)),
        Node("a", cuba(), (Edge("a.fc"),)),
        Node("b.fc", weight(6, 5, 1), (Edge("input"),)),
        Node("b", cuba(), (Edge("b.fc"),)),
        Node("a.late", Delay(first), (Edge("a"),)),
        Node("b.late", Delay(second), (Edge("b"),)),
        Node("c.a", weight(4, 6, 2), (Edge("a.late"),)),
        Node("c.b", weight(4, 6, 3), (Edge("b.late"),)),
        Node("c.c", weight(4, 4, 4), (Edge("c", 1, True),)),
        Node("c", end, (Edge("c.a"), Edge("c.b"), Edge("c.c"))),
        Node("readout", Readout("sum"), (Edge("c"),), placement="host"),
        Node("output", Output(), (Edge("readout"),), placement="host"),
    ]
    return Graph(in_order(nodes), T, "steps").verify()


def delays(graph: Graph) -> dict[str, int]:
    return {node.inputs[0].source: node.layer.steps for node in graph if isinstance(node.layer, Delay)}


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        (cuba(), {"b": 2, "c": 1}),
        (cuba(0.25), {"a": 1, "b": 3}),
        (Neuron(LIF(np.asarray(0.5), np.asarray(0.9))), {"a": 1, "b": 3}),
    ],
)
def test_what_branches_share_moves_behind_where_they_meet(end: Neuron, wanted: dict[str, int]) -> None:
    graph = branches(1, 3, end)
    x = (np.random.default_rng(0).random((6, T, 5)) < 0.5).astype(np.float32)
    retimed, (record,) = run_passes(graph, x, "retime")
    assert delays(retimed) == wanted
    assert record.differing == 0
    before, after = simulate(graph, x).outputs, simulate(retimed, x).outputs
    assert before.any()
    np.testing.assert_array_equal(before, after)


def test_feedback_from_a_later_population_keeps_its_delays() -> None:
    graph = branches(1, 3, cuba())
    down = Node("a.c", weight(6, 4, 5), (Edge("c", 1, True),))
    a = Node("a", graph["a"].layer, (Edge("a.fc"), Edge("a.c")))
    graph = graph.with_nodes([*(n for n in graph if n.name != "a"), down, a]).verify()
    x = np.zeros((2, T, 5), np.float32)
    retimed, _ = run_passes(graph, x, "retime")
    assert delays(retimed) == {"a": 1, "b": 3}
