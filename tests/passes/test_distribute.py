"""Sums that are normalized, weighed or passed on end in populations: what reads a sum gets synapses of its own."""

from __future__ import annotations

import numpy as np
import pytest

from networks import batch_norm, graph, node, population, spikes, weights
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Add, AvgPool, Conv2d, Flatten, Layer, Linear, Scale
from snn2chip.neurons.lif import LIF
from snn2chip.passes import run_passes
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate

FIRES = LIF(0.6, 0.6, fire=">")


def conv(rng: np.random.Generator, out: int, channels: int, kernel: int = 3, stride: int = 1) -> Conv2d:
    weight = weights(rng, out, channels, kernel, kernel, gain=1.5)
    return Conv2d(weight, weights(rng, out), (stride,) * 2, (kernel // 2,) * 2)


def deployed(before: Graph, x: np.ndarray) -> Graph:
    """The graph after all passes: the same spikes on data the proof did not see, and a Program close to it."""
    after, _ = run_passes(before, x[:4])
    a, b = simulate(before, x, record="spikes"), simulate(after, x, record="spikes")
    assert set(a.recordings) == set(b.recordings)
    for name in a.recordings:
        assert 0.02 < a[name].spikes.mean() < 0.98
        np.testing.assert_array_equal(a[name].spikes, b[name].spikes)
    np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-4, atol=1e-4)
    found = simulate(quantize(before, "loihi2", x[:4]), x).outputs
    assert np.corrcoef(found.ravel(), a.outputs.ravel())[0, 1] > 0.95
    return after


@pytest.mark.parametrize("kind", ["batch norm", "factor", "linear"])
def test_what_comes_behind_a_recurrent_sum_goes_into_both_synapses(kind: str) -> None:
    rng = np.random.default_rng(0)
    behind: Layer = {
        "batch norm": batch_norm(rng, 6),
        "factor": Scale(np.float32(0.7)),
        "linear": Linear(weights(rng, 6, 6, gain=2), weights(rng, 6)),
    }[kind]
    before = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9, gain=2), weights(rng, 6)), "x"),
        node("rec", Linear(weights(rng, 6, 6), weights(rng, 6)), Edge("lif", 1, recurrent=True)),
        node("sum", Add(), "fc", "rec"),
        node("behind", behind, "sum"),
        node("lif", population(FIRES), "behind"),
        node("head", Linear(weights(rng, 3, 6)), "lif"),
    )
    after = deployed(before, spikes(rng, 16, 5, 9))
    fed = [after[edge.source] for edge in after["lif"].inputs]
    assert sorted(str(synapse.inputs[0]) for synapse in fed) == ["lif[t-1]", "x"]


@pytest.mark.parametrize("shortcut", ["conv", "spikes"])
def test_a_batch_norm_behind_a_residual_sum_goes_into_its_branches(shortcut: str) -> None:
    rng = np.random.default_rng(1)
    second = [node("short", conv(rng, 4, 4, 1), "lif0")] if shortcut == "conv" else []
    before = graph(
        (2, 6, 6),
        node("stem", conv(rng, 4, 2), "x"),
        node("lif0", population(FIRES), "stem"),
        node("conv", conv(rng, 4, 4), "lif0"),
        *second,
        node("sum", Add(), "conv", second[-1].name if second else "lif0"),
        node("bn", batch_norm(rng, 4), "sum"),
        node("lif", population(FIRES), "bn"),
    )
    after = deployed(before, spikes(rng, 16, 5, 2, 6, 6))
    assert len(after["lif"].inputs) == 2
    assert not {"sum", "bn"} & set(after.nodes)


def membrane_resnet(rng: np.random.Generator) -> Graph:
    """Membrane shortcuts (Hu et al., MS-ResNet): the stream is a sum, passed on as it is or by a strided 1×1 conv."""

    def block(i: int, before: str, out: int, channels: int, stride: int = 1) -> list[Node]:
        return [
            node(f"lif{i}", population(FIRES), before),
            node(f"conv{i}", conv(rng, out, channels, stride=stride), f"lif{i}"),
            node(f"bn{i}", batch_norm(rng, out), f"conv{i}"),
        ]

    return graph(
        (2, 6, 6),
        node("stem", conv(rng, 4, 2), "x"),
        node("norm", batch_norm(rng, 4), "stem"),
        *block(1, "norm", 4, 4),
        node("sum1", Add(), "norm", "bn1"),
        *block(2, "sum1", 4, 4),
        node("sum2", Add(), "sum1", "bn2"),
        *block(3, "sum2", 8, 4, stride=2),
        node("down", conv(rng, 8, 4, 1, stride=2), "sum2"),
        node("down_bn", batch_norm(rng, 8), "down"),
        node("sum3", Add(), "down_bn", "bn3"),
        node("lif4", population(FIRES), "sum3"),
        node("pool", AvgPool((3, 3), (3, 3), (0, 0)), "lif4"),
        node("flat", Flatten(), "pool"),
        node("fc", Linear(weights(rng, 5, 8)), "flat"),
    )


def test_a_convolution_of_a_membrane_shortcut_is_multiplied_out() -> None:
    rng = np.random.default_rng(2)
    after = deployed(membrane_resnet(rng), spikes(rng, 12, 5, 2, 6, 6))
    # The stem's map and those of both blocks before it, each by a 3×3 convolution with the 1×1 one multiplied in.
    fed = [after[edge.source] for edge in after["lif4"].inputs]
    assert sorted(synapse.inputs[0].source for synapse in fed) == ["lif1", "lif2", "lif3", "x"]
    assert {(synapse.layer.kernel, synapse.layer.stride) for synapse in fed} == {((3, 3), (2, 2))}


def test_sums_of_spikes_stay_sums() -> None:
    rng = np.random.default_rng(4)
    before = graph(
        (2, 6, 6),
        node("stem", conv(rng, 4, 2), "x"),
        node("lif0", population(FIRES), "stem"),
        node("conv0", conv(rng, 4, 4), "lif0"),
        node("lif1", population(FIRES), "conv0"),
        node("sum", Add(), "lif0", "lif1"),
        node("conv1", conv(rng, 4, 4), "sum"),
        node("lif2", population(FIRES), "conv1"),
        node("conv2", conv(rng, 4, 4), "sum"),
        node("lif3", population(FIRES), "conv2", "lif2"),
    )
    after = deployed(before, spikes(rng, 12, 5, 2, 6, 6))
    assert isinstance(after["sum"].layer, Add)
