"""Names, order, shapes and numbers of a network, and the messages when they are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from networks import graph, node, population, weights
from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Graph, Node, Source, in_order
from snn2chip.ir.layers import (
    Add,
    AvgPool,
    Concat,
    Conv2d,
    Flatten,
    Gather,
    Input,
    Linear,
    MatMul,
    MaxPool,
    Output,
    Permute,
    Readout,
    Reshape,
    windows,
)
from snn2chip.ir.schedule import depths, machine_delay
from snn2chip.ir.structure import decode, encode, same
from snn2chip.neurons.lif import LIF

RNG = np.random.default_rng(0)


def small(**changes: object) -> Graph:
    """conv, neuron, flatten, linear, neuron."""
    made = graph(
        (1, 4, 6),
        node("conv", Conv2d(weights(RNG, 2, 1, 3, 3), padding=(1, 1)), "x"),
        node("lif1", population(LIF(1.0, 0.9)), "conv"),
        node("flat", Flatten(), "lif1"),
        node("fc", Linear(weights(RNG, 3, 48)), "flat", source=Source("net.fc", "model.py", 12)),
        node("lif2", population(LIF(1.0, 0.9)), "fc"),
    )
    return dataclasses.replace(made, **changes)


def replaced(network: Graph, changed: Node) -> Graph:
    return network.with_nodes([changed if n.name == changed.name else n for n in network])


def test_shapes_follow_the_layers() -> None:
    assert small().shapes() == {
        "x": (1, 4, 6),
        "conv": (2, 4, 6),
        "lif1": (2, 4, 6),
        "flat": (48,),
        "fc": (3,),
        "lif2": (3,),
        "readout": (3,),
        "output": (3,),
    }


def test_the_text_names_every_layer_its_shape_and_what_it_reads() -> None:
    lines = str(small()).splitlines()
    assert lines[0] == "Graph T=5 input=steps"
    assert [line.split()[0] for line in lines[1:]] == list(small().nodes)
    assert "48→3" in lines[5]
    assert lines[5].endswith("← flat")


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (Linear(np.ones((3, 40), np.float32)), "40 inputs is fed a tensor of shape"),
        (Linear(np.full((3, 48), np.nan, np.float32)), "weight holds 144 of 144 values that are NaN"),
    ],
)
def test_a_wrong_layer_is_named_with_the_users_module_and_line(layer: Linear, what: str) -> None:
    wrong = replaced(small(), dataclasses.replace(small()["fc"], layer=layer))
    with pytest.raises(S2CError, match=what) as caught:
        wrong.verify()
    assert "fc" in caught.value.where
    assert "net.fc at model.py:12" in caught.value.where


def test_neurons_refuse_parameters_that_fit_no_population() -> None:
    wrong = replaced(small(), dataclasses.replace(small()["lif2"], layer=population(LIF(np.ones(4), 0.9))))
    with pytest.raises(S2CError, match=r"v_threshold has shape \(4,\), which does not fit \(3,\)"):
        wrong.verify()
    wrong = replaced(small(), dataclasses.replace(small()["lif2"], layer=population(LIF(1.0, 1.5))))
    with pytest.raises(S2CError, match=r"decay is 1\.5"):
        wrong.verify()


def test_a_cycle_needs_a_delay() -> None:
    loop = [
        node("x", Input((3,))),
        node("a", Add(), "x", "b"),
        node("b", population(LIF(1.0, 0.5)), "a"),
        node("output", Output(), "b"),
    ]
    with pytest.raises(S2CError, match="cycle without a delay"):
        in_order(loop)
    back = Edge("b", delay=1, recurrent=True)
    fixed = [dataclasses.replace(loop[1], inputs=(Edge("x"), back)) if n.name == "a" else n for n in loop]
    assert list(in_order(fixed)) == ["x", "a", "b", "output"]
    without_delay = dataclasses.replace(back, delay=0)
    broken = [dataclasses.replace(loop[1], inputs=(Edge("x"), without_delay)) if n.name == "a" else n for n in loop]
    with pytest.raises(S2CError, match="no delay"):
        Graph(in_order(broken), 4, "steps").verify()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"time_steps": 0}, "time_steps is 0"),
        ({"time_steps": None, "coding": "direct"}, "time_steps is missing"),
    ],
)
def test_a_sample_needs_time_steps(change: dict[str, object], what: str) -> None:
    with pytest.raises(S2CError, match=what):
        small(**change).verify()


def test_one_output_and_known_sources() -> None:
    no_output = {name: n for name, n in small().nodes.items() if name != "output"}
    with pytest.raises(S2CError, match="one Output; this one has 0"):
        Graph(no_output, 4, "steps").verify()
    stray = replaced(small(), dataclasses.replace(small()["lif2"], inputs=(Edge("fc"),)))
    stray = dataclasses.replace(stray, nodes={**stray.nodes, "lif2": node("lif2", stray["lif2"].layer, "nowhere")})
    with pytest.raises(S2CError, match="'nowhere', which does not exist"):
        stray.verify()


def test_a_readout_exists_once_per_sample() -> None:
    nodes = [*small(), node("more", Flatten(), "readout")]
    with pytest.raises(S2CError, match="exists once per sample"):
        small().with_nodes(nodes).verify()


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_convolution_shapes_are_torchs(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> None:
    try:
        ours = windows(size, kernel, stride, padding, dilation)
    except S2CError:
        with pytest.raises(RuntimeError):
            torch.nn.functional.conv2d(
                torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel), None, stride, padding, dilation
            )
        return
    theirs = torch.nn.functional.conv2d(
        torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel), None, stride, padding, dilation
    )
    assert ours == tuple(theirs.shape[2:])


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.booleans())
def test_pooling_shapes_are_torchs(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> None:
    assume(padding <= kernel // 2)
    assume(size + 2 * padding >= kernel)
    layer = MaxPool((kernel,) * 2, (stride,) * 2, (padding,) * 2, ceil)
    theirs = torch.nn.functional.max_pool2d(torch.zeros(1, 1, size, size), kernel, stride, padding, ceil_mode=ceil)
    assert layer.output_shape((1, size, size)) == tuple(theirs.shape[1:])
    average = AvgPool((kernel,) * 2, (stride,) * 2, (padding,) * 2, ceil, count_include_pad=False)
    ones = torch.nn.functional.avg_pool2d(torch.ones(1, 1, size, size), kernel, stride, padding, ceil, True)
    sums = torch.nn.functional.avg_pool2d(
        torch.ones(1, 1, size, size), kernel, stride, padding, ceil, divisor_override=1
    )
    included = dataclasses.replace(average, count_include_pad=True)
    np.testing.assert_allclose(sums[0, 0].numpy() / included.divisors((1, size, size)), ones[0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "inputs", "shape"),
    [
        (Flatten(1, 2), [(2, 3, 4)], (2, 12)),
        (Reshape((6, 4)), [(2, 3, 4)], (6, 4)),
        (Permute((2, 0, 1)), [(2, 3, 4)], (4, 2, 3)),
        (Concat(1), [(2, 3), (2, 5)], (2, 8)),
        (Gather(np.array([[5, -1], [0, 0]])), [(2, 3)], (2, 2)),
        (MatMul(), [(2, 5, 3), (2, 3, 7)], (2, 5, 7)),
    ],
)
def test_shape_rules(layer: Flatten, inputs: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    assert layer.output_shape(*inputs) == shape


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (Reshape((5, 5)), [(2, 3, 4)]),
        (Permute((0, 0, 1)), [(2, 3, 4)]),
        (Concat(0), [(2, 3), (2, 5)]),
        (Gather(np.array([6])), [(2, 3)]),
        (Gather(np.array([0, -2])), [(2, 3)]),
        (MatMul(), [(2, 5, 3), (2, 4, 7)]),
        (Add(), [(2,), (3,)]),
        (Conv2d(np.ones((1, 2, 3, 3))), [(3, 8, 8)]),
        (Conv2d(np.ones((1, 2, 3, 3))), [(2, 2, 8)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(layer: Flatten, inputs: list[tuple[int, ...]]) -> None:
    with pytest.raises(S2CError):
        layer.output_shape(*inputs)


def test_structures_survive_the_codec_and_compare_by_content() -> None:
    original = small()
    arrays: dict[str, np.ndarray] = {}
    restored = decode(encode(original, arrays), arrays)
    assert restored == original
    assert same(restored["conv"].layer.weight, original["conv"].layer.weight)
    changed = original["fc"].layer.weight.copy()
    changed[0, 0] += 1
    assert replaced(original, dataclasses.replace(original["fc"], layer=Linear(changed))) != original
    with pytest.raises(S2CError, match="structure named 'Unheard'"):
        decode({"struct": "Unheard", "fields": {}}, {})


def test_depth_counts_synapses_and_recurrence_does_not_add() -> None:
    back = Edge("lif1", delay=1, recurrent=True)
    network = graph(
        (4,),
        node("fc1", Linear(weights(RNG, 4, 4)), "x"),
        node("rec", Linear(weights(RNG, 4, 4)), back),
        node("lif1", population(LIF(1.0, 0.9)), "fc1", "rec"),
        node("fc2", Linear(weights(RNG, 4, 4)), "lif1"),
        node("skip", Linear(weights(RNG, 4, 4)), "x"),
        node("lif2", population(LIF(1.0, 0.9)), "fc2", "skip"),
    )
    depth = depths(network)
    assert {name: depth[name] for name in ("x", "fc1", "rec", "lif1", "fc2", "skip", "lif2")} == {
        "x": 0,
        "fc1": 1,
        "rec": 1,
        "lif1": 1,
        "fc2": 2,
        "skip": 1,
        "lif2": 2,
    }
    assert machine_delay(back, network["rec"], depth) == 1
    # The shorter branch waits one step more, so that both meet.
    assert machine_delay(Edge("skip"), network["lif2"], depth) == 1


def test_static_is_what_only_a_direct_coded_input_feeds() -> None:
    assert small().static() == frozenset()
    assert small(coding="direct").static() == {"x", "conv"}


def test_readout_is_described() -> None:
    assert Readout("mean").describe() == "mean over T"
