"""Products of spikes, as in attention: integers worked out by hand, units that meet, the host's part, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from networks import graph, node, population, program, spikes, weights
from snn2chip.emit.lava import write_project
from snn2chip.emit.netx import write_net
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Edge, Graph
from snn2chip.ir.layers import (
    Add,
    Concat,
    Flatten,
    Linear,
    MatMul,
    Mul,
    Neuron,
    Permute,
    Rescale,
    Reshape,
    Scale,
    SumPool,
)
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths
from snn2chip.mapping.constraints import check
from snn2chip.neurons.lif import LIF
from snn2chip.quantize import quantize
from snn2chip.quantize.overflow import ranges
from snn2chip.simulate import simulate
from snn2chip.verify import verify

TOKENS, WIDTH = 6, 4
FIRES = LIF(1.0, 0.6, fire=">")


def attention(rng: np.random.Generator, model: LIF, scale: float = 0.125) -> Graph:
    """q, k and v of tokens [TOKENS, WIDTH], (q kᵀ) v · scale into ``model``, and a population behind."""
    return graph(
        (TOKENS, WIDTH),
        *(node(n, Linear(weights(rng, WIDTH, WIDTH, gain=4)), "x") for n in ("wq", "wk", "wv")),
        *(node(n, population(FIRES), f"w{n}") for n in ("q", "k", "v")),
        node("turned", Permute((1, 0)), "k"),
        node("qk", MatMul(), "q", "turned"),
        node("qkv", MatMul(), "qk", "v"),
        node("scaled", Scale(np.float32(scale)), "qkv"),
        node("rows", Permute((1, 0)), "scaled"),
        node("mixed", population(model), "rows"),
        node("fc", Linear(weights(rng, WIDTH, TOKENS, gain=2)), "mixed"),
        node("out", population(FIRES), "fc"),
    )


def test_the_integers_of_an_attention_are_those_worked_out_by_hand() -> None:
    rng = np.random.default_rng(1)
    network, x = attention(rng, LIF(0.5, 1.0, reset="soft")), spikes(rng, 20, 5, TOKENS, WIDTH, rate=0.7)
    made = quantize(network, "loihi2", x[:12], host=["products"])
    found = simulate(made, x, record=("spikes", "out"))
    q, k, v = (found[name].spikes.astype(np.int64) for name in "qkv")
    np.testing.assert_array_equal(found["qk"].out, q @ k.swapaxes(-1, -2))
    product = q @ k.swapaxes(-1, -2) @ v
    np.testing.assert_array_equal(found["qkv"].out, product)
    # A unit of the product is worth 0.125, so that the threshold of 0.5 is four of them.
    membrane, fired = np.zeros_like(product[:, 0]), np.zeros_like(product)
    for t in range(product.shape[1]):
        membrane += product[:, t]
        fired[:, t] = membrane >= 4
        membrane -= 4 * fired[:, t]
    assert 0.1 < fired.mean() < 1
    np.testing.assert_array_equal(found["mixed"].spikes, fired.swapaxes(-1, -2))
    assert made.formats["qk"].range == (0, 7), "four products of spikes need three bits"
    assert made.formats["qkv"].range == (0, 31)
    assert made.formats["qkv"].scale == 1.0
    assert made.quantization[3].name == "mixed"
    assert made.quantization[3].proved


def test_a_factor_that_is_no_power_of_two_keeps_the_spikes_within_the_weights_rounding() -> None:
    rng = np.random.default_rng(2)
    network, x = attention(rng, LIF(0.7, 0.9, fire=">"), 1 / math.sqrt(3)), spikes(rng, 40, 5, TOKENS, WIDTH)
    made = quantize(network, "loihi2", x[:20], host="products")
    real, fixed = simulate(network, x, record="spikes"), simulate(made, x, record="spikes")
    for name in ("q", "k", "v", "mixed", "out"):
        assert np.mean(real[name].spikes != fixed[name].spikes) < 0.03, name
    assert not [n for n in made if isinstance(n.layer, Scale)]


def test_a_product_meets_a_synapse_and_another_product_in_one_population() -> None:
    rng = np.random.default_rng(3)
    network = graph(
        (9,),
        node("wa", Linear(weights(rng, 8, 9, gain=2)), "x"),
        node("wb", Linear(weights(rng, 8, 9, gain=2)), "x"),
        node("a", population(FIRES), "wa"),
        node("b", population(LIF(1.0, 0.8, spike_value=0.7)), "wb"),
        node("both", Mul(), "a", "b"),
        node("half", Scale(np.float32(0.3)), "both"),
        node("twice", Mul(), Edge("a", delay=1), "b"),
        node("fc", Linear(weights(rng, 8, 9), weights(rng, 8)), "x"),
        node("sum", population(FIRES), "fc", "half", "twice"),
        how="mean",
    )
    x = spikes(rng, 60, 5, 9)
    made = quantize(network, "loihi2", x[:30], host=["products"])
    real, fixed = simulate(network, x, record="spikes"), simulate(made, x, record=("spikes", "a"))
    assert 0.1 < real["sum"].spikes.mean() < 0.9
    assert np.mean(real["sum"].spikes != fixed["sum"].spikes) < 0.02
    assert np.abs(real.outputs - fixed.outputs).mean() < 0.02
    scales = {name: made.formats[f"sum.from.{name}.weight"].scale for name in ("half", "twice")}
    gains = {name: float(made[f"sum.from.{name}"].layer.weight.max()) for name in scales}  # type: ignore[attr-defined]
    # Both in the unit of the population: what a unit of b is worth (0.7) is in the product, its factor in the weight.
    unit = made.formats["sum.u"].scale * 64
    assert gains["half"] * unit == pytest.approx(0.3 * 0.7, rel=0.01)
    assert gains["twice"] * unit == pytest.approx(0.7, rel=0.01)


def test_what_the_host_multiplies_is_placed_and_counted_there_by_both_engines() -> None:
    rng = np.random.default_rng(4)
    network, x = attention(rng, LIF(0.5, 0.5)), spikes(rng, 6, 5, TOKENS, WIDTH)
    made = quantize(network, "loihi2", x, host=["products"])
    on_host = [n.name for n in made if n.placement == "host"]
    assert on_host == ["qk", "qkv", "rows", "readout", "output"]
    assert made.notes == (
        "qk, qkv: multiplied on the host; the chip has no product of two spike trains (--host products)",
    )
    assert made.options["host"] == "products"
    for engine in ("reference", "fast"):
        counts = simulate(made, x, engine=engine).counts  # type: ignore[arg-type]
        assert (counts["qk"].macs == TOKENS * TOKENS * WIDTH).all()
        assert (counts["qkv"].macs == TOKENS * WIDTH * TOKENS).all()
        assert not counts["rows"].macs.any()
        assert not counts["qkv"].synops.any()
    gate = graph((3, 4), node("gate", Mul(), "x", "x"), node("lif", population(FIRES), "gate"))
    gated = quantize(gate, "loihi2", x[:, :, :3], host=["products"])
    assert (simulate(gated, x[:, :, :3]).counts["gate"].macs == 12).all()


def test_on_the_machines_clock_the_host_answers_within_the_step() -> None:
    rng = np.random.default_rng(0)
    network, x = attention(rng, LIF(0.5, 0.8)), spikes(rng, 1, 5, TOKENS, WIDTH, rate=0.6)
    made = quantize(network, "loihi2", x, host=["products"])
    found, depth = simulate(made, x, record="spikes"), depths(made)
    longer = np.concatenate([x, np.zeros_like(x)], axis=1)
    machine = simulate(made, longer, record="spikes", clock="machine", reset_interval=10)
    assert (depth["q"], depth["mixed"], depth["out"]) == (1, 2, 3)
    for name in ("q", "mixed", "out"):
        window = slice(depth[name], depth[name] + 5)
        np.testing.assert_array_equal(machine[name].spikes[:, window], found[name].spikes)
        assert found[name].spikes.any()


def test_without_the_option_the_refusal_names_it() -> None:
    rng = np.random.default_rng(5)
    network, x = attention(rng, FIRES), spikes(rng, 4, 5, TOKENS, WIDTH)
    with pytest.raises(S2CError, match="a MatMul layer has no integer form on the chip") as caught:
        quantize(network, "loihi2", x)
    assert caught.value.where.startswith("qk (MatMul)")
    assert "--host products" in caught.value.fix
    with pytest.raises(UsageError, match="nothing to run on the host is called softmax") as wrong:
        quantize(network, "loihi2", x, host=["products", "softmax"])
    assert "products" in wrong.value.fix


def test_factors_must_be_spikes_or_data() -> None:
    rng = np.random.default_rng(6)
    x = spikes(rng, 4, 5, 9)
    fc, fires = node("fc", Linear(weights(rng, 9, 9)), "x"), node("lif", population(FIRES), "fc")
    ends = node("end", population(FIRES), "product")
    sums = graph((9,), fc, node("product", Mul(), "fc", "x"), ends)
    with pytest.raises(S2CError, match="the sums of fc are read by a Mul layer") as caught:
        quantize(sums, "loihi2", x, host=["products"])
    assert "product (Mul)" in caught.value.where
    membranes = graph((9,), fc, fires, node("product", Mul(), Edge("lif", port="v"), "x"))
    with pytest.raises(S2CError, match="the membranes of lif are read by a Mul layer"):
        quantize(membranes, "loihi2", x, host=["products"])
    half, again = node("half", Scale(np.float32(0.5)), "lif"), node("w", Linear(weights(rng, 9, 9)), "product")
    added = graph(
        (9,), fc, fires, half, node("product", Add(), "half", "x"), again, node("end", population(FIRES), "w")
    )
    with pytest.raises(S2CError, match="values of different scales are added") as met:
        quantize(added, "loihi2", x, host=["products"])
    assert "product (Add)" in met.value.where


def test_a_chip_with_binary_spikes_takes_products_that_are_spikes() -> None:
    rng = np.random.default_rng(7)
    x = spikes(rng, 20, 5, 9)
    network = graph(
        (9,),
        node("fc", Linear(weights(rng, 9, 9, gain=2)), "x"),
        node("lif", population(FIRES), "fc"),
        node("both", Mul(), "lif", "x"),
        node("w", Linear(weights(rng, 6, 9, gain=2)), "both"),
        node("out", population(FIRES), "w"),
    )
    assert not check(quantize(network, "loihi1", x, host=["products"]))
    wide = attention(rng, FIRES)
    made = quantize(wide, "loihi1", spikes(rng, 8, 5, TOKENS, WIDTH), host=["products"])
    (violation,) = check(made)
    assert violation.rule == "limits.input_bits"
    assert "input of 5 bits from rows" in violation.found


def test_neither_lava_nor_netx_can_multiply_between_populations(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    made = quantize(attention(rng, FIRES), "loihi2", spikes(rng, 8, 5, TOKENS, WIDTH), host=["products"])
    with pytest.raises(S2CError, match="the host computes between populations") as lava:
        write_project(made, tmp_path / "lava")
    assert "qk, qkv (MatMul) on the host answers spikes of the same step for mixed" in lava.value.why
    with pytest.raises(S2CError, match="NetX cannot run this program") as net:
        write_net(made, tmp_path / "model.net")
    assert net.value.why.startswith("qk (MatMul): multiplies two computed values; NetX's layers multiply by weights")
    assert not list(tmp_path.iterdir())


def test_lava_runs_what_the_host_multiplies_before_or_behind_all_populations() -> None:
    pytest.importorskip("lava")
    rng = np.random.default_rng(10)
    model = population(LIF(0.3, 0.6, fire=">"))
    before = graph((9,), node("square", Mul(), "x", "x"), node("lif", model, "square"), coding="direct")
    behind = graph(
        (9,),
        node("fc", Linear(weights(rng, 8, 9, gain=3)), "x"),
        node("lif", model, "fc"),
        node("gate", Mul(), "lif", Edge("lif", delay=1)),
    )
    for network, x in (
        (before, rng.uniform(-1, 1, (20, 9)).astype(np.float32)),
        (behind, spikes(rng, 20, 5, 9)),
    ):
        made = quantize(network, "loihi2", x, host=["products"])
        assert simulate(made, x[:2], record="spikes")["lif"].spikes.any()
        assert verify(made, x[:2], "lava").equal
        np.testing.assert_allclose(simulate(made, x).outputs, simulate(network, x).outputs, atol=1e-6)


@st.composite
def moved_and_multiplied(draw: st.DrawFn) -> tuple[Program, np.ndarray]:
    """Integers of some range through layers that move, add, scale and multiply them; no synapse, no population."""
    pick = lambda *options: draw(st.sampled_from(options))  # noqa: E731
    names, nodes, number = ["x"], [], draw(st.integers(1, 6))
    for i in range(number):
        layer = pick(
            Mul(),
            Add(),
            MatMul(),
            Scale(np.array(draw(st.integers(-3, 3)))),
            Rescale(draw(st.integers(0, 3))),
            Permute((0, 2, 1)),
        )
        sources = [draw(st.sampled_from(names[-3:])) for _ in range(layer.inputs_allowed[0])]
        delay = draw(st.integers(0, 2))
        nodes.append(node(f"n{i}", layer, *(Edge(s, delay=delay) for s in sources)))
        names.append(f"n{i}")
    nodes += [
        node("pool", SumPool((2, 2), (1, 1), (1, 1)), names[-1]),
        node("flat", Flatten(), "pool"),
        node("view", Reshape((2, 16)), "flat"),
        node("joined", Concat(1), "view", "view"),
    ]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made, low = program((2, 3, 3), *nodes, time_steps=3, bits=3), draw(st.integers(0, 6))
    return made, rng.integers(low, draw(st.integers(low, 7)) + 1, (3, 3, 2, 3, 3))


@settings(max_examples=examples(100))
@given(made=moved_and_multiplied())
def test_no_value_leaves_its_proved_range(made: tuple[Program, np.ndarray]) -> None:
    network, x = made
    range_of = ranges(network, (int(x.min()), int(x.max())))
    found = simulate(network, x, record="out", engine="reference")
    for name, recording in found.recordings.items():
        low, high = range_of(name)
        assert low <= recording.out.min(), name
        assert recording.out.max() <= high, name


def test_the_range_of_a_product_is_no_wider_than_its_factors_allow() -> None:
    network = graph(
        (2, 3, 3),
        node("twice", Scale(np.array([[[-2]], [[3]]])), "x"),
        node("product", MatMul(), "twice", "x"),
        node("square", Mul(), "twice", "twice"),
        node("lif", population(FIRES), "square"),
    )
    range_of = ranges(network, (-1, 4))
    assert range_of("twice") == (-8, 12)
    assert range_of("product") == (-3 * 32, 3 * 48)
    assert range_of("square") == (-96, 144)
    assert range_of("lif") == (0, 1)
    assert isinstance(network["lif"].layer, Neuron)
