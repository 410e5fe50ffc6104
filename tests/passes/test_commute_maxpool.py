"""Gains behind a max pooling of sums: in front of it where they keep the order, their sign behind it where not."""

from __future__ import annotations

import dataclasses

import numpy as np

from networks import batch_norm, graph, node, population, spikes, weights
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Add, BatchNorm, Conv1d, Conv2d, Layer, MaxPool, Neuron, Scale
from snn2chip.neurons.lif import LIF
from snn2chip.passes import run_passes
from snn2chip.simulate import simulate

FIRES = LIF(1.0, 0.6, fire=">")
GAINS = np.array([1.5, -2.0, 0.0, -0.5], np.float32)


def pooled(*behind: Layer, shape: tuple[int, ...] = (2, 6, 6), pools: int = 1, seed: int = 0) -> Graph:
    """A convolution with a bias, max pooling of its sums, the layers, and a population."""
    rng, axes = np.random.default_rng(seed), len(shape) - 1
    kernels = weights(rng, 4, shape[0], *(3,) * axes, gain=2)
    conv = (Conv1d, Conv2d)[axes - 1](kernels, 2 * weights(rng, 4), padding=(1,) * axes)
    nodes = [node("conv", conv, "x")]
    for i in range(pools):
        nodes.append(node(f"pool{i}", MaxPool((3,) * axes, (2,) * axes, (1,) * axes), nodes[-1].name))
    for i, layer in enumerate(behind):
        nodes.append(node(f"behind{i}", layer, nodes[-1].name))
    return graph(shape, *nodes, node("lif", population(FIRES), nodes[-1].name))


def moved(before: Graph, pipeline: str = "commute_maxpool,distribute,fold_batchnorm,absorb_scale") -> Graph:
    """The graph after the pipeline, whose sums into the population are the same to float rounding."""
    x = spikes(np.random.default_rng(1), 8, 5, *before.shapes()["x"])
    after, _ = run_passes(before, x[:2], pipeline)
    a, b = (simulate(network, x, record="a")["lif"] for network in (before, after))
    np.testing.assert_allclose(a.a, b.a, rtol=1e-4, atol=1e-5)
    assert np.ptp(a.a) > 1
    return after


def names(network: Graph) -> list[str]:
    return list(network.nodes)[1:-2]


def test_a_gain_that_is_not_negative_goes_in_front_with_its_offset() -> None:
    norm = batch_norm(np.random.default_rng(2), 4)
    assert names(moved(pooled(norm))) == ["conv", "pool0", "lif"]
    assert names(moved(pooled(norm, shape=(2, 9), pools=2))) == ["conv", "pool0", "pool1", "lif"]
    zero = Scale(np.array([2.0, 0.5, 1.5, 0.0], np.float32).reshape(4, 1, 1))
    assert names(moved(pooled(zero, norm))) == ["conv", "pool0", "lif"]


def test_a_negative_gain_leaves_its_sign_behind() -> None:
    norm = dataclasses.replace(batch_norm(np.random.default_rng(3), 4), weight=GAINS)
    before = pooled(norm)
    after = moved(before)
    assert names(after) == ["conv", "pool0", "behind0", "lif"]
    factor, offset = norm.affine()
    np.testing.assert_array_equal(after["behind0"].layer.weight.ravel(), [1, -1, 1, -1])
    np.testing.assert_allclose(after["behind0"].layer.bias, offset, rtol=1e-6)
    np.testing.assert_allclose(
        after["conv"].layer.weight, before["conv"].layer.weight * np.abs(factor).reshape(-1, 1, 1, 1), rtol=1e-5
    )
    negated = moved(pooled(Scale(np.float32(-0.7)), pools=2))
    assert names(negated) == ["conv", "pool0", "pool1", "behind0", "lif"]
    assert (negated["behind0"].layer.weight == -1).all()


def test_gains_in_a_row_are_one() -> None:
    norm = dataclasses.replace(batch_norm(np.random.default_rng(4), 4), weight=GAINS)
    after = moved(pooled(norm, Scale(np.float32(-2)), batch_norm(np.random.default_rng(5), 4)))
    assert names(after) == ["conv", "pool0", "behind2", "lif"]
    np.testing.assert_array_equal(after["behind2"].layer.weight.ravel(), [-1, 1, 1, 1])
    assert names(moved(pooled(Scale(np.float32(-1)), Scale(np.float32(-1))))) == ["conv", "pool0", "lif"]


def test_a_batch_norm_in_front_of_a_maximum_is_folded_with_its_sign() -> None:
    rng = np.random.default_rng(5)
    norm = dataclasses.replace(batch_norm(rng, 4), weight=GAINS)
    before = graph(
        (2, 6, 6),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("norm", norm, "conv"),
        node("pool0", MaxPool((2, 2), (2, 2), (0, 0)), "norm"),
        node("lif", population(FIRES), "pool0"),
    )
    assert names(moved(before)) == ["conv", "pool0", "lif"]


def test_what_is_behind_the_maximum_of_a_sum_goes_into_every_branch() -> None:
    rng = np.random.default_rng(6)
    before = graph(
        (2, 6, 6),
        *(node(f"conv{i}", Conv2d(weights(rng, 4, 2, 3, 3), padding=(1, 1)), "x") for i in (0, 1)),
        node("sum", Add(), "conv0", "conv1"),
        node("pool0", MaxPool((2, 2), (2, 2), (0, 0)), "sum"),
        node("norm", dataclasses.replace(batch_norm(rng, 4), weight=GAINS), "pool0"),
        node("lif", population(FIRES), "norm"),
    )
    after = moved(before)
    assert not [n for n in after if isinstance(n.layer, BatchNorm | Scale)]
    assert [n.name for n in after if isinstance(n.layer, Conv2d)] == ["conv0", "conv1", "norm"]


def test_a_batch_norm_behind_pooled_spikes_stays_for_the_layer_after_it() -> None:
    rng = np.random.default_rng(7)
    before = graph(
        (2, 6, 6),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2), padding=(1, 1)), "x"),
        node("first", population(FIRES), "conv"),
        node("pool0", MaxPool((2, 2), (2, 2), (0, 0)), "first"),
        node("norm", batch_norm(rng, 4), "pool0"),
        node("next", Conv2d(weights(rng, 3, 4, 3, 3)), "norm"),
        node("lif", population(FIRES), "next"),
    )
    after = moved(before, "commute_maxpool,fold_batchnorm,lower_maxpool")
    assert isinstance(after["pool0"].layer, Neuron)
    assert names(after) == ["conv", "first", "pool0.any", "pool0", "next", "lif"]
