"""The comparison of two executions, on hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest

from snn2chip.errors import S2CError
from snn2chip.verify import Execution, compare, first_divergence


def _run(name: str, **layers: dict[str, np.ndarray]) -> Execution:
    return Execution(name, layers)


def test_the_earliest_step_names_the_layer_where_a_difference_began() -> None:
    zeros = np.zeros((2, 4, 3), dtype=np.int64)
    first, second = zeros.copy(), zeros.copy()
    first[1, 2, 0] = 7
    second[1, 1, 2] = -5
    truth = _run("a", one={"v": zeros}, two={"v": zeros})
    compared = compare(truth, _run("b", one={"v": first}, two={"v": second}))
    divergence = first_divergence(compared)
    assert divergence is not None
    assert (divergence.layer, divergence.sample, divergence.step, divergence.neuron) == ("two", 1, 1, (2,))
    assert (divergence.expected, divergence.found) == (0, -5)
    assert str(divergence) == "two: v is -5 instead of 0 (sample 1, step 1, neuron (2,))"
    assert [dict(layer.differing) for layer in compared] == [{"v": 1}, {"v": 1}]


def test_an_earlier_sample_comes_first_and_in_one_step_the_earlier_layer_and_the_current() -> None:
    zeros = np.zeros((2, 2, 1), dtype=np.int64)
    late, early, both = zeros.copy(), zeros.copy(), zeros.copy()
    late[0, 1], early[1, 0], both[0, 1] = 1, 1, 2
    truth = _run("a", one={"u": zeros, "v": zeros}, two={"u": zeros, "v": zeros})
    found = _run("b", one={"u": early, "v": late}, two={"u": both, "v": zeros})
    divergence = first_divergence(compare(truth, found))
    assert divergence is not None
    assert (divergence.layer, divergence.quantity, divergence.sample, divergence.step) == ("one", "v", 0, 1)
    same_step = first_divergence(compare(truth, _run("b", one={"u": both, "v": both}, two={"u": both, "v": both})))
    assert same_step is not None
    assert (same_step.layer, same_step.quantity) == ("one", "u")


def test_rates_and_agreement_of_a_hand_worked_case() -> None:
    # Three neurons over one sample of four steps: rates 1/4, 2/4, 0 against 2/4, 1/4, 1/4.
    a = np.array([[[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]])
    b = np.array([[[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]])
    (layer,) = compare(_run("a", n={"spikes": a}), _run("b", n={"spikes": b}))
    assert layer.spike_agreement == pytest.approx(9 / 12)
    assert layer.rate_expected == pytest.approx(3 / 12)
    assert layer.rate_found == pytest.approx(4 / 12)
    assert layer.rate_distance == pytest.approx((1 / 4 + 1 / 4 + 1 / 4) / 3)
    # Sorted: 0, 1/4, 2/4 against 1/4, 1/4, 2/4.
    assert layer.rate_emd == pytest.approx((1 / 4) / 3)


def test_signal_to_noise_of_the_membrane_in_the_expected_unit() -> None:
    v = np.array([[[3.0, -4.0]]])
    off = np.array([[[30, -35]]])
    (layer,) = compare(_run("a", n={"v": v}), _run("b", n={"v": off}), scales={"n": 0.1})
    # 25 over 0.5².
    assert layer.v_sqnr_db == pytest.approx(20.0)
    assert layer.equal, "membranes of different units are measured, not tested for equality"
    (same,) = compare(_run("a", n={"v": v}), _run("b", n={"v": v}))
    assert same.v_sqnr_db == float("inf")


def test_read_outs_are_compared_and_come_after_every_layer() -> None:
    v = np.zeros((1, 2, 1))
    a = Execution("a", {"n": {"v": v}}, np.array([[1, 2]]))
    b = Execution("b", {"n": {"v": v}}, np.array([[1, 3]]))
    compared = compare(a, b)
    assert [layer.name for layer in compared] == ["n", "outputs"]
    divergence = first_divergence(compared)
    assert divergence is not None
    assert str(divergence) == "outputs: read-out is 3 instead of 2 (sample 0, neuron (1,))"
    broken = Execution("b", {"n": {"v": v + np.array([[[0], [1]]])}}, b.outputs)
    cause = first_divergence(compare(a, broken))
    assert cause is not None
    assert cause.layer == "n"


def test_nothing_in_common_or_other_shapes_is_an_error() -> None:
    v = np.zeros((1, 2, 3))
    with pytest.raises(S2CError, match="no population to compare"):
        compare(_run("a", n={"v": v}), _run("b", m={"v": v}))
    with pytest.raises(S2CError, match="is missing"):
        compare(_run("a", n={"v": v}), _run("b", n={"v": v}), layers=["n", "m"])
    with pytest.raises(S2CError, match="different shapes"):
        compare(_run("a", n={"v": v}), _run("b", n={"v": v[:, :1]}))
    with pytest.raises(S2CError, match="recorded by both"):
        compare(_run("a", n={"v": v}), _run("b", n={"u": v}))
