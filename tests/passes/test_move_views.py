"""Views between a synapse and a population move behind the population, which stays the same neurons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from networks import graph, node, population, spikes, weights
from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Add, Conv2d, Flatten, Gather, Layer, Linear, Permute, Reshape, Scale
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.tpp import TPP
from snn2chip.passes import run_passes
from snn2chip.passes.move_views import MoveViews
from snn2chip.passes.proof import proved
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate
from snn2chip.verify import verify
from snn2chip.verify.measure import measure
from snn2chip.zoo import PLIF, reset

FIRES = LIF(0.6, 0.6, fire=">")
THRESHOLDS = np.linspace(0.3, 1.2, 64)
ROTATED = np.roll(np.arange(64), 5).reshape(8, 8)

VIEWS: dict[str, tuple[list[Layer], tuple[int, ...]]] = {
    "flatten": ([Flatten()], (64,)),
    "reshape": ([Reshape((2, 32))], (2, 32)),
    "permute": ([Permute((2, 0, 1))], (4, 4, 4)),
    "permute, flatten": ([Permute((1, 2, 0)), Flatten()], (64,)),
    "gather": ([Gather(ROTATED)], (8, 8)),
}


def conv(rng: np.random.Generator) -> Conv2d:
    return Conv2d(weights(rng, 4, 2, 3, 3, gain=2), weights(rng, 4))


def viewed(views: list[Layer], model: LIF | TPP, head: Node, rng: np.random.Generator) -> Graph:
    chain = [node(f"view{i}", view, f"view{i - 1}" if i else "conv") for i, view in enumerate(views)]
    return graph((2, 6, 6), node("conv", conv(rng), "x"), *chain, node("lif", population(model), chain[-1].name), head)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_moves_behind_the_population_and_its_parameters_with_it(name: str) -> None:
    rng = np.random.default_rng(0)
    views, shape = VIEWS[name]
    model = dataclasses.replace(FIRES, v_threshold=THRESHOLDS.reshape(shape))
    before = viewed(views, model, node("head", Linear(weights(rng, 3, shape[-1])), "lif"), rng)
    x = spikes(rng, 16, 5, 2, 6, 6)
    after, (record,) = run_passes(before, x, "move_views")
    assert [n.name for n in after] == ["x", "conv", "lif.in_place", "lif", "head", "readout", "output"]
    assert after.shapes()["lif.in_place"] == (4, 4, 4)
    assert after.shapes()["lif"] == shape
    # The proof looked at the population, through the view that has its name now.
    assert record.spikes == 16 * 5 * 64
    assert record.differing == 0
    a = simulate(before, x, record="spikes")
    b = simulate(after, x, record=("spikes", "out"))
    assert 0.05 < a["lif"].spikes.mean() < 0.95
    np.testing.assert_array_equal(a["lif"].spikes, b.recordings["lif"].out)
    program = quantize(before, "loihi2", x)
    assert np.corrcoef(simulate(program, x).outputs.ravel(), a.outputs.ravel())[0, 1] > 0.95
    # What compares neuron by neuron with the float network knows where they went.
    (layer,) = verify(program, x, against=before).layers
    assert layer.differing["spikes"] <= 0.01 * layer.values["spikes"]
    (measured,) = measure(before, program, x).layers
    assert (measured.slots, measured.slots - measured.equal) == (layer.values["spikes"], layer.differing["spikes"])


def test_a_population_laid_out_wrongly_fails_the_proof() -> None:
    rng = np.random.default_rng(1)
    model = dataclasses.replace(FIRES, v_threshold=THRESHOLDS.reshape(4, 4, 4))
    before = viewed([Permute((2, 0, 1))], model, node("flat", Flatten(), "lif"), rng)
    x = spikes(rng, 4, 5, 2, 6, 6)
    after, _ = run_passes(before, x, "move_views")
    wrong = dataclasses.replace(after["lif"], layer=Permute((1, 2, 0)))
    runs = [
        simulate(g, x, record=("spikes", "h"))
        for g in (before, after.with_nodes(wrong if n.name == "lif" else n for n in after))
    ]
    record = proved(MoveViews(), ("lif",), before, *runs)
    assert record.differing > record.explained


def test_sums_of_branches_viewed_alike_move_too_and_others_stay() -> None:
    rng = np.random.default_rng(2)

    def branches(second: Layer) -> Graph:
        return graph(
            (2, 6, 6),
            node("a", conv(rng), "x"),
            node("b", conv(rng), "x"),
            node("view_a", Permute((1, 0, 2)), "a"),
            node("half", Scale(np.asarray(0.5)), "view_a"),
            node("view_b", second, "b"),
            node("sum", Add(), "half", "view_b"),
            node("lif", population(FIRES), "sum"),
        )

    x = spikes(rng, 8, 5, 2, 6, 6)
    after, _ = run_passes(branches(Permute((1, 0, 2))), x)
    assert after["lif.in_place"].inputs == (Edge("a"), Edge("b"))
    quantize(branches(Permute((1, 0, 2))), "loihi2", x)
    unlike = branches(Permute((2, 1, 0)))
    after, _ = run_passes(unlike, x, "move_views")
    assert "lif.in_place" not in after.nodes
    with pytest.raises(S2CError, match="no neuron between them"):
        quantize(unlike, "loihi2", x)


def test_views_that_cancel_out_leave_the_population_as_it_was() -> None:
    rng = np.random.default_rng(3)
    before = graph(
        (4, 6),
        node("fc", Linear(weights(rng, 3, 6, gain=2)), "x"),
        node("there", Permute((1, 0)), "fc"),
        node("back", Permute((1, 0)), "there"),
        node("lif", population(FIRES), "back"),
    )
    after, _ = run_passes(before, spikes(rng, 8, 5, 4, 6), "move_views")
    assert [n.name for n in after] == ["x", "fc", "lif", "readout", "output"]


def test_what_takes_only_some_elements_or_deals_out_random_numbers_stays() -> None:
    rng = np.random.default_rng(4)
    x = spikes(rng, 4, 8, 2, 6, 6)
    for view, model, moves in (
        (Gather(np.arange(32)), FIRES, False),
        (Gather(np.append(np.arange(64), -1)), FIRES, False),
        (Permute((2, 1, 0)), TPP(1.0, 4, 7), False),
        (Flatten(), TPP(1.0, 4, 7), True),
    ):
        before = viewed([view], model, node("flat", Flatten(), "lif"), rng)  # type: ignore[list-item]
        before = dataclasses.replace(before, time_steps=8)
        after, (record,) = run_passes(before, x, "move_views")
        assert bool(record.changed) == moves
        np.testing.assert_array_equal(simulate(before, x).outputs, simulate(after, x).outputs)


def test_membranes_are_read_through_the_view_in_the_units_of_the_network() -> None:
    rng = np.random.default_rng(5)
    before = graph(
        (2, 6, 6),
        node("conv", conv(rng), "x"),
        node("flat", Flatten(), "conv"),
        node("lif", population(LIF(np.inf, 0.6)), "flat"),
        node("rows", Reshape((8, 8)), Edge("lif", port="v")),
    )
    x = spikes(rng, 8, 5, 2, 6, 6)
    after, _ = run_passes(before, x)
    assert after["lif.v"].inputs[0].port == "v"
    program = quantize(before, "loihi2", x)
    expected, found = simulate(before, x).outputs, simulate(program, x).outputs
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    (layer,) = measure(before, program, x).layers
    assert layer.noise < 1e-3 * layer.signal


def test_a_network_that_flattens_before_its_neurons_is_deployed() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(64, 10)
            self.lif1, self.lif2 = PLIF(v_threshold=0.3), PLIF(v_threshold=0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            reset(self)
            total = 0
            for step in x.transpose(0, 1):
                total = total + self.lif2(self.fc(self.lif1(self.conv(step).flatten(1))))
            return total

    torch.manual_seed(0)
    net, x = Net().eval(), torch.rand(6, 8, 1, 6, 6).round()
    traced = trace(net, x[:2])
    with torch.no_grad():
        expected = net(x).numpy()
    assert expected.any()
    np.testing.assert_allclose(simulate(traced, x.numpy()).outputs, expected)
    found = simulate(quantize(traced, "loihi2", x.numpy()), x.numpy()).outputs
    assert np.abs(found - expected).max() <= 2
