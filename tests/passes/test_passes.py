"""Every pass leaves the function as it was, says what it touched, and refuses what it cannot do exactly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from networks import batch_norm, graph, node, population, spikes, weights
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import (
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    Flatten,
    Gather,
    Linear,
    MaxPool,
    Mul,
    Neuron,
    Permute,
    Reshape,
    Scale,
    SumPool,
)
from snn2chip.neurons.lif import LIF
from snn2chip.passes import parse_pipeline, run_passes
from snn2chip.passes.base import Pass
from snn2chip.passes.merge_pool import conv_then_pool, pool_then_conv, unpooled
from snn2chip.simulate import simulate
from snn2chip.simulate.ops import NumpyOps, apply

OPS = NumpyOps()
FIRES = LIF(1.0, 0.6, fire=">")


def pool(
    kind: type[AvgPool] | type[SumPool] | type[MaxPool], kernel: int, stride: int = 0, padding: int = 0
) -> AvgPool:
    return kind((kernel,) * 2, (stride or kernel,) * 2, (padding,) * 2)  # type: ignore[return-value]


def proved(before: Graph, pipeline: str, x: np.ndarray) -> Graph:
    """The graph after the pipeline; its outputs and spikes must be the same on data the proof did not see."""
    after, records = run_passes(before, x[:2], pipeline)
    assert all(record.differing <= record.explained for record in records)
    a, b = simulate(before, x, record="spikes"), simulate(after, x, record="spikes")
    for name in set(a.recordings) & set(b.recordings):
        assert (a[name].spikes != b[name].spikes).mean() < 1e-4
        assert a[name].spikes.any(), f"{name} never fires: the comparison says nothing"
    np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-3, atol=1e-3)
    return after


def kinds(network: Graph) -> list[str]:
    return [n.layer.kind for n in network]


@given(seed=st.integers(0, 10**6), bias=st.booleans(), side=st.sampled_from(["conv", "linear"]))
def test_batch_norm_folds_into_the_layer_before_it(seed: int, bias: bool, side: str) -> None:
    rng = np.random.default_rng(seed)
    b = weights(rng, 6) if bias else None
    if side == "conv":
        layers = [node("map", Conv2d(weights(rng, 6, 2, 3, 3, gain=3), b, padding=(1, 1)), "x")]
        shape: tuple[int, ...] = (2, 6, 6)
    else:
        layers, shape = [node("map", Linear(weights(rng, 6, 9, gain=3), b), "x")], (9,)
    before = graph(shape, *layers, node("bn", batch_norm(rng, 6), "map"), node("lif", population(FIRES), "bn"))
    after = proved(before, "fold_batchnorm", spikes(rng, 8, 5, *shape))
    assert "BatchNorm" not in kinds(after)
    assert len(after.nodes) == len(before.nodes) - 1


def test_batch_norm_folds_into_a_linear_layer_whose_tokens_were_transposed() -> None:
    """bn(linear(x).transpose(1, 0)): the channels of the batch norm are the features of the linear layer."""
    rng = np.random.default_rng(12)

    def tokens(dims: tuple[int, ...], channels: int) -> Graph:
        return graph(
            (4, 6),
            node("fc", Linear(weights(rng, 4, 6, gain=3)), "x"),
            node("transpose", Permute(dims), "fc"),
            node("bn", batch_norm(rng, channels), "transpose"),
            node("back", Permute((1, 0)), "bn"),
            node("lif", population(FIRES), "back"),
        )

    after = proved(tokens((1, 0), 4), "fold_batchnorm", spikes(rng, 8, 5, 4, 6))
    assert "bn" not in after.nodes
    assert after["fc"].layer.bias is not None
    after = proved(tokens((0, 1), 4), "fold_batchnorm", spikes(rng, 8, 5, 4, 6))
    assert isinstance(after["bn"].layer, Conv1d), "one factor per token is none per feature"


def test_batch_norm_folds_into_the_layer_after_it_where_no_padding_sees_it() -> None:
    rng = np.random.default_rng(1)
    for padding, folded in ((0, True), (1, False)):
        before = graph(
            (2, 6, 6),
            node("bn", batch_norm(rng, 2), "x"),
            node("conv", Conv2d(weights(rng, 4, 1, 3, 3, gain=4), padding=(padding,) * 2, groups=2), "bn"),
            node("lif", population(LIF(0.3, 0.6, fire=">")), "conv"),
        )
        after = proved(before, "fold_batchnorm", spikes(rng, 8, 5, 2, 6, 6))
        # With padding it stays what it is: one synapse per channel.
        assert ("bn" not in after.nodes) == folded
        assert "BatchNorm" not in kinds(after)


def test_a_batch_norm_that_two_read_is_not_folded_into_one_of_them() -> None:
    rng = np.random.default_rng(2)
    before = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9, gain=3)), "x"),
        node("bn", batch_norm(rng, 6), "fc"),
        node("lif1", population(FIRES), "bn"),
        node("sum", Add(), "fc", "lif1"),
        node("lif2", population(FIRES), "sum"),
    )
    after = proved(before, "fold_batchnorm", spikes(rng, 8, 5, 9))
    np.testing.assert_array_equal(after["fc"].layer.weight, before["fc"].layer.weight)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(4, 10),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    pooling=st.integers(1, 3),
    pool_stride=st.integers(1, 3),
    total=st.booleans(),
)
def test_a_convolution_takes_up_the_pooling_after_it(  # type: ignore[no-untyped-def]
    seed, size, kernel, stride, padding, dilation, pooling, pool_stride, total
) -> None:
    rng = np.random.default_rng(seed)
    conv = Conv2d(
        rng.normal(size=(4, 1, kernel, kernel)), rng.normal(size=4), (stride,) * 2, (padding,) * 2, (dilation,) * 2, 2
    )
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    x = rng.normal(size=(2, 2, size, size))
    middle = apply(conv, [x], OPS)
    assume(middle.shape[-1] >= pooling)
    layer = pool(SumPool if total else AvgPool, pooling, pool_stride)
    np.testing.assert_allclose(apply(conv_then_pool(conv, layer), [x], OPS), apply(layer, [middle], OPS), atol=1e-9)


@given(
    seed=st.integers(0, 10**6),
    cells=st.integers(2, 5),
    pooling=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
)
def test_a_convolution_takes_up_the_pooling_before_it(  # type: ignore[no-untyped-def]
    seed, cells, pooling, kernel, stride, padding, dilation
) -> None:
    rng = np.random.default_rng(seed)
    assume(cells + 2 * padding >= dilation * (kernel - 1) + 1)
    conv = Conv2d(
        rng.normal(size=(3, 2, kernel, kernel)), rng.normal(size=3), (stride,) * 2, (padding,) * 2, (dilation,) * 2
    )
    x = rng.normal(size=(2, 2, cells * pooling, cells * pooling))
    layer = pool(AvgPool, pooling)
    two = apply(conv, [apply(layer, [x], OPS)], OPS)
    np.testing.assert_allclose(apply(pool_then_conv(layer, conv), [x], OPS), two, atol=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.booleans())
def test_linear_weights_spread_over_pooling_windows(
    seed: int, kernel: int, stride: int, padding: int, include: bool
) -> None:
    assume(padding <= kernel // 2)
    rng = np.random.default_rng(seed)
    layer = AvgPool((kernel,) * 2, (stride,) * 2, (padding,) * 2, False, include)
    x = rng.normal(size=(2, 3, 6, 5))
    pooled = apply(layer, [x], OPS)
    rows = rng.normal(size=(4, *pooled.shape[1:]))
    spread = unpooled(rows, layer, (3, 6, 5))
    two = np.einsum("nchw,ochw->no", pooled, rows)
    np.testing.assert_allclose(np.einsum("nchw,ochw->no", x, spread), two, atol=1e-9)


def pooled_net(rng: np.random.Generator, layer: AvgPool, size: int = 8, padding: int = 1) -> Graph:
    return graph(
        (2, size, size),
        node("conv1", Conv2d(weights(rng, 4, 2, 3, 3, gain=3), padding=(1, 1)), "x"),
        node("lif1", population(FIRES), "conv1"),
        node("pool", layer, "lif1"),
        node("conv2", Conv2d(weights(rng, 4, 4, 3, 3, gain=6), padding=(padding,) * 2), "pool"),
        node("lif2", population(FIRES), "conv2"),
    )


def test_pooling_that_divides_the_map_is_merged_and_one_that_does_not_is_refused_at_a_padded_border() -> None:
    rng = np.random.default_rng(3)
    after = proved(pooled_net(rng, pool(AvgPool, 2)), "merge_pool", spikes(rng, 8, 5, 2, 8, 8))
    assert after["conv2"].layer.kernel == (6, 6)
    assert after["conv2"].layer.stride == (2, 2)
    proved(pooled_net(rng, pool(AvgPool, 2), 9, padding=0), "merge_pool", spikes(rng, 8, 5, 2, 9, 9))
    for wrong, size in ((pool(AvgPool, 2), 9), (pool(AvgPool, 3, 2), 9), (pool(AvgPool, 3, 2, 1), 8)):
        with pytest.raises(S2CError, match="cannot become part of a linear map") as caught:
            run_passes(pooled_net(rng, wrong, size), spikes(rng, 2, 5, 2, size, size), "merge_pool")
        assert "pool" in caught.value.where


def test_pooling_between_populations_becomes_a_synapse_and_before_a_classifier_part_of_it() -> None:
    rng = np.random.default_rng(4)
    alone = graph(
        (2, 8, 8),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=3)), "x"),
        node("lif1", population(FIRES), "conv"),
        node("pool", pool(AvgPool, 2), "lif1"),
        node("lif2", population(LIF(0.4, 0.6, fire=">")), "pool"),
        node("pool2", pool(AvgPool, 3), "lif2"),
        node("flat", Flatten(), "pool2"),
        node("fc", Linear(weights(rng, 5, 4, gain=3)), "flat"),
    )
    after = proved(alone, "merge_pool", spikes(rng, 8, 5, 2, 8, 8))
    assert isinstance(after["pool"].layer, Conv2d)
    assert after["fc"].layer.weight.shape == (5, 36)


def test_pooling_on_a_shortcut_and_as_the_last_layer_becomes_a_synapse() -> None:
    rng = np.random.default_rng(8)
    net = graph(
        (2, 8, 8),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=3), padding=(1, 1)), "x"),
        node("lif1", population(FIRES), "conv"),
        node("shortcut", pool(AvgPool, 3, 2, 1), "lif1"),
        node("conv2", Conv2d(weights(rng, 4, 4, 3, 3, gain=4), stride=(2, 2), padding=(1, 1)), "lif1"),
        node("sum", Add(), "conv2", "shortcut"),
        node("lif2", population(FIRES), "sum"),
        node("last", pool(AvgPool, 2), "lif2"),
    )
    after = proved(net, "merge_pool", spikes(rng, 8, 5, 2, 8, 8))
    assert (after["shortcut"].layer.padding, after["shortcut"].layer.groups) == ((1, 1), 4)
    assert after["last"].layer.kernel == (2, 2)


def test_votes_become_a_linear_layer_on_the_population_itself() -> None:
    """[N, 20] as [N, 1, 20], the mean of every five, and back: the axis for torch's pooling leaves no trace."""
    rng = np.random.default_rng(9)
    net = graph(
        (6,),
        node("fc", Linear(weights(rng, 20, 6, gain=3)), "x"),
        node("lif", population(FIRES), "fc"),
        node("unsqueeze", Reshape((1, 20)), "lif"),
        node("votes", AvgPool((5,), (5,), (0,)), "unsqueeze"),
        node("squeeze", Flatten(), "votes"),
    )
    after = proved(net, "merge_pool", spikes(rng, 8, 5, 6))
    assert [n.name for n in after] == ["x", "fc", "lif", "squeeze", "readout", "output"]
    np.testing.assert_allclose(after["squeeze"].layer.weight, np.kron(np.eye(4), np.full((1, 5), 0.2)), rtol=1e-6)


def test_max_pooling_of_spikes_becomes_an_or_and_of_anything_else_stays() -> None:
    rng = np.random.default_rng(5)
    after = proved(pooled_net(rng, pool(MaxPool, 2)), "lower_maxpool", spikes(rng, 8, 5, 2, 8, 8))
    assert isinstance(after["pool"].layer, Neuron)
    assert after["pool.any"].layer.groups == 4
    direct = graph((2, 8, 8), node("pool", pool(MaxPool, 2), "x"), node("lif", population(FIRES), "pool"))
    assert isinstance(proved(direct, "lower_maxpool", spikes(rng, 2, 5, 2, 8, 8))["pool"].layer, MaxPool)


def test_max_pooling_whose_windows_reach_past_the_edge_sees_no_spikes_there() -> None:
    rng = np.random.default_rng(25)
    layer = MaxPool((3, 2), (2, 2), (1, 0), ceil_mode=True)
    before = graph(
        (2, 8, 7),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=3), padding=(1, 1)), "x"),
        node("lif", population(FIRES), "conv"),
        node("pool", layer, "lif"),
        node("fc", Linear(weights(rng, 6, 4, gain=3)), "pool"),
        node("out", population(FIRES), "fc"),
    )
    after = proved(before, "lower_maxpool", spikes(rng, 8, 5, 2, 8, 7))
    assert after.shapes()["pool"] == (4, 5, 4)
    assert (after["pool.padded"].layer.index < 0).sum() == 4 * (9 * 8 - 8 * 7)


def test_max_pooling_of_joined_or_multiplied_spikes_is_an_or_and_of_membranes_stays() -> None:
    """SEW-ResNet's AND, and spikes side by side."""
    rng = np.random.default_rng(15)

    def pooled(*between: Node) -> Graph:
        return graph(
            (2, 8, 8),
            *(node(f"conv{i}", Conv2d(weights(rng, 4, 2, 3, 3, gain=3), padding=(1, 1)), "x") for i in (1, 2)),
            *(node(f"lif{i}", population(FIRES), f"conv{i}") for i in (1, 2)),
            *between,
            node("head", Conv2d(weights(rng, 3, 4 if len(between) < 3 else 8, 1, 1, gain=3)), "pool"),
        )

    both = pooled(node("both", Mul(), "lif1", "lif2"), node("pool", pool(MaxPool, 2), "both"))
    assert isinstance(proved(both, "lower_maxpool", spikes(rng, 8, 5, 2, 8, 8))["pool"].layer, Neuron)
    joined = pooled(
        node("joined", Concat(), "lif1", "lif2"),
        node("same", Permute((0, 2, 1)), "joined"),
        node("pool", pool(MaxPool, 2), "same"),
    )
    assert isinstance(proved(joined, "lower_maxpool", spikes(rng, 8, 5, 2, 8, 8))["pool"].layer, Neuron)
    for source in (Edge("lif1", port="v"), Edge("conv1")):
        kept = proved(pooled(node("pool", pool(MaxPool, 2), source)), "lower_maxpool", spikes(rng, 2, 5, 2, 8, 8))
        assert isinstance(kept["pool"].layer, MaxPool)


def test_sums_go_into_the_dendrite_and_constants_into_the_weights() -> None:
    rng = np.random.default_rng(6)
    before = graph(
        (9,),
        node("fc1", Linear(weights(rng, 6, 9, gain=2), weights(rng, 6)), "x"),
        node("scale1", Scale(rng.uniform(0.5, 2, 6).astype(np.float32)), "fc1"),
        node("lif1", population(FIRES), "scale1"),
        node("scale2", Scale(np.float32(0.5)), "lif1"),
        node("fc2", Linear(weights(rng, 6, 6, gain=6)), "scale2"),
        node("fc3", Linear(weights(rng, 6, 9, gain=2)), "x"),
        node("sum", Add(), "fc2", "fc3"),
        node("lif2", population(FIRES), "sum"),
    )
    after = proved(before, "absorb_add,absorb_scale", spikes(rng, 8, 5, 9))
    assert {edge.source for edge in after["lif2"].inputs} == {"fc2", "fc3"}
    assert "Scale" not in kinds(after)


def test_parts_of_a_map_become_maps_of_their_own() -> None:
    """Queries, keys and values cut from one convolution and its batch norm; from a layer over tokens, by heads."""
    rng = np.random.default_rng(8)
    channels = np.arange(9 * 36).reshape(9, 6, 6)
    tokens = np.arange(4 * 24).reshape(4, 3, 4, 2)
    before = graph(
        (3, 6, 6),
        node("qkv", Conv2d(weights(rng, 9, 3, 3, 3, gain=4), weights(rng, 9), padding=(1, 1)), "x"),
        node("bn", batch_norm(rng, 9), "qkv"),
        node("q", Gather(channels[:3]), "bn"),
        node("k", Gather(channels[[8, 4, 5]].reshape(3, 36)), "bn"),
        node("lif1", population(FIRES), "q"),
        node("lif2", population(FIRES), "k"),
        node("flat1", Reshape((4, 27)), "lif1"),
        node("flat2", Reshape((4, 27)), "lif2"),
        node("both", Add(), "flat1", "flat2"),
        node("fc", Linear(weights(rng, 24, 27, gain=6), weights(rng, 24)), "both"),
        node("heads", Gather(tokens[:, 1]), "fc"),
        node("lif3", population(FIRES), "heads"),
    )
    after = proved(before, "absorb_part,fold_batchnorm,prune", spikes(rng, 8, 5, 3, 6, 6))
    assert "Gather" not in kinds(after)
    assert {"qkv", "bn", "fc", "q"}.isdisjoint(after.nodes)
    assert after["fc[heads]"].layer.weight.shape == (8, 27)  # type: ignore[attr-defined]
    assert after["qkv[k]"].layer.weight.shape == (3, 3, 3, 3)  # type: ignore[attr-defined]


def test_parts_in_space_of_groups_repeated_or_late_stay_parts() -> None:
    rng = np.random.default_rng(9)
    places = np.arange(4 * 16).reshape(4, 4, 4)
    before = graph(
        (4, 6, 6),
        node("grouped", Conv2d(weights(rng, 4, 1, 3, 3, gain=3), groups=4), "x"),
        node("channels", Gather(places[:2]), "grouped"),
        node("conv", Conv2d(weights(rng, 4, 4, 3, 3, gain=3)), "x"),
        node("rows", Gather(places[:, :2]), "conv"),
        node("twice", Gather(places[[0, 0]]), "conv"),
        node("mirrored", Gather(places[:2, ::-1]), "conv"),
        node("padded", Gather(np.concatenate([places[:1], np.full((1, 4, 4), -1)])), "conv"),
        node("late", Gather(places[:2]), Edge("conv", 1)),
        node("some", Add(), "channels", "twice", "mirrored", "padded", "late"),
        node("lif1", population(FIRES), "some"),
        node("lif2", population(FIRES), "rows"),
        node("flat1", Flatten(), "lif1"),
        node("flat2", Flatten(), "lif2"),
        node("all", Add(), "flat1", "flat2"),
    )
    after, (record,) = run_passes(before, spikes(rng, 2, 5, 4, 6, 6), "absorb_part")
    assert record.changed == ()
    assert after == before


@pytest.mark.parametrize("widths", [(1, 1), (0, 2), (1, 0)])
def test_even_zeros_become_padding_and_others_stay(widths: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    around = [(0, 0), (widths[0], widths[1]), (2, 2)]
    index = np.pad(np.arange(3 * 5 * 6).reshape(3, 5, 6), around, constant_values=-1)
    before = graph(
        (3, 5, 6),
        node("zeros", Gather(index), "x"),
        node("conv", Conv2d(weights(rng, 4, 3, 3, 3), padding=(1, 0)), "zeros"),
        node("pop", population(FIRES), "conv"),
        node("flat", Flatten(), "pop"),
        node("fc", Linear(weights(rng, 3, 4 * (5 + sum(widths)) * 8)), "flat"),
    )
    after = proved(before, "absorb_pad", spikes(rng, 6, 5, 3, 5, 6))
    assert ("Gather" in kinds(after)) == (widths[0] != widths[1])
    if widths[0] == widths[1]:
        assert after["conv"].layer.padding == (1 + widths[0], 2)


def test_prune_drops_what_the_output_does_not_need() -> None:
    rng = np.random.default_rng(7)
    kept = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9, gain=3)), "x"),
        node("flat", Flatten(), "fc"),
        node("lif", population(FIRES), "flat"),
    )
    extra = kept.with_nodes(
        [*kept, node("aux", Linear(weights(rng, 3, 6)), "lif"), node("loss", population(FIRES), "aux")]
    )
    after = proved(extra, "prune", spikes(rng, 4, 5, 9))
    assert list(after.nodes) == ["x", "fc", "lif", "readout", "output"]


@dataclass(frozen=True, eq=False)
class DropsTheShift(Pass):
    """A wrong pass: it forgets the batch norm's shift."""

    name: ClassVar[str] = "drops_the_shift"

    def apply(self, before: Graph) -> tuple[Graph, tuple[str, ...]]:
        bn = before["bn"].layer
        assert isinstance(bn, BatchNorm)
        changed = dataclasses.replace(before["bn"], layer=dataclasses.replace(bn, bias=np.zeros_like(bn.bias)))
        return before.with_nodes([changed if n.name == "bn" else n for n in before]), ("bn",)


def test_a_pass_that_changes_the_network_is_caught() -> None:
    rng = np.random.default_rng(8)
    before = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9, gain=3)), "x"),
        node("bn", batch_norm(rng, 6), "fc"),
        node("lif", population(FIRES), "bn"),
    )
    with pytest.raises(S2CError, match=r"the pass drops_the_shift changed \d+ spikes that rounding does not explain"):
        run_passes(before, spikes(rng, 4, 5, 9), [DropsTheShift()])


@dataclass(frozen=True, eq=False)
class Nudge(Pass):
    """Moves one weight by its last bit, as a fold may."""

    name: ClassVar[str] = "nudge"

    def apply(self, before: Graph) -> tuple[Graph, tuple[str, ...]]:
        weight = np.nextafter(before["fc"].layer.weight, np.float32(1))  # type: ignore[attr-defined]
        changed = dataclasses.replace(before["fc"], layer=Linear(weight))
        return before.with_nodes([changed if n.name == "fc" else n for n in before]), ("fc",)


def test_spikes_at_the_threshold_are_counted_and_explained() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    before = graph(
        (1,),
        node("fc", Linear(np.full((1, 1), below)), "x"),
        node("lif", population(LIF(0.5, 0.0, fire=">=")), "fc"),
        node("fc2", Linear(np.ones((1, 1), np.float32)), "lif"),
        node("lif2", population(LIF(0.5, 0.0)), "fc2"),
    )
    _, (record,) = run_passes(before, np.ones((1, 5, 1), np.float32), [Nudge()])
    # Five spikes of the first population, and five of the second that follow from them.
    assert record.differing == record.explained == 10


def test_pipelines_are_written_as_they_print() -> None:
    text = "prune,fold_batchnorm,merge_pool"
    assert ",".join(map(str, parse_pipeline(text))) == text
    with pytest.raises(UsageError, match="no pass 'fold_batchnrm'") as caught:
        parse_pipeline("prune,fold_batchnrm")
    assert "fold_batchnorm" in caught.value.fix
    with pytest.raises(UsageError, match="has no option speed"):
        parse_pipeline("prune{speed=9}")
    assert str(*parse_pipeline("fuse_linear{growth=3.5}")) == "fuse_linear{growth=3.5}"
    with pytest.raises(UsageError, match=r"(?s)fuse_linear has no option speed\n.*its options: growth="):
        parse_pipeline("fuse_linear{growth=2;speed=9}")
    with pytest.raises(UsageError, match="fuse_linear is of the wrong kind"):
        parse_pipeline("fuse_linear{growth=much}")


def test_edges_keep_their_delay_through_rewrites() -> None:
    rng = np.random.default_rng(9)
    before = graph(
        (6,),
        node("fc", Linear(weights(rng, 4, 6, gain=3)), "x"),
        node("bn", batch_norm(rng, 4), "fc"),
        node("rec", Linear(weights(rng, 4, 4, gain=2)), Edge("lif", delay=1, recurrent=True)),
        node("sum", Add(), "bn", "rec"),
        node("lif", population(FIRES), "sum"),
    )
    after = proved(before, "prune,fold_batchnorm,absorb_add", spikes(rng, 6, 5, 6))
    assert after["rec"].inputs == (Edge("lif", delay=1, recurrent=True),)
