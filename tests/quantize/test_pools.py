"""Max pooling of sums: torch's own pooling of the integers, float networks that quantize without rounding, the host's
part, refusals.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from effort import examples
from networks import batch_norm, graph, node, population, program, spikes, weights
from snn2chip.emit.lava import write_project
from snn2chip.emit.netx import write_net
from snn2chip.emit.nir import write_program
from snn2chip.energy import energy, usage
from snn2chip.errors import S2CError
from snn2chip.frontend.load import load
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import (
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Mul,
    Permute,
    Pool,
    Reshape,
    Scale,
)
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths
from snn2chip.mapping.constraints import check
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.ternary import TernaryLIF
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate
from snn2chip.verify import verify

FIRES = LIF(1.0, 0.6, fire=">")
HALVES = MaxPool((2, 2), (2, 2), (0, 0))


def whole(rng: np.random.Generator, *shape: int, reach: int = 3) -> np.ndarray:
    """Weights that are small multiples of 1/4, 1/4 among them: a grid the chip's integers hold without rounding."""
    found = rng.integers(-reach, reach + 1, shape)
    found.flat[0] = 1
    return (found / 4).astype(np.float32)


def pooled(rng: np.random.Generator, window: Pool = HALVES, channels: int = 4, **options: Any) -> Graph:
    """A conv → max pooling → lif, of images [2, 8, 8]; a bias, and weights the chip holds without rounding."""
    conv = Conv2d(whole(rng, channels, 2, 3, 3), whole(rng, channels), padding=(1, 1))
    return graph(
        (2, 8, 8),
        node("conv", conv, "x"),
        node("pool", window, "conv"),
        node("lif", population(FIRES), "pool"),
        **options,
    )


def torch_pool(x: np.ndarray, layer: Pool) -> np.ndarray:
    """The pooling of torch itself, of integers [N, T, C, *space]."""
    flat = torch.from_numpy(x.reshape(-1, *x.shape[2:]).astype(np.float64))
    run = {1: F.max_pool1d, 2: F.max_pool2d}[len(layer.kernel)]
    out = run(flat, layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode).numpy()
    return out.reshape(*x.shape[:2], *out.shape[1:]).astype(np.int64)


def engines_agree(made: Program, x: np.ndarray) -> Any:
    """The reference engine's result; the fast engine's integers and counts are the same."""
    kept = ("spikes", "u", "v", "a", "out")
    found = simulate(made, x, record=kept, engine="reference")
    fast, alone = simulate(made, x, record=kept, engine="fast"), simulate(made, x, engine="fast")
    np.testing.assert_array_equal(found.outputs_int, alone.outputs_int)
    for name, recording in found.recordings.items():
        for kind in kept:
            a, b = getattr(recording, kind), getattr(fast[name], kind)
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b, err_msg=f"{name}.{kind}")
    for name, counts in found.counts.items():
        for kind, values in vars(counts).items():
            np.testing.assert_array_equal(values, getattr(alone.counts[name], kind), err_msg=f"{name}.{kind}")
    return found


def test_the_integers_are_torchs_maxima_of_the_sums_and_enter_as_graded_spikes() -> None:
    rng = np.random.default_rng(1)
    network, x = pooled(rng, MaxPool((3, 3), (2, 2), (1, 1))), spikes(rng, 12, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x, host=["pools"])
    found = engines_agree(made, x)
    sums = torch.from_numpy(x.reshape(-1, 2, 8, 8)).double()
    layer = made["conv"].layer
    expected = F.conv2d(sums, torch.from_numpy(layer.weight).double(), padding=1).numpy().astype(np.int64)
    np.testing.assert_array_equal(found["conv"].out.reshape(expected.shape), expected)
    assert (expected < 0).any(), "negative sums next to padding tell -inf from zero"
    maxima = torch_pool(found["conv"].out, network["pool"].layer)
    np.testing.assert_array_equal(found["pool"].out, maxima)
    assert (maxima < 0).any()
    entry = made["lif.from.pool"]
    assert entry.placement == "chip"
    (step,) = np.unique(entry.layer.weight)
    np.testing.assert_array_equal(found["lif"].a, maxima * step)
    low, high = made.formats["pool"].range
    assert low <= maxima.min() <= maxima.max() <= high
    # The weight of the entry, and of the sums it takes, are worth what the float network has.
    unit = made.formats["lif.u"].scale * 64
    assert made.formats["pool"].scale == pytest.approx(unit * step)
    np.testing.assert_allclose(layer.weight * made.formats["conv.weight"].scale, network["conv"].layer.weight)
    assert made.formats["conv.weight"].bits == 8


@st.composite
def nets(draw: st.DrawFn) -> tuple[Graph, np.ndarray]:
    """A conv → pool (→ pool) (→ gains) → lif over one or two axes, all on a grid that needs no rounding."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axes = draw(st.sampled_from((1, 2, 2)))
    space = tuple(draw(st.integers(5, 9)) for _ in range(axes))
    conv = (Conv1d, Conv2d)[axes - 1]
    layer = conv(
        whole(rng, 4, 2, *(3,) * axes),
        whole(rng, 4) if draw(st.booleans()) else None,
        padding=(draw(st.integers(0, 2)),) * axes,
    )
    nodes = [node("conv", layer, "x")]
    for i in range(draw(st.integers(1, 2))):
        kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
        window = MaxPool(
            kernel,
            tuple(draw(st.integers(1, 3)) for _ in range(axes)),
            tuple(draw(st.integers(0, k // 2)) for k in kernel),
            draw(st.booleans()),
        )
        nodes.append(node(f"pool{i}", window, nodes[-1].name))
    if draw(st.booleans()):
        gains = rng.choice([-1, 1, 0.5, -0.5], 4).astype(np.float32)
        nodes.append(node("gain", Scale(gains.reshape(4, *(1,) * axes)), nodes[-1].name))
    model = draw(st.sampled_from((LIF(1.0, 0.5), LIF(0.75, 0.0, fire=">", reset="soft"), LIF(1.25, 0.5, reset="soft"))))
    nodes.append(node("lif", population(model), nodes[-1].name))
    try:
        network = graph((2, *space), *nodes)
    except S2CError:
        assume(False)
        raise
    return network, spikes(rng, 6, 5, 2, *space)


@settings(max_examples=examples(40))
@given(made=nets())
def test_a_network_of_whole_numbers_pools_and_fires_as_in_float(made: tuple[Graph, np.ndarray]) -> None:
    network, x = made
    done = quantize(network, "loihi2", x, host=["pools"], refine=False)
    found, real = engines_agree(done, x), simulate(network, x, record=("spikes", "a"))
    for pool in [n for n in done if isinstance(n.layer, MaxPool)]:
        np.testing.assert_array_equal(found[pool.name].out, torch_pool(found[pool.inputs[0].source].out, pool.layer))
    unit = done.formats["lif.u"].scale * 64
    neuron = done["lif"].layer.model
    total = found["lif"].a + (neuron.bias << neuron.bias_exp) / 64
    np.testing.assert_allclose(total * unit, real["lif"].a, atol=unit)
    np.testing.assert_array_equal(found["lif"].spikes, real["lif"].spikes)


def test_a_bias_is_added_behind_the_maximum_whatever_the_sign_of_the_gain() -> None:
    """A conv + bias → pool → batch norm with negative gains: compared with torch's own, and exact in integers."""
    rng = np.random.default_rng(2)
    gains, offsets = np.array([1.0, -1.0, -0.5, 2.0], np.float32), np.array([0.5, 0.25, -0.5, 1.0], np.float32)
    conv = Conv2d(whole(rng, 4, 2, 3, 3), whole(rng, 4), padding=(1, 1))
    norm = batch_norm(rng, 4)
    norm = type(norm)(gains, offsets, whole(rng, 4), np.ones(4, np.float32), eps=0.0)
    network = graph(
        (2, 8, 8),
        node("conv", conv, "x"),
        node("pool", MaxPool((3, 3), (2, 2), (1, 1)), "conv"),
        node("norm", norm, "pool"),
        node("lif", population(LIF(1.0, 0.5, fire=">")), "norm"),
    )
    x = spikes(rng, 16, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x, host=["pools"])
    found = engines_agree(made, x)
    image = torch.from_numpy(x.reshape(-1, 2, 8, 8))
    sums = F.max_pool2d(F.conv2d(image, *map(torch.from_numpy, (conv.weight, conv.bias)), padding=1), 3, 2, 1)
    expected = F.batch_norm(sums, *map(torch.from_numpy, (norm.mean, norm.var, gains, offsets)), eps=0.0).numpy()
    neuron, unit = made["lif"].layer.model, made.formats["lif.u"].scale
    total = ((found["lif"].a << 6) + (neuron.bias << neuron.bias_exp)) * unit
    np.testing.assert_allclose(total.reshape(expected.shape), expected, atol=1e-6)
    np.testing.assert_array_equal(np.sign(made["norm"].layer.weight.ravel()), [1, -1, -1, 1])
    assert made["norm"].placement == "chip"
    np.testing.assert_array_equal(found["lif"].spikes, simulate(network, x, record="spikes")["lif"].spikes)


def test_the_maximum_of_a_sum_of_branches_meets_others_behind_it() -> None:
    rng = np.random.default_rng(3)
    conv = lambda: Conv2d(weights(rng, 4, 2, 3, 3), weights(rng, 4), padding=(1, 1))  # noqa: E731
    network = graph(
        (2, 8, 8),
        node("first", conv(), "x"),
        node("start", conv(), "x"),
        node("s", population(FIRES), "start"),
        node("second", Conv2d(3 * weights(rng, 4, 4, 3, 3), padding=(1, 1)), "s"),
        node("sum", Add(), "first", "second", "s"),
        node("pool", HALVES, "sum"),
        node("beside", Conv2d(weights(rng, 4, 4, 2, 2), None, (2, 2)), "s"),
        node("lif", population(FIRES), "pool", "beside"),
    )
    x = spikes(rng, 32, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x[:16], host=["pools"])
    found, real = engines_agree(made, x), simulate(network, x, record="spikes")
    assert np.mean(found["lif"].spikes != real["lif"].spikes) < 0.02
    assert found["lif"].spikes.any()
    arriving = [found[name].out for name in ("first", "second", "sum.from.s")]
    np.testing.assert_array_equal(found["sum"].out, sum(arriving))
    np.testing.assert_array_equal(found["pool"].out, torch_pool(found["sum"].out, HALVES))
    assert [n.name for n in made if n.placement == "host"] == [
        "first", "second", "sum.from.s", "sum", "pool", "readout", "output",
    ]  # fmt: skip
    assert made.notes[0].startswith(
        "lif: fed by the host, which sums first, second, sum.from.s and hands over the maxima"
    )


def test_maxima_that_several_populations_read_are_taken_for_each() -> None:
    """A membrane shortcut around a block, behind a pooled stem."""
    rng = np.random.default_rng(4)
    network = graph(
        (2, 8, 8),
        node("stem", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("pool", HALVES, "stem"),
        node("a", population(FIRES), "pool"),
        node("conv", Conv2d(weights(rng, 4, 4, 3, 3), padding=(1, 1)), "a"),
        node("sum", Add(), "conv", "pool"),
        node("b", population(LIF(2.0, 0.6, fire=">")), "sum"),
    )
    x = spikes(rng, 32, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x[:16], host=["pools"])
    found, real = engines_agree(made, x), simulate(network, x, record="spikes")
    for name in ("a", "b"):
        assert np.mean(found[name].spikes != real[name].spikes) < 0.02
        assert found[name].spikes.any()
    assert {"stem", "stem.into.b", "pool", "pool.into.b"} <= set(made.nodes)
    assert "stem: stored 2 times, once for each population it feeds (a, b)" in made.notes


def test_a_pooled_image_on_a_membrane_shortcut_is_summed_for_every_population_behind() -> None:
    rng = np.random.default_rng(21)
    conv = lambda width: Conv2d(weights(rng, 4, width, 3, 3), padding=(1, 1))  # noqa: E731
    network = graph(
        (2, 8, 8),
        node("stem", conv(2), "x"),
        node("pool", HALVES, "stem"),
        node("a", population(FIRES), "pool"),
        node("conv1", conv(4), "a"),
        node("sum1", Add(), "conv1", "pool"),
        node("b", population(FIRES), "sum1"),
        node("conv2", conv(4), "b"),
        node("sum2", Add(), "conv2", "sum1"),
        node("same", MaxPool((3, 3), (1, 1), (1, 1)), "sum2"),
        node("c", population(FIRES), "same", "sum2"),
        coding="direct",
    )
    images = rng.uniform(-1, 2, (24, 2, 8, 8)).astype(np.float32)
    made = quantize(network, "loihi2", images[:12], host=["pools"], encoder="chip", refine=False)
    found, real = engines_agree(made, images), simulate(network, images, record="spikes")
    for name in "abc":
        assert np.mean(found[name].spikes != real[name].spikes) < 0.05, name
        assert found[name].spikes.any()
    # One of its own for a and b; c takes the shortcut twice, as it is and inside the maximum of the sum.
    assert [n.name for n in made if isinstance(n.layer, MaxPool)] == [
        "pool",
        "pool.into.b",
        "pool.into.c",
        "pool.into.c#2",
        "same",
    ]


def test_a_synapse_that_a_maximum_and_a_population_read_is_there_for_both() -> None:
    rng = np.random.default_rng(5)
    network = graph(
        (2, 8, 8),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("same", MaxPool((3, 3), (1, 1), (1, 1)), "conv"),
        node("lif", population(LIF(2.0, 0.6, fire=">")), "same", "conv"),
    )
    x = spikes(rng, 24, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x[:12], host=["pools"])
    found, real = engines_agree(made, x), simulate(network, x, record="spikes")
    assert np.mean(found["lif"].spikes != real["lif"].spikes) < 0.02
    assert [n.placement for n in made if isinstance(n.layer, Conv2d)] == ["host", "chip", "chip"]


def test_views_between_a_synapse_and_its_maxima() -> None:
    """Tokens: linear over features, transposed, pooled over neighbouring tokens; a bias per feature commutes."""
    rng = np.random.default_rng(6)
    network = graph(
        (8, 5),
        node("fc", Linear(weights(rng, 6, 5, gain=2), weights(rng, 6)), "x"),
        node("turned", Permute((1, 0)), "fc"),
        node("pool", MaxPool((2,), (2,), (0,)), "turned"),
        node("lif", population(FIRES), "pool"),
    )
    x = spikes(rng, 24, 5, 8, 5)
    made = quantize(network, "loihi2", x[:12], host=["pools"])
    found, real = engines_agree(made, x), simulate(network, x, record="spikes")
    assert np.mean(found["lif"].spikes != real["lif"].spikes) < 0.02
    assert made["lif"].layer.model.bias.shape == (6, 1)


def test_a_bias_that_differs_within_a_window_is_refused() -> None:
    rng = np.random.default_rng(7)

    def over_features(bias: np.ndarray | None) -> Graph:
        return graph(
            (3, 5),
            node("fc", Linear(weights(rng, 6, 5, gain=2), bias), "x"),
            node("pool", MaxPool((2,), (2,), (0,)), "fc"),
            node("lif", population(FIRES), "pool"),
        )

    x = spikes(rng, 12, 5, 3, 5)
    with pytest.raises(S2CError, match="the bias of fc differs within the windows of this pooling") as caught:
        quantize(over_features(weights(rng, 6)), "loihi2", x, host=["pools"])
    assert caught.value.where.startswith("pool (MaxPool)")
    for bias in (None, np.full(6, 0.25, np.float32), np.repeat(weights(rng, 3), 2)):
        engines_agree(quantize(over_features(bias), "loihi2", x, host=["pools"]), x)


def test_delays_on_the_way_to_a_maximum() -> None:
    rng = np.random.default_rng(8)

    def late(bias: bool) -> Graph:
        return graph(
            (2, 8, 8),
            node("now", Conv2d(weights(rng, 4, 2, 3, 3), weights(rng, 4), padding=(1, 1)), "x"),
            node("then", Conv2d(weights(rng, 4, 2, 3, 3), weights(rng, 4) if bias else None, padding=(1, 1)), "x"),
            node("sum", Add(), "now", Edge("then", delay=2)),
            node("pool", HALVES, "sum"),
            node("lif", population(FIRES), "pool"),
        )

    x = spikes(rng, 24, 5, 2, 8, 8)
    network = late(False)
    made = quantize(network, "loihi2", x[:12], host=["pools"])
    found, real = engines_agree(made, x), simulate(network, x, record="spikes")
    assert np.mean(found["lif"].spikes != real["lif"].spikes) < 0.02
    with pytest.raises(S2CError, match="the bias of now, then arrives late"):
        quantize(late(True), "loihi2", x, host=["pools"])
    behind = graph(
        (2, 8, 8),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("pool", HALVES, "conv"),
        node("lif", population(FIRES), Edge("pool", delay=1)),
    )
    engines_agree(quantize(behind, "loihi2", x[:12], host=["pools"]), x)


def test_what_the_host_sums_is_placed_counted_and_priced_there() -> None:
    rng = np.random.default_rng(9)
    network, x = pooled(rng), spikes(rng, 6, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x, host=["pools"])
    assert [n.name for n in made if n.placement == "host"] == ["conv", "pool", "readout", "output"]
    assert made.options["host"] == "pools"
    bits = made.formats["pool"].bits
    assert made.notes == (
        "lif: fed by the host, which sums conv and hands over the maxima of pool, "
        f"{bits} bits at every step (--host pools)",
    )
    found = engines_agree(made, x)
    inner, edge, corner = 9 * 36, 6 * 24, 4 * 4
    assert (found.counts["conv"].macs == (inner + edge + corner) * 2 * 4).all()
    assert not found.counts["conv"].synops.any()
    np.testing.assert_array_equal(
        found.counts["lif.from.pool"].synops, np.count_nonzero(found["pool"].out, axis=(2, 3, 4))
    )
    cost = energy(made, usage(made, found.counts), "horowitz-45nm-int32")
    assert cost.host == pytest.approx(5 * (inner + edge + corner) * 8 * 3.2)
    assert made.quantization[0].proved


def test_on_the_machines_clock_the_host_answers_within_the_step() -> None:
    rng = np.random.default_rng(10)
    network, x = pooled(rng), spikes(rng, 1, 5, 2, 8, 8)
    made = quantize(network, "loihi2", x, host=["pools"])
    found = simulate(made, x, record="spikes")["lif"].spikes
    longer = np.concatenate([x, np.zeros_like(x)], axis=1)
    machine = simulate(made, longer, record="spikes", clock="machine", reset_interval=10)["lif"].spikes
    assert depths(made)["lif"] == 1
    assert found.any()
    np.testing.assert_array_equal(machine[:, 1:6], found)


def test_without_the_option_the_refusal_names_it_and_the_other_ways() -> None:
    rng = np.random.default_rng(11)
    network, x = pooled(rng), spikes(rng, 4, 5, 2, 8, 8)
    for host in ((), ("products",)):
        with pytest.raises(S2CError, match="a maximum of values that are not spikes") as caught:
            quantize(network, "loihi2", x, host=host)
        assert caught.value.where.startswith("pool (MaxPool)")
        assert "it reads conv (Conv2d)" in caught.value.why
        for way in ("behind the neuron", "average pooling", "stride 2", "--host pools"):
            assert way in caught.value.fix


def test_what_cannot_be_summed_on_the_host_is_refused() -> None:
    rng = np.random.default_rng(12)
    x = spikes(rng, 4, 5, 4, 8, 8)
    conv = lambda: Conv2d(weights(rng, 4, 4, 3, 3, gain=2), padding=(1, 1))  # noqa: E731
    same = MaxPool((3, 3), (1, 1), (1, 1))

    def refused(*nodes: Node) -> S2CError:
        with pytest.raises(S2CError) as caught:
            quantize(graph((4, 8, 8), *nodes), "loihi2", x, host=["pools"])
        return caught.value

    back = node("back", conv(), Edge("lif", delay=1, recurrent=True))
    looped = refused(
        node("conv", conv(), "x"),
        back,
        node("sum", Add(), "conv", "back"),
        node("pool", same, "sum"),
        node("lif", population(FIRES), "pool"),
    )
    assert looped.what == "a maximum is taken of sums that are fed back"
    weighed = refused(
        node("conv", conv(), "x"),
        node("pool", same, "conv"),
        node("next", conv(), "pool"),
        node("lif", population(FIRES), "next"),
    )
    assert weighed.what == "pool takes maxima of sums, and this layer weighs them"
    assert weighed.where.startswith("next (Conv2d)")
    joined = refused(
        node("conv", conv(), "x"),
        node("more", conv(), "x"),
        node("both", Concat(), "conv", "more"),
        node("pool", same, "both"),
        node("lif", population(FIRES), "pool"),
    )
    assert "the sums of conv are read by a Concat layer" in joined.what
    membranes = refused(
        node("conv", conv(), "x"),
        node("first", population(FIRES), "conv"),
        node("pool", same, Edge("first", port="v")),
        node("next", conv(), "pool"),
        node("lif", population(FIRES), "next"),
    )
    assert "this layer carries a membrane" in membranes.what


def test_a_direct_coded_image_is_pooled_once_by_the_host_or_at_every_step() -> None:
    pytest.importorskip("lava")
    rng = np.random.default_rng(13)
    images = rng.uniform(-1, 1, (24, 2, 8, 8)).astype(np.float32)
    for gain in (None, -0.75):
        conv = Conv2d(weights(rng, 4, 2, 3, 3, gain=3), weights(rng, 4), padding=(1, 1))
        turned = [] if gain is None else [node("gain", Scale(np.float32(gain)), "pool")]
        network = graph(
            (2, 8, 8),
            node("conv", conv, "x"),
            node("pool", MaxPool((3, 3), (2, 2), (1, 1)), "conv"),
            *turned,
            node("lif", population(FIRES), turned[-1].name if turned else "pool"),
            coding="direct",
        )
        real = simulate(network, images, record="spikes")["lif"].spikes
        on_host = quantize(network, "loihi2", images[:12], host=["pools"])
        on_chip = quantize(network, "loihi2", images[:12], host=["pools"], encoder="chip")
        for made, deviation in ((on_host, 0.005), (on_chip, 0.03)):
            found = engines_agree(made, images)
            assert np.mean(found["lif"].spikes != real) < deviation
            assert found["lif"].spikes.any()
        # Once per sample, as conv.rescale, without a synapse; or at every step through one.
        assert [n.layer.kind for n in on_host if n.placement == "chip"] == ["Input", "LIF"] or gain
        assert not sum(c.synops.sum() for c in simulate(on_host, images).counts.values())
        assert on_host.notes[-1].endswith("once per sample (--host pools)")
        assert verify(on_host, images[:2], "lava").equal


def test_a_population_fed_by_two_synapses_of_an_image_is_pooled_at_every_step() -> None:
    rng = np.random.default_rng(14)
    network = graph(
        (2, 8, 8),
        *(node(f"conv{i}", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x") for i in (0, 1)),
        node("sum", Add(), "conv0", "conv1"),
        node("pool", HALVES, "sum"),
        node("lif", population(FIRES), "pool"),
        coding="direct",
    )
    images = rng.uniform(-1, 1, (12, 2, 8, 8)).astype(np.float32)
    with pytest.raises(S2CError, match="fed by several layers") as caught:
        quantize(network, "loihi2", images, host=["pools"])
    assert "--encoder chip" in caught.value.fix
    engines_agree(quantize(network, "loihi2", images, host=["pools"], encoder="chip"), images)


def test_maxima_of_data_and_of_spikes_that_are_no_bits() -> None:
    """Graded input, spikes of both signs, spikes of another value, products: whole numbers of known worth."""
    rng = np.random.default_rng(15)
    conv = lambda: Conv2d(weights(rng, 4, 2, 3, 3, gain=3), padding=(1, 1))  # noqa: E731
    behind = (node("next", Conv2d(weights(rng, 3, 4, 3, 3, gain=3)), "pool"), node("lif", population(FIRES), "next"))
    x = spikes(rng, 24, 5, 2, 8, 8)
    for model in (TernaryLIF(1.0, 0.6), LIF(1.0, 0.6, spike_value=0.7)):
        network = graph(
            (2, 8, 8), node("conv", conv(), "x"), node("first", population(model), "conv"),
            node("pool", HALVES, "first"), *behind,
        )  # fmt: skip
        made = quantize(network, "loihi2", x[:12], host=["pools"])
        found, real = engines_agree(made, x), simulate(network, x, record="spikes")
        assert np.mean(found["lif"].spikes != real["lif"].spikes) < 0.02
        assert made["pool"].placement == "host"
        assert made.notes == (
            "pool: maxima taken on the host; the chip has no maximum but of spikes that are 0 or 1 (--host pools)",
        )
    levels = rng.integers(0, 256, (24, 5, 2, 8, 8)).astype(np.float32)
    data = graph(
        (2, 8, 8),
        node("pool", HALVES, "x"),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=0.02)), "pool"),
        node("lif", population(FIRES), "conv"),
    )
    made = quantize(data, "loihi2", levels[:12], host=["pools"])
    found = engines_agree(made, levels)
    np.testing.assert_array_equal(found["pool"].out, torch_pool(levels, HALVES))
    assert made.formats["pool"].range == (0, 255)
    multiplied = graph(
        (2, 8, 8),
        node("conv", conv(), "x"),
        node("a", population(TernaryLIF(1.0, 0.6)), "conv"),
        node("both", Mul(), "a", Edge("a", delay=1)),
        node("pool", HALVES, "both"),
        *behind,
    )
    both = quantize(multiplied, "loihi2", x[:12], host=["products", "pools"])
    assert both.formats["pool"].range == (-2, 1)
    engines_agree(both, x)
    assert len(both.notes) == 2


def test_maxima_behind_the_last_population() -> None:
    """Votes: the largest of two outputs per class, of spikes, of membranes and of the sums of a head."""
    rng = np.random.default_rng(16)
    x = spikes(rng, 24, 5, 9)

    def votes(*nodes: Node) -> Graph:
        shaped = node("rows", Reshape((1, 8)), nodes[-1].name)
        pool = node("pool", MaxPool((2,), (2,), (0,)), "rows")
        return graph((9,), *nodes, shaped, pool, node("flat", Flatten(), "pool"), how="mean")

    exact = LIF(1.0, 0.5, fire=">")
    first = (node("fc", Linear(whole(rng, 8, 9)), "x"), node("lif", population(exact), "fc"))
    for network in (
        votes(node("fc", Linear(weights(rng, 8, 9, gain=3)), "x"), node("li", population(LIF(math.inf, 0.9)), "fc")),
        votes(*first, node("head", Linear(weights(rng, 8, 8), weights(rng, 8)), "lif")),
    ):
        made = quantize(network, "loihi2", x[:12], host=["pools"])
        found, real = engines_agree(made, x), simulate(network, x)
        np.testing.assert_allclose(found.outputs, real.outputs, atol=0.01 * np.abs(real.outputs).max())


def test_a_chip_with_binary_spikes_does_not_take_sums(tmp_path: Path) -> None:
    rng = np.random.default_rng(17)
    x = spikes(rng, 8, 5, 2, 8, 8)
    made = quantize(pooled(rng), "loihi1", x, host=["pools"])
    (violation,) = check(made)
    assert violation.rule == "limits.input_bits"
    assert f"input of {made.formats['pool'].bits - 1} bits from pool" in violation.found


def test_neither_lava_nor_netx_compares_between_populations_and_nir_keeps_the_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(18)
    x = spikes(rng, 8, 5, 2, 8, 8)
    network = graph(
        (2, 8, 8),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("lif", population(FIRES), "conv"),
        node("next", Conv2d(weights(rng, 3, 4, 3, 3, gain=2)), "lif"),
        node("pool", HALVES, "next"),
        node("out", population(FIRES), "pool"),
    )
    made = quantize(network, "loihi2", x, host=["pools"])
    with pytest.raises(S2CError, match="the host computes between populations") as lava:
        write_project(made, tmp_path / "lava")
    assert "pool (MaxPool) on the host answers spikes of the same step for out" in lava.value.why
    with pytest.raises(S2CError, match="NetX cannot run this program") as net:
        write_net(made, tmp_path / "model.net")
    assert "pool (MaxPool): takes maxima; NetX's layers add up" in net.value.why
    assert not list(tmp_path.iterdir())
    write_program(made, tmp_path / "model.nir")
    assert load(tmp_path / "model.nir") == made
    assert verify(made, x, "fast").equal


def test_the_gpus_operations_pool_the_same_integers() -> None:
    from snn2chip.simulate.cuda import run

    rng = np.random.default_rng(19)
    x = spikes(rng, 8, 5, 2, 8, 8)
    made = quantize(pooled(rng, MaxPool((3, 2), (2, 2), (1, 0), ceil_mode=True)), "loihi2", x, host=["pools"])
    found = simulate(made, x, record=("spikes", "out"), engine="reference")
    device = run(made, x, 5, frozenset({"spikes", "out"}), machine=None, batch_size=4, progress=None, device="cpu")
    np.testing.assert_array_equal(device["pool"].out, found["pool"].out)
    np.testing.assert_array_equal(device["lif"].spikes, found["lif"].spikes)


def test_wide_sums_on_the_machines_integers() -> None:
    """int64 beyond every float's mantissa: the maximum is still the largest integer."""
    made = program(
        (1, 2, 4),
        node("wide", Scale(np.array(2**40 + 1)), "x", placement="host"),
        node("pool", MaxPool((2, 2), (2, 2), (0, 0)), "wide", placement="host"),
        bits=20,
    )
    x = np.random.default_rng(20).integers(0, 2**20, (4, 5, 1, 2, 4))
    for engine in ("reference", "fast"):
        found = simulate(made, x, record="out", engine=engine)["pool"].out
        tops = x.reshape(4, 5, 1, 2, 2, 2).max(axis=(3, 5))[:, :, :, None]
        np.testing.assert_array_equal(found, tops * (2**40 + 1))
