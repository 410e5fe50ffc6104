"""A LIF with a factor and an offset per step: equations by hand, and its integers against Python's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.neurons.per_step import IntegerPerStepLIF, PerStepLIF
from stepping import LOIHI, REGISTER, float_run, integer_run, saturated, shifted

THETA = 64


def test_the_equations_by_hand() -> None:
    model = PerStepLIF(LIF(1.0, 0.5, reset="soft"), [np.ones(()), np.asarray(2.0)], [np.zeros(()), np.asarray(-0.1)])
    h, v, spikes = float_run(model, [[0.8], [0.5], [0.5], [0.0]])
    # 0.8; 0.4 + 2·0.5 − 0.1, fires; 0.15 + 0.9, fires, the last step's factor being kept; 0.025 − 0.1.
    np.testing.assert_allclose(h[:, 0], [0.8, 1.3, 1.05, -0.075])
    np.testing.assert_allclose(v[:, 0], [0.8, 0.3, 0.05, -0.075])
    np.testing.assert_array_equal(spikes[:, 0], [0, 1, 1, 0])
    equal = PerStepLIF(LIF(1.0, 0.5), [np.ones(())] * 2, [np.zeros(())] * 2)
    xs = np.random.default_rng(0).normal(1, 1, (6, 9))
    for one, two in zip(float_run(equal, xs), float_run(equal.lif, xs), strict=True):
        np.testing.assert_array_equal(one, two)


@given(
    sums=st.lists(st.integers(-(1 << 14), 1 << 14), min_size=5, max_size=5),
    factors=st.lists(st.integers(-(1 << 13), 1 << 13), min_size=3, max_size=3),
    offsets=st.lists(st.integers(-(1 << 10), 1 << 10), min_size=3, max_size=3),
    bias=st.integers(-50, 50),
    decay=st.integers(0, 4096),
)
def test_the_integer_step_on_pythons_integers(sums, factors, offsets, bias, decay) -> None:  # type: ignore[no-untyped-def]
    lif = IntegerLIF(THETA, decay, 4096, 0, fire=">=", reset="soft")
    neuron = IntegerPerStepLIF(lif, factors, offsets, 12, bias, 3)
    states, out = integer_run(neuron, np.asarray(sums)[:, None])
    v, worst = 0, neuron.bounds((min(sums), max(sums)), LOIHI.arithmetic, len(sums))
    for t, a in enumerate(sums):
        k = min(t, 2)
        fed = shifted((a * 64 + bias * 8) * factors[k], 12) + offsets[k]
        if worst.u <= REGISTER:
            assert states["u"][t, 0] == fed
        v = saturated(shifted(v * (4096 - decay), 12) + int(states["u"][t, 0]))
        fired = v >= THETA * 64
        v -= THETA * 64 * fired
        assert (states["v"][t, 0], out[t, 0]) == (v, fired)
        assert abs(fed) <= worst.u
        assert worst.v >= REGISTER or abs(v) <= worst.v


def test_the_integers_follow_the_float_neuron() -> None:
    rng = np.random.default_rng(1)
    factors, offsets = rng.uniform(0.5, 1.5, (2, 6, 40))
    model = PerStepLIF(LIF(1.0, 0.75), tuple(factors), tuple(offsets - 1))
    unit = 1 / 256
    bias = rng.normal(0, 0.1, 40)
    neuron = model.quantized(bias, unit, LOIHI.limits, LOIHI.arithmetic)
    assert neuron.representable(LOIHI.limits, LOIHI.arithmetic)
    assert model.rounding_error(neuron, unit, LOIHI.arithmetic) <= 0.5 / 4096
    sums = rng.integers(-100, 300, (6, 40))
    _, v, spikes = float_run(model, sums * unit + bias)
    states, found = integer_run(neuron, sums)
    np.testing.assert_array_equal(found, spikes)
    np.testing.assert_allclose(states["v"] * unit / 64, v, atol=2e-3)
    nearest = neuron.nearest_lif(LOIHI.arithmetic)
    real = (bias + (offsets - 1).mean(axis=0)) / unit * 64
    np.testing.assert_allclose(nearest.membrane_bias, real, atol=8)


def test_what_does_not_fit_is_refused() -> None:
    model = PerStepLIF(LIF(1.0, 0.5), [np.ones(3)] * 2, [np.zeros(())] * 2)
    model.check((3,))
    with pytest.raises(S2CError, match="factor of step 0 has shape"):
        model.check((4,))
    with pytest.raises(S2CError, match="2 factors and 1 offsets"):
        dataclasses.replace(model, offset=(np.zeros(()),)).check((3,))
