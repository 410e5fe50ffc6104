"""The adaptive LIF against its equations, written out, and against Python's integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.neurons.alif import ALIF, IntegerALIF
from snn2chip.neurons.lif import LIF
from stepping import LOIHI, REGISTER, float_run, integer_run, one_step, saturated, shifted, wrapped_once

resets = st.sampled_from(["hard", "soft", "adaptive", "none"])
timings = st.sampled_from(["same", "next"])


@given(
    xs=st.lists(st.floats(-1, 3), min_size=1, max_size=15), reset=resets, strict=st.booleans(),
    current=st.sampled_from([None, 0.5]), timing=timings,
)  # fmt: skip
def test_the_float_step_is_its_equations(
    xs: list[float], reset: str, strict: bool, current: float | None, timing: str
) -> None:
    theta, decay, rho, strength, step = 0.5, 0.75, 0.875, 0.25, 0.125
    model = ALIF(
        theta,
        decay,
        rho,
        strength,
        step,
        current_decay=current,
        fire=">" if strict else ">=",
        reset=reset,
        v_reset=-0.1,
        reset_timing=timing,
    )  # type: ignore[arg-type]
    h, v, spikes = float_run(model, np.array(xs)[:, None])
    m = b = i = s = 0.0
    for t, x in enumerate(xs):
        i = x if current is None else current * i + x
        m = decay * m + i
        level = theta + strength * b
        if timing == "next" and s:
            m = {"hard": -0.1, "soft": m - theta, "adaptive": m - level, "none": m}[reset]
        s = m > level if strict else m >= level
        assert h[t, 0] == m - strength * b
        if timing == "same" and s:
            m = {"hard": -0.1, "soft": m - theta, "adaptive": m - level, "none": m}[reset]
        b = rho * b + step * s
        assert (v[t, 0], spikes[t, 0]) == (m, s)


def test_a_constant_drive_fires_ever_more_rarely_and_recovers() -> None:
    model = ALIF(0.5, 0.5, 0.9, 0.5)
    _, _, spikes = float_run(model, np.full((40, 1), 0.9))
    gaps = np.diff(np.flatnonzero(spikes[:, 0]))
    assert gaps[-1] > gaps[0]
    _, _, later = float_run(model, np.concatenate([np.full((40, 1), 0.9), np.zeros((200, 1)), np.full((1, 1), 0.9)]))
    assert later[-1, 0] == 1


def test_without_strength_it_is_a_lif() -> None:
    xs = np.random.default_rng(0).normal(0.3, 0.5, (60, 5))
    for reset in ("hard", "soft"):
        adaptive = float_run(ALIF(0.5, 0.9, 0.9, 0.0, reset=reset), xs)  # type: ignore[arg-type]
        plain = float_run(LIF(0.5, 0.9, reset=reset), xs)  # type: ignore[arg-type]
        assert all((a == b).all() for a, b in zip(adaptive, plain, strict=True))
        assert adaptive[2].any()


def test_what_would_lower_the_threshold_or_grow_is_refused() -> None:
    for wrong in (
        ALIF(0.5, 0.9, 0.9, -0.1),
        ALIF(0.5, 0.9, 1.1, 0.1),
        ALIF(0.5, -0.1, 0.9, 0.1),
        ALIF(np.inf, 0.9, 0.9, 1),
    ):
        with pytest.raises(S2CError, match="adaptive"):
            wrong.check((2,))


@given(
    u=st.integers(-REGISTER, REGISTER), v=st.integers(-REGISTER, REGISTER), b=st.integers(0, REGISTER),
    a=st.integers(-(1 << 16), 1 << 16), decays=st.tuples(*[st.integers(0, 4096)] * 3), theta=st.integers(1, 131071),
    rise=st.integers(0, REGISTER), bias=st.integers(-4095, 4095), bias_u=st.integers(-4095, 4095), reset=resets,
    strict=st.booleans(), timing=timings,
)  # fmt: skip
def test_the_integer_step_on_pythons_integers(  # type: ignore[no-untyped-def]
    u, v, b, a, decays, theta, rise, bias, bias_u, reset, strict, timing
) -> None:
    decay_v, decay_u, decay_b = decays
    fire = ">" if strict else ">="
    neuron = IntegerALIF(theta, decay_v, decay_u, decay_b, rise, bias, 1, bias_u, fire, reset, -5, timing)
    new, out = one_step(neuron, {"u": u, "v": v, "b": b}, a)

    def reset_from(h: int, level: int) -> int:
        return {"hard": -5, "soft": h - theta * 64, "adaptive": h - level, "none": h}[reset]

    def adapted(b: int, s: bool) -> int:
        return saturated(shifted(b * (4096 - decay_b), 12) + rise * s)

    before = v > theta * 64 + b if strict else v >= theta * 64 + b
    u = wrapped_once(shifted(u * (4096 - decay_u), 12) + a * 64 + bias_u)
    h = shifted(v * (4096 - decay_v), 12) + u + bias * 2
    if timing == "next":
        b = adapted(b, before)
        h = reset_from(h, theta * 64 + b) if before else h
    h = saturated(h)
    level = theta * 64 + b
    s = h > level if strict else h >= level
    after = h
    if timing == "same":
        b = adapted(b, s)
        after = reset_from(h, level) if s else h
    assert {k: int(x) for k, x in new.items()} == {"u": u, "v": after, "b": b}
    assert int(out) == s


@given(
    unit=st.floats(1e-4, 5e-3), v=st.floats(-1, 1), b=st.floats(0, 1), x=st.floats(-1, 1), decay=st.floats(0, 1),
    rho=st.floats(0, 1), strength=st.floats(0, 1), gain=st.floats(0.2, 1),
)  # fmt: skip
def test_the_integer_step_is_the_float_step_to_the_decays_twelve_bits(
    unit, v, b, x, decay, rho, strength, gain
) -> None:  # type: ignore[no-untyped-def]
    neuron = ALIF(0.5, decay, rho, strength, gain=gain).quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    membrane = unit * gain / 64
    held, raised, a = round(v / membrane), round(b / membrane), round(x / unit)
    new, out = one_step(dataclasses.replace(neuron, reset="none"), {"u": 0, "v": held, "b": raised}, a)
    h = decay * held * membrane + gain * a * unit
    assert abs(int(new["v"]) * membrane - h) <= membrane + abs(held * membrane) * 2.0**-13 + 1e-9
    wanted = rho * raised * membrane + strength * int(out)
    assert abs(int(new["b"]) * membrane - wanted) <= 2 * membrane + raised * membrane * 2.0**-13 + 1e-9


@given(
    seed=st.integers(0, 10**6), reset=resets, rounding=st.sampled_from(["zero", "floor"]),
    low=st.integers(-2000, 0), high=st.integers(0, 2000), timing=timings,
)  # fmt: skip
def test_no_input_exceeds_the_bounds(seed, reset, rounding, low, high, timing) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    wide = dataclasses.replace(LOIHI.arithmetic, voltage_bits=40, current_bits=40, decay_rounding=rounding)
    neuron = IntegerALIF(
        rng.integers(5, 900, 5), *(rng.integers(0, 4097, 5) for _ in range(3)), rng.integers(0, 9000, 5),
        rng.integers(-50, 50, 5), 4, rng.integers(-300, 300, 5), ">=", reset, rng.integers(-99, 99, 5), timing,
    )  # fmt: skip
    proved = neuron.bounds((low, high), wide, 8)
    state = {name: np.zeros(5, np.int64) for name in ("u", "v", "b")}
    for a in rng.choice([low, high, (low + high) // 2], (8, 5)):
        if timing == "same":
            free = dataclasses.replace(neuron, reset="none").step(dict(state), a, wide)[0]
            assert np.abs(free["v"]).max() <= proved.v
        state, _ = neuron.step(state, a, wide)
        assert np.abs(state["u"]).max() <= proved.u
        assert np.abs(state["v"]).max() <= proved.v
        assert np.abs(state["b"]).max() <= proved.v


def test_the_bound_counts_every_rise_of_the_threshold() -> None:
    # 150 << 6 = 9600 fires at 64 and again at 64 + 9000, so that adaptation stands at 18000, above any membrane.
    neuron = IntegerALIF(1, 0, 4096, 0, 9000, 0)
    states, spikes = integer_run(neuron, [[150], [150]])
    assert spikes[:, 0].tolist() == [1, 1]
    assert states["b"][1, 0] == 18000
    assert neuron.bounds((0, 150), LOIHI.arithmetic, 2).v >= 18000


@pytest.mark.parametrize(("fire", "spike"), [(">", 0), (">=", 1)])
def test_the_fire_test_at_the_raised_threshold_itself(fire: str, spike: int) -> None:
    neuron = IntegerALIF(10, 0, 4096, 0, 64, 0, fire=fire)  # type: ignore[arg-type]
    _, out = one_step(neuron, {"u": 0, "v": 0, "b": 128}, 12)
    assert int(out) == spike
    _, _, spikes = float_run(ALIF(0.5, 1.0, 1.0, 0.25, fire=fire), [[2.0], [0.75]])  # type: ignore[arg-type]
    assert spikes[:, 0].tolist() == [1, spike]
