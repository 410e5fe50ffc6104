"""Linear maps in a row become one where that is exact, and stay apart, with the reason, where it is not."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from networks import graph, node, population, spikes, weights
from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Edge, Graph
from snn2chip.ir.layers import Conv, Conv1d, Conv2d, Layer, Linear
from snn2chip.neurons.lif import LIF
from snn2chip.passes import run_passes
from snn2chip.passes.fuse_linear import obstacle, product
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate
from snn2chip.zoo.layers import Parts, SpikingNetwork
from snn2chip.zoo.transformers import _separable
from torch_networks import lively

FIRES = LIF(0.6, 0.6, fire=">")


def torch_conv(conv: Conv, x: torch.Tensor) -> torch.Tensor:
    call = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[conv.axes]
    y = call(x, torch.from_numpy(conv.weight), None, conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.bias is None:
        return y
    spread = conv.bias if conv.bias.shape == tuple(y.shape[1:]) else conv.bias.reshape(-1, *[1] * conv.axes)
    return y + torch.from_numpy(spread)


def beyond_its_map(conv: Conv, x: torch.Tensor, rim: int) -> torch.Tensor:
    """The convolution's sums, without its bias, where windows begin up to ``rim`` strides before its map or behind."""
    map_size = torch_conv(conv, x).shape[2:]
    wider = tuple(p + rim * s for p, s in zip(conv.padding, conv.stride, strict=True))
    sums = torch_conv(dataclasses.replace(conv, bias=None, padding=wider), x)
    sums[(..., *(slice(rim, rim + n) for n in map_size))] = 0
    return sums[(..., *(slice(0, n + 2 * rim) for n in map_size))]


def conv(rng: np.random.Generator, shape: tuple[int, ...], bias: bool, **options: int) -> Conv:
    cls = {1: Conv1d, 2: Conv2d}[len(shape) - 2]
    spread = {k: (v,) * (len(shape) - 2) for k, v in options.items() if k != "groups"}
    b = rng.normal(size=shape[0]) if bias else None
    return cls(rng.normal(size=shape), b, groups=options.get("groups", 1), **spread)  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 10**6),
    axes=st.integers(1, 2),
    size=st.integers(6, 11),
    groups=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    kernels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    paddings=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    biases=st.tuples(st.booleans(), st.booleans()),
)
def test_two_convolutions_are_torchs_one_after_the_other(  # type: ignore[no-untyped-def]
    seed, axes, size, groups, kernels, strides, dilations, paddings, biases
) -> None:
    rng = np.random.default_rng(seed)
    one, two = (
        conv(rng, (8, (4, 8)[i] // groups[i], *[kernels[i]] * axes), biases[i],
             stride=strides[i], dilation=dilations[i], padding=paddings[i], groups=groups[i])
        for i in (0, 1)
    )  # fmt: skip
    x = torch.from_numpy(rng.normal(size=(2, 4, *[size] * axes)))
    try:
        before = graph(tuple(x.shape[1:]), node("one", one, "x"), node("two", two, "one"))
    except S2CError:
        assume(False)
    found = obstacle(before, before["one"], before["two"], growth=1e9)
    expected = torch_conv(two, torch_conv(one, x))
    if found is None:
        fused = product(one, two, before.shapes()["one"])
        assert isinstance(fused, Conv)
        assert fused.per_place <= (biases[0] and bool(paddings[1]))
        assert fused.groups % min(groups) == 0
        np.testing.assert_allclose(torch_conv(fused, x).numpy(), expected.numpy(), rtol=1e-9, atol=1e-9)
        return
    padded = bool(paddings[1] and beyond_its_map(one, x, paddings[1]).any())
    assert padded or "past the edge" in found
    if padded and strides == (1, 1):
        # The reason is a real one: the product, were it taken, is another map. (A stride may step over what differs.)
        fused = torch_conv(product(one, two, before.shapes()["one"]), x)  # type: ignore[arg-type]
        assert fused.shape != expected.shape or not torch.allclose(fused, expected)


def chain(*layers: Layer, shape: tuple[int, ...] = (9,)) -> Graph:
    nodes = [node(f"map{i}", layer, f"map{i - 1}" if i else "x") for i, layer in enumerate(layers)]
    return graph(shape, *nodes, node("lif", population(FIRES), nodes[-1].name))


def same_function(before: Graph, after: Graph, x: np.ndarray) -> None:
    a, b = simulate(before, x, record="spikes"), simulate(after, x, record="spikes")
    for name in a.recordings:
        if name in b.recordings:
            assert 0.01 < a[name].spikes.mean() < 0.99
            np.testing.assert_array_equal(a[name].spikes, b[name].spikes)


@pytest.mark.parametrize(("seed", "first", "second"), [(0, True, True), (1, True, False), (2, False, True)])
def test_three_linear_layers_become_one(seed: int, first: bool, second: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes, biases = (9, 6, 12, 5), (first, second, True)
    layers = [
        Linear(weights(rng, n, m, gain=2), weights(rng, n) if bias else None)
        for m, n, bias in zip(sizes, sizes[1:], biases, strict=False)
    ]
    before, x = chain(*layers), spikes(rng, 8, 5, 9)
    after, records = run_passes(before, x[:2])
    assert [n.name for n in after if isinstance(n.layer, Linear)] == ["map2"]
    assert next(r for r in records if r.name == "fuse_linear").changed == ("map0", "map1", "map1", "map2")
    same_function(before, after, x)


def test_a_recurrent_pair_keeps_its_delay() -> None:
    rng = np.random.default_rng(0)
    before = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9, gain=2)), "x"),
        node("down", Linear(weights(rng, 3, 6, gain=2)), Edge("lif", 1, recurrent=True)),
        node("up", Linear(weights(rng, 6, 3, gain=2), weights(rng, 6)), "down"),
        node("lif", population(FIRES), "fc", "up"),
    )
    x = spikes(rng, 8, 5, 9)
    after, _ = run_passes(before, x)
    assert after["up"].inputs == (Edge("lif", 1, recurrent=True),)
    same_function(before, after, x)


def test_a_first_layer_that_others_read_stays_for_them() -> None:
    rng = np.random.default_rng(8)
    before = graph(
        (9,),
        node("map0", Linear(weights(rng, 9, 9, gain=2), weights(rng, 9)), "x"),
        node("map1", Linear(weights(rng, 9, 9, gain=2)), "map0"),
        node("lif", population(FIRES), "map0", "map1"),
    )
    x = spikes(rng, 8, 5, 9)
    after, _ = run_passes(before, x[:2])
    assert [str(after[name].inputs[0]) for name in ("map0", "map1")] == ["x", "x"]
    same_function(before, after, x)


def test_pairs_that_stay_apart_say_why() -> None:
    rng = np.random.default_rng(1)
    w, k = weights(rng, 9, 9), weights(rng, 2, 2, 3, 3)
    bottleneck = chain(Linear(weights(rng, 1, 400)), Linear(weights(rng, 400, 1)), shape=(400,))
    late = graph(
        (9,),
        node("map0", Linear(w), "x"),
        node("map1", Linear(w), Edge("map0", 1)),
        node("lif", population(FIRES), "map1"),
    )
    cases = [
        (chain(Conv2d(k), Conv2d(k, padding=(1, 1)), shape=(2, 8, 8)), "pads the border.*other values"),
        (chain(Linear(w), Linear(w, delay=np.ones((9, 9), np.int64))), "have delays"),
        (chain(Conv2d(k), Linear(weights(rng, 4, 6)), shape=(2, 8, 8)), "no product of either kind"),
        (bottleneck, "160000 synapses in place of 800"),
        (late, "or late"),
    ]
    for before, reason in cases:
        found = obstacle(before, before["map0"], before["map1"])
        assert found is not None
        assert re.search(reason, found), found
        after, (record,) = run_passes(before, spikes(rng, 2, 5, *before.sample_shape[1:]), "fuse_linear")
        assert after == before
        assert not record.changed
    assert len(run_passes(bottleneck, spikes(rng, 2, 5, 400), "fuse_linear{growth=1000}")[0].nodes) == 5


def test_the_separable_convolution_of_meta_spikeformer_is_one_synapse_and_quantizes() -> None:
    parts = Parts()
    body = torch.nn.Sequential(_separable(parts, 3), parts.spiking())
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 4))
    x = (torch.rand(4, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    before = trace(lively(SpikingNetwork(body, head, 5)), x)
    convs = [n.name for n in before if isinstance(n.layer, Conv2d)]
    program = quantize(before, "loihi2", x.numpy())
    (record,) = [r for r in program.passes if r.name == "fuse_linear"]
    assert set(record.changed) == set(convs[-2:])
    assert record.differing <= record.explained
    assert convs[-2] not in program.nodes
    after, _ = run_passes(before, x.numpy())
    same_function(before, after, x.numpy())
