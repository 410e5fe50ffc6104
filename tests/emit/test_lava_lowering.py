"""How a Program becomes Lava processes: matrices, mantissas, native or custom neurons, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from snn2chip.emit.lava import describe
from snn2chip.emit.lava.matrices import mantissas, matrix_of
from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import simulate
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.verify import Execution, compare, first_divergence
from snn2chip.verify.lava import project, shim
from tests.networks import node, program

A = np.asarray
LIF = IntegerLIF(A(100), A(0), A(4096), A(0))


def _matrix_cases() -> list[tuple[Any, tuple[int, ...]]]:
    rng = np.random.default_rng(0)

    def w(*shape: int) -> np.ndarray:
        return rng.integers(-9, 10, shape)

    return [
        (L.Linear(w(3, 5)), (5,)),
        (L.Linear(w(3, 5)), (2, 4, 5)),
        (L.Conv1d(w(4, 3, 2), stride=(2,), padding=(1,)), (3, 7)),
        (L.Conv2d(w(4, 2, 3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 6, 5)),
        (L.Conv2d(w(6, 1, 2, 2), groups=3), (3, 4, 4)),
        (L.Conv2d(w(4, 2, 2, 2), groups=2, padding=(1, 0)), (4, 4, 3)),
        (L.SumPool((2, 3), (1, 2), (1, 1), False), (2, 4, 5)),
        (L.SumPool((2, 2), (2, 2), (0, 0), True), (2, 5, 5)),
        (L.Scale(w(3, 1, 1)), (3, 2, 2)),
        (L.Flatten(1), (2, 3, 4)),
        (L.Reshape((4, 6)), (2, 3, 4)),
        (L.Permute((2, 0, 1)), (2, 3, 4)),
        (L.Gather(rng.integers(-1, 24, (5, 4))), (2, 3, 4)),
    ]


@pytest.mark.parametrize(("layer", "shape"), _matrix_cases(), ids=lambda v: getattr(v, "kind", str(v)))
def test_a_linear_layers_matrix_computes_what_the_engine_computes(layer: L.Layer, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).integers(-9, 10, (3, *shape))
    matrix = matrix_of(layer, (shape,))
    assert matrix is not None
    expected = apply(layer, [x], NumpyOps()).reshape(3, -1)
    np.testing.assert_array_equal(x.reshape(3, -1) @ matrix.dense(matrix.weights).T, expected)


def test_products_of_matrices_and_concatenation() -> None:
    rng = np.random.default_rng(2)
    pool, linear = L.SumPool((2, 2), (1, 1), (1, 1)), L.Linear(rng.integers(-9, 10, (3, 2 * 2 * 5 * 4)))
    join = L.Concat(0)
    x = rng.integers(-3, 4, (2, 4, 3))
    pooled = apply(pool, [x[None]], NumpyOps())
    joined = apply(join, [pooled, 0 * pooled], NumpyOps())
    expected = apply(linear, [joined.reshape(1, -1)], NumpyOps())[0]
    first = matrix_of(pool, ((2, 4, 3),))
    second = matrix_of(join, ((2, 5, 4), (2, 5, 4)), 0)
    third = matrix_of(linear, ((80,),))
    assert first is not None
    assert second is not None
    assert third is not None
    total = third.after(second).after(first)
    np.testing.assert_array_equal(total.dense(total.weights) @ x.ravel(), expected)


def test_synapses_with_several_delays_of_one_pair_become_several_processes() -> None:
    linear = L.Linear(A([[2, 4]]), delay=A([[0, 3]]))
    join = matrix_of(L.Concat(0), ((1,), (1,)), 0)
    delayed = matrix_of(linear, ((2,),))
    twice = matrix_of(L.Linear(A([[1], [1]])), ((1,),))
    assert join is not None
    assert delayed is not None
    assert twice is not None
    parts = delayed.after(twice).layers()
    assert [(p.weights.tolist(), p.delays.tolist()) for p in parts] == [([2], [0]), ([4], [3])]


@given(
    npst.arrays(np.int64, st.integers(1, 6), elements=st.integers(-(2**20), 2**20)),
    st.integers(0, 7),
    st.sampled_from([1, 2, 8, 64]),
)
def test_lava_keeps_every_mantissa_and_their_sum_is_the_weight(base: np.ndarray, exponent: int, factor: int) -> None:
    if not shim.installed():
        pytest.skip("lava-nc is not installed")
    shim.prepare()
    from lava.utils.weightutils import SignMode, clip_weights, truncate_weights

    weights = base * factor
    total = np.zeros_like(weights)
    for mantissa, exp, mode in mantissas(weights, exponent):
        kept = truncate_weights(clip_weights(mantissa, SignMode[mode], num_bits=8), SignMode[mode], 8)
        np.testing.assert_array_equal(kept, mantissa)
        total += mantissa << exp if exp >= 0 else mantissa >> -exp
    np.testing.assert_array_equal(total, weights)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=6), st.integers(0, 7))
def test_a_legal_weight_is_one_synapse_with_the_formats_exponent(mantissa: list[int], exponent: int) -> None:
    ((kept, exp, mode),) = mantissas(2 * A(mantissa) << exponent, exponent)
    assert (kept.tolist(), exp, mode) == ([2 * m for m in mantissa], exponent, "MIXED")


def _with(model: IntegerLIF, *, steps: int = 5, target: str = "loihi2", weight: int = 2) -> dict[str, Any]:
    net = program(
        (3,), node("w", L.Linear(np.full((2, 3), weight)), "x"), node("n", L.Neuron(model), "w"), time_steps=steps
    )
    return describe(dataclasses.replace(net, target=load_target(target))).network["populations"]["n"]


@pytest.mark.parametrize(
    ("changes", "threshold"),
    [
        ({}, 100),
        ({"decay_v": A(77), "decay_u": A(1000), "bias": A(-3)}, 100),
        ({"fire": ">="}, 99),
        ({"fire": ">=", "bias": A(64), "bias_exp": 0}, 99),
        ({"fire": ">=", "decay_v": A(4096)}, 99),
        ({"fire": ">=", "decay_u": A(0)}, 99),
        ({"reset_timing": "same", "v_reset": A(0), "bias_u": A(0)}, 100),
        ({"v_threshold": None}, 131071),
    ],
)
def test_neurons_that_lavas_lif_computes_exactly(changes: dict[str, Any], threshold: int) -> None:
    entry = _with(dataclasses.replace(LIF, **changes))
    assert (entry["process"], entry["parameters"]["vth"]) == ("LIFReset", threshold)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"reset": "soft"}, {}),
        ({"reset": "none"}, {}),
        ({"reset_timing": "gate"}, {}),
        ({"reset_timing": "next"}, {}),
        ({"v_reset": A(5)}, {}),
        ({"v_start": A(5)}, {}),
        ({"bias_u": A(5)}, {}),
        ({"bias": A(1 << 15), "bias_exp": 0, "v_start": A(1)}, {}),
        ({"bias": A(32769), "bias_exp": 0}, {}),
        ({"fire": ">=", "decay_v": A(1)}, {}),
        ({"fire": ">=", "decay_u": A(1)}, {}),
        ({"fire": ">=", "bias": A(63), "bias_exp": 0}, {}),
        # The membrane may saturate off the threshold's grid, or pass the largest threshold.
        ({"fire": ">="}, {"weight": -254, "steps": 200}),
        ({"v_threshold": None}, {"weight": 254, "steps": 200}),
    ],
)
def test_neurons_that_need_the_custom_process(changes: dict[str, Any], options: dict[str, Any]) -> None:
    entry = _with(dataclasses.replace(LIF, **changes), **options)
    assert entry["process"] == "IntegerNeuron"
    assert entry["reason"]


def test_a_current_that_wraps_otherwise_than_lavas_is_native_only_where_it_cannot_wrap() -> None:
    integrating = dataclasses.replace(LIF, decay_u=A(0))
    assert _with(integrating, target="loihi1")["process"] == "LIFReset"
    assert _with(integrating, target="loihi1", weight=254, steps=200)["process"] == "IntegerNeuron"
    assert _with(integrating, target="loihi2", weight=254, steps=200)["process"] == "LIFReset"


def _dense(name: str, *sources: Any, out: int = 2, width: int = 2, **options: Any) -> Any:
    return node(name, L.Linear(np.full((out, width), 2)), *sources, **options)


def test_a_shortcut_waits_for_the_longer_branch() -> None:
    net = program(
        (2,),
        _dense("a", "x"),
        node("n1", L.Neuron(LIF), "a"),
        _dense("b", "n1"),
        node("n2", L.Neuron(LIF), "b"),
        _dense("c", "n2"),
        _dense("short", "n1"),
        node("n3", L.Neuron(LIF), "c", "short"),
    )
    network = describe(net).network
    synapses = {entry["name"]: entry for entry in network["synapses"]}
    assert synapses["short"]["process"] == "DelayDense"
    assert synapses["short"]["parameters"]["max_delay"] == 1
    assert synapses["c"]["process"] == "Dense"
    # Waiting is no delay in the sample's clock: nothing reaches the next sample, and native neurons do.
    assert network["interval"] == net.time_steps
    assert {entry["process"] for entry in network["populations"].values()} == {"LIFReset"}


def test_convolutions_that_lavas_conv_cannot_hold_become_sparse_matrices() -> None:
    def process(conv: L.Conv2d, shape: tuple[int, ...]) -> str:
        net = program(shape, node("c", conv, "x"), node("n", L.Neuron(LIF), "c"))
        return str(describe(net).network["synapses"][0]["process"])

    assert process(L.Conv2d(np.full((127, 1, 1, 1), 2), groups=127), (127, 2, 2)) == "Conv"
    assert process(L.Conv2d(np.full((128, 1, 1, 1), 2), groups=128), (128, 2, 2)) == "Sparse"
    # Lava's Conv wraps the sum at 24 bits, its Dense and Sparse do not.
    assert process(L.Conv2d(np.full((1, 1, 1, 1), (1 << 23) - 1)), (1, 2, 2)) == "Conv"
    assert process(L.Conv2d(np.full((1, 1, 1, 1), 1 << 23)), (1, 2, 2)) == "Sparse"


def test_what_lava_cannot_do_is_refused_by_name() -> None:
    def refused(*nodes: Any, shape: tuple[int, ...] = (2,)) -> str:
        with pytest.raises(S2CError) as caught:
            describe(program(shape, *nodes))
        assert caught.value.where
        return f"{caught.value.where}: {caught.value.what} {caught.value.why} {caught.value.fix}"

    neuron = L.Neuron(LIF)
    pool = node("pool", L.MaxPool((2, 2), (2, 2), (0, 0)), "n1")
    first = (node("c", L.Conv2d(np.full((1, 1, 1, 1), 2)), "x"), node("n1", neuron, "c"))
    conv2 = node("c2", L.Conv2d(np.full((1, 1, 1, 1), 2)), "pool")
    assert "lower_maxpool" in refused(*first, pool, conv2, node("n2", neuron, "c2"), shape=(1, 4, 4))
    assert "a feeds b without a population" in refused(_dense("a", "x"), _dense("b", "a"), node("n", neuron, "b"))
    biased = node("a", L.Linear(np.full((2, 2), 2), A([1, 0])), "x")
    assert "no bias of its own" in refused(biased, node("n", neuron, "a"))
    ring = (
        _dense("a", "x"),
        node("n1", neuron, "a", "back"),
        _dense("b", "n1"),
        node("n2", neuron, "b"),
        _dense("back", Edge("n2", delay=1, recurrent=True)),
    )
    assert "delays of k steps" in refused(*ring)
    waits = node("a", L.Linear(np.full((2, 2), 2), None, np.full((2, 2), 64)), "x")
    assert "at most 63" in refused(waits, node("n", neuron, "a"))
    doubled = node("s", L.Scale(A(2)), "x")
    assert "passes no synapse" in refused(doubled, node("n", neuron, "s"))
    wide = node("a", L.Linear(np.full((2, 2), 1 << 30)), "x")
    assert "32-bit messages" in refused(wide, node("n", neuron, "a"))


def test_a_cycle_through_two_populations_with_two_steps_of_delay_is_taken() -> None:
    net = program(
        (2,),
        _dense("a", "x"),
        node("n1", L.Neuron(LIF), "a", "back"),
        _dense("b", "n1"),
        node("n2", L.Neuron(LIF), "b"),
        _dense("back", Edge("n2", delay=2, recurrent=True)),
    )
    assert describe(net).network["interval"] == net.time_steps + 2


def test_without_a_number_of_steps_it_has_to_be_given() -> None:
    net = dataclasses.replace(program((2,), _dense("a", "x"), node("n", L.Neuron(LIF), "a")), time_steps=None)
    with pytest.raises(S2CError, match="how many steps"):
        describe(net)
    assert describe(net, time_steps=9).network["interval"] == 9


def test_the_interval_is_rounded_up_to_a_power_of_two_only_when_asked() -> None:
    net = program((2,), _dense("a", "x"), node("n", L.Neuron(LIF), "a"), time_steps=5)
    assert describe(net).network["interval"] == 5
    assert describe(net, power_of_two=True).network["interval"] == 8
    assert describe(dataclasses.replace(net, time_steps=8), power_of_two=True).network["interval"] == 8


@pytest.mark.skipif(not shim.installed(), reason="lava-nc is not installed")
def test_membranes_currents_integrators_and_bare_connections_travel_between_populations() -> None:
    rng = np.random.default_rng(5)
    soft = dataclasses.replace(LIF, reset="soft", v_threshold=A(20))
    integrator = dataclasses.replace(LIF, v_threshold=None, decay_v=A(900), decay_u=A(3000))
    eyes = 2 * np.eye(3, dtype=np.int64)
    net = program(
        (4,),
        node("a", L.Linear(2 * rng.integers(-9, 30, (3, 4))), "x"),
        node("n1", L.Neuron(soft), "a"),
        node("from v", L.Linear(2 * rng.integers(-3, 4, (3, 3))), Edge("n1", port="v")),
        node("from u", L.Linear(eyes), Edge("n1", port="u")),
        node("li", L.Neuron(integrator), "from v", "from u"),
        node("from li", L.Linear(eyes), "li"),
        # n1 is two steps away from n2, so its bare connection waits; n2 and n3 are in step.
        node("n2", L.Neuron(dataclasses.replace(LIF, v_threshold=A(3000))), "from li", "n1"),
        node("n3", L.Neuron(dataclasses.replace(LIF, v_threshold=A(1))), "n2"),
    )
    description = describe(net)
    kinds = {entry["name"]: entry["process"] for entry in description.network["synapses"]}
    assert kinds["n1 to n2"] == "DelayDense"
    assert None in kinds.values()
    x = rng.integers(0, 2, (3, 5, 4))
    result = simulate(net, x, record=("u", "v", "spikes"))
    assert all(result[name].spikes.any() for name in ("n1", "n2", "n3"))
    compared = compare(Execution.of("reference", result), project.in_process(net, x))
    assert [layer.name for layer in compared] == ["n1", "li", "n2", "n3", "outputs"]
    assert all(layer.equal for layer in compared), str(first_divergence(compared))
