"""The ternary LIF against its equations, written out, and against Python's integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.ternary import IntegerTernaryLIF, TernaryLIF
from stepping import LOIHI, REGISTER, float_run, one_step, saturated, shifted, wrapped_once

resets = st.sampled_from(["hard", "soft", "none"])


@given(xs=st.lists(st.floats(-3, 3), min_size=1, max_size=15), reset=resets, strict=st.booleans())
def test_the_float_step_is_its_equation(xs: list[float], reset: str, strict: bool) -> None:
    model = TernaryLIF(0.75, 0.5, fire=">" if strict else ">=", reset=reset, v_reset=0.1, spike_value=2.0)  # type: ignore[arg-type]
    h, v, out = float_run(model, np.array(xs)[:, None])
    m = 0.0
    for t, x in enumerate(xs):
        m = 0.5 * m + x
        s = (m > 0.75) - (m < -0.75) if strict else (m >= 0.75) - (m <= -0.75)
        assert h[t, 0] == abs(m)
        m = {"hard": 0.1 if s else m, "soft": m - 0.75 * s, "none": m}[reset]
        assert (v[t, 0], out[t, 0]) == (m, 2.0 * s)


def test_it_is_odd_and_its_upper_half_is_a_lif() -> None:
    xs = np.random.default_rng(0).normal(size=(100, 6))
    _, v, out = float_run(TernaryLIF(0.5, 0.5, reset="soft"), xs)
    _, mirrored_v, mirrored = float_run(TernaryLIF(0.5, 0.5, reset="soft"), -xs)
    assert {-1.0, 0.0, 1.0} == set(out.ravel().tolist())
    assert (v == -mirrored_v).all()
    assert (out == -mirrored).all()
    positive = np.abs(xs)
    assert (float_run(TernaryLIF(0.5, 0.5), positive)[2] == float_run(LIF(0.5, 0.5), positive)[2]).all()


def test_a_threshold_that_is_not_positive_is_refused() -> None:
    for wrong in (TernaryLIF(0.0), TernaryLIF(np.inf), TernaryLIF(0.5, 1.5)):
        with pytest.raises(S2CError, match="ternary"):
            wrong.check((2,))


@given(
    v=st.integers(-REGISTER, REGISTER), a=st.integers(-(1 << 16), 1 << 16), theta=st.integers(1, 131071),
    decay=st.integers(0, 4096), bias=st.integers(-4095, 4095), reset=resets, strict=st.booleans(),
)  # fmt: skip
def test_the_integer_step_on_pythons_integers(v, a, theta, decay, bias, reset, strict) -> None:  # type: ignore[no-untyped-def]
    neuron = IntegerTernaryLIF(theta, decay, bias, 4, ">" if strict else ">=", reset, 33)
    new, out = one_step(neuron, {"u": 0, "v": v}, a)
    u = wrapped_once(a * 64)
    h = saturated(shifted(v * (4096 - decay), 12) + u + bias * 16)
    level = theta * 64
    s = (h > level) - (h < -level) if strict else (h >= level) - (h <= -level)
    after = {"hard": 33 if s else h, "soft": h - level * s, "none": h}[reset]
    assert (int(new["u"]), int(new["v"]), int(out)) == (u, after, s)


@given(
    unit=st.floats(1e-4, 5e-3), v=st.floats(-1, 1), x=st.floats(-1, 1), decay=st.floats(0, 1), gain=st.floats(0.2, 1)
)
def test_the_integer_step_is_the_float_step_to_the_decays_twelve_bits(unit, v, x, decay, gain) -> None:  # type: ignore[no-untyped-def]
    model = TernaryLIF(1e3, decay, gain)
    neuron = model.quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    membrane = unit * gain / 64
    held, a = round(v / membrane), round(x / unit)
    new, _ = one_step(dataclasses.replace(neuron, v_threshold=np.asarray(1 << 20)), {"u": 0, "v": held}, a)
    h = decay * held * membrane + gain * a * unit
    assert abs(int(new["v"]) * membrane - h) <= membrane + abs(held * membrane) * 2.0**-13 + 1e-9


@given(
    seed=st.integers(0, 10**6), reset=resets, rounding=st.sampled_from(["zero", "floor"]),
    low=st.integers(-2000, 0), high=st.integers(0, 2000),
)  # fmt: skip
def test_no_input_exceeds_the_bounds(seed, reset, rounding, low, high) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    wide = dataclasses.replace(LOIHI.arithmetic, voltage_bits=40, decay_rounding=rounding)
    neuron = IntegerTernaryLIF(
        rng.integers(5, 900, 5), rng.integers(0, 4097, 5), rng.integers(-50, 50, 5), 4, ">=", reset, 12
    )
    proved = neuron.bounds((low, high), wide, 8)
    state = {"u": np.zeros(5, np.int64), "v": np.zeros(5, np.int64)}
    for a in rng.choice([low, high, (low + high) // 2], (8, 5)):
        assert np.abs(dataclasses.replace(neuron, reset="none").step(dict(state), a, wide)[0]["v"]).max() <= proved.v
        state, _ = neuron.step(state, a, wide)
        assert np.abs(state["u"]).max() <= proved.u


@pytest.mark.parametrize(("fire", "spike"), [(">", 0), (">=", 1)])
def test_the_fire_test_at_the_thresholds_themselves(fire: str, spike: int) -> None:
    neuron = IntegerTernaryLIF(10, 0, 0, fire=fire)  # type: ignore[arg-type]
    for sign in (1, -1):
        _, out = one_step(neuron, {"u": 0, "v": 0}, sign * 10)
        assert int(out) == sign * spike
        _, _, spikes = float_run(TernaryLIF(0.5, fire=fire), [[sign * 0.5]])  # type: ignore[arg-type]
        assert spikes[0, 0] == sign * spike
