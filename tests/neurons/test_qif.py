"""The quadratic neuron against its equations, written out, and against Python's integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.neurons.qif import QIF, IntegerQIF
from stepping import LOIHI, REGISTER, float_run, integer_run, one_step, saturated, shifted, wrapped_once

drives = st.lists(st.floats(-3, 3), min_size=1, max_size=12)
registers = st.integers(-REGISTER, REGISTER)


@given(xs=drives, carries=st.booleans(), reset=st.sampled_from(["hard", "soft"]), fire=st.sampled_from([">", ">="]))
def test_the_float_step_is_the_papers_equations(xs: list[float], carries: bool, reset: str, fire: str) -> None:
    a, rest, critical, theta = 0.25, -0.125, 0.5, 0.5
    model = QIF(theta, a, rest, critical, carries, fire=fire, reset=reset)  # type: ignore[arg-type]
    h, v, spikes = float_run(model, np.array(xs)[:, None])
    u = 0.0
    for t, x in enumerate(xs):
        new = a * (u - rest) * (u - critical)
        new = u + new + x if carries else new + x
        o = new > theta if fire == ">" else new >= theta
        u = new if not o else rest if reset == "hard" else new - theta
        assert (h[t, 0], v[t, 0], spikes[t, 0]) == (new, u, o)


def test_the_papers_defaults_and_what_they_do_around_zero() -> None:
    model = QIF(0.5)
    assert (model.a, model.v_rest, model.v_critical, model.reset_to) == (0.25, 0, 0.5, 0)
    # On [0, 0.5] the map without input stays within [-0.0156, 0]: a neuron almost without memory.
    u = np.linspace(0, 0.5, 1001)
    h, _, _ = float_run(dataclasses.replace(model, v_start=u, v_threshold=9.0), np.zeros((1, 1001)))
    assert h.min() == pytest.approx(-1 / 64)
    assert h.max() == 0


@pytest.mark.parametrize(
    ("start", "next_h", "spike"), [(-1.0, 0.375, 0), (-1.186, 0.5, 0), (-1.1862, 0.5, 1), (-4.0, 4.5, 1)]
)
def test_strong_inhibition_rebounds(start: float, next_h: float, spike: int) -> None:
    h, _, spikes = float_run(QIF(0.5, v_start=start), [[0.0]])
    assert h[0, 0] == pytest.approx(next_h, abs=3e-4)
    assert spikes[0, 0] == spike


def test_the_integers_rebound_too() -> None:
    unit = 1 / 2000
    neuron = QIF(0.5, v_start=-4.0).quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    _, spikes = integer_run(dataclasses.replace(neuron, v_threshold=np.asarray(100000)), [[0]])
    assert not spikes.any()
    states, spikes = integer_run(neuron, [[0], [0]])
    assert spikes[:, 0].tolist() == [1, 0]
    assert states["v"][0, 0] == 0


def test_without_reset_four_and_a_half_is_a_fixed_point() -> None:
    h, _, _ = float_run(QIF(100.0, v_start=4.5), np.zeros((5, 1)))
    assert (h == 4.5).all()


def test_what_is_no_quadratic_neuron_is_refused() -> None:
    for wrong in (QIF(0.5, -0.1), QIF(0.5, 0.25, 0.5, 0.5), QIF(np.inf)):
        with pytest.raises(S2CError, match="quadratic neuron"):
            wrong.check((3,))


@given(
    state=registers, sums=st.integers(-(1 << 16), 1 << 16), mantissa=st.integers(1, (1 << 14) - 1),
    shift=st.integers(0, 50), rest=registers, critical=registers, theta=st.integers(1, 131071),
    bias=st.integers(-4095, 4095), carries=st.booleans(), soft=st.booleans(), strict=st.booleans(),
)  # fmt: skip
def test_the_integer_step_on_pythons_integers(
    state, sums, mantissa, shift, rest, critical, theta, bias, carries, soft, strict
) -> None:  # type: ignore[no-untyped-def]
    neuron = IntegerQIF(
        theta,
        mantissa,
        shift,
        rest,
        critical,
        bias,
        3,
        carries,
        ">" if strict else ">=",
        "soft" if soft else "hard",
        -77,
    )
    assert neuron.representable(LOIHI.limits, LOIHI.arithmetic)
    new, out = one_step(neuron, {"u": 0, "v": state}, sums)
    u = wrapped_once(sums * 64)
    h = shifted((state - rest) * (state - critical) * mantissa, shift) + bias * 8 + u + (state if carries else 0)
    h = saturated(h)
    fired = h > theta * 64 if strict else h >= theta * 64
    v = h if not fired else h - theta * 64 if soft else -77
    assert (int(new["u"]), int(new["v"]), int(out)) == (u, v, fired)


@given(
    unit=st.floats(1e-4, 5e-3), v=st.floats(-3, 3), x=st.floats(-1, 1), carries=st.booleans(), gain=st.floats(0.2, 1.5)
)
def test_the_integer_step_is_the_float_step_within_two_units(
    unit: float, v: float, x: float, carries: bool, gain: float
) -> None:
    model = QIF(1e3, carries=carries, gain=gain)
    neuron = model.quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    membrane = gain * unit / 64
    held, a = round(v / membrane), round(x / unit)
    if abs(held) > REGISTER // 4:
        return
    new, _ = one_step(dataclasses.replace(neuron, v_threshold=np.asarray(1 << 20)), {"u": 0, "v": held}, a)
    h, _, _ = float_run(dataclasses.replace(model, v_start=held * membrane), [[a * unit]])
    # One unit from the shift, half of one from the rounding of v_critical on a slope of at most 1, and a's 2**-14.
    curved = 0.25 * abs(held * membrane) * (abs(held * membrane) + 0.5)
    assert abs(int(new["v"]) * membrane - h[0, 0]) <= 2 * membrane + curved * 2.0**-13


@given(
    seed=st.integers(0, 10**6), unit=st.floats(1e-4, 2e-2), carries=st.booleans(),
    reset=st.sampled_from(["hard", "soft"]), low=st.integers(-3000, 0), high=st.integers(0, 3000),
)  # fmt: skip
def test_no_input_exceeds_the_bounds(seed, unit, carries, reset, low, high) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    model = QIF(rng.uniform(0.2, 1, 4), rng.uniform(0.05, 0.5, 4), -0.1, 0.4, carries, reset=reset)
    neuron = model.quantized(rng.normal(0, 0.1, 4), unit, LOIHI.limits, LOIHI.arithmetic)
    proved = neuron.bounds((low, high), LOIHI.arithmetic, 6)
    sums = rng.choice([low, high, (low + high) // 2], (6, 4))
    # Without saturation, in a register that holds whatever comes.
    wide = dataclasses.replace(LOIHI.arithmetic, voltage_bits=40)
    state = {"u": np.zeros(4, np.int64), "v": np.zeros(4, np.int64)}
    for a in sums:
        before = dict(state)
        state, _ = neuron.step(before, a, LOIHI.arithmetic)
        unreset = dataclasses.replace(neuron, v_threshold=np.asarray(1 << 30))
        assert np.abs(unreset.step(before, a, wide)[0]["v"]).max() <= proved.v
        assert np.abs(state["u"]).max() <= proved.u


@pytest.mark.parametrize(("fire", "spike"), [(">", 0), (">=", 1)])
def test_the_fire_test_at_the_threshold_itself(fire: str, spike: int) -> None:
    neuron = IntegerQIF(10, 1 << 13, 30, 0, 100, 0, fire=fire)  # type: ignore[arg-type]
    assert int(one_step(neuron, {"u": 0, "v": 0}, 10)[1]) == spike
    assert float_run(QIF(0.5, fire=fire), [[0.5]])[2][0, 0] == spike  # type: ignore[arg-type]
