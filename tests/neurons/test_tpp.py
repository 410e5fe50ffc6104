"""The two-phase neuron: its statistics, its phases, and its integers against Python's."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.neurons.tpp import TPP, IntegerTPP, generator_starts
from stepping import LOIHI, REGISTER, float_run, integer_run, one_step, saturated, wrapped_once

NEURONS = 40_000


def expected_spikes(charge: Fraction, steps: int) -> Fraction:
    """E[Σ s] of Eq. 7 for v[0] = charge·θ, over every sequence of spikes, in exact fractions."""
    total = Fraction(0)
    for train in itertools.product((0, 1), repeat=steps):
        v, probability = charge, Fraction(1)
        for left, s in zip(range(steps, 0, -1), train, strict=True):
            p = min(max(v / left, Fraction(0)), Fraction(1))
            probability *= p if s else 1 - p
            v -= s
        total += probability * sum(train)
    return total


def test_the_exact_expectation_is_the_one_the_paper_misses() -> None:
    assert float(expected_spikes(Fraction(1, 2), 4)) == pytest.approx(0.7266, abs=5e-5)
    assert float(expected_spikes(Fraction(7, 2), 4)) == pytest.approx(3.2734, abs=5e-5)
    assert expected_spikes(Fraction(2), 4) == 2


def gathered(charge: float, steps: int) -> np.ndarray:
    """Inputs [2T, n] that bring v to charge·θ, θ = 1, at the end of phase 1."""
    return np.concatenate([np.full((steps, NEURONS), charge / steps), np.zeros((steps, NEURONS))])


@pytest.mark.parametrize(("charge", "steps"), [(0.5, 4), (0.5, 8), (3.5, 4), (1.25, 4)])
def test_spikes_have_that_expectation_in_float_and_in_integers(charge: float, steps: int) -> None:
    wanted = float(expected_spikes(Fraction(charge), steps))
    unit = 1 / 256
    for seed in (1, 2):
        model = TPP(1.0, steps, seed)
        floats = float_run(model, gathered(charge, steps))[2].sum(axis=0)
        neuron = model.quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
        sums = np.rint(gathered(charge, steps) / unit).astype(int)
        integers = integer_run(neuron, sums)[1].sum(axis=0)
        # Four standard errors of the mean.
        for counts in (floats, integers):
            assert counts.mean() == pytest.approx(wanted, abs=4 * counts.std() / np.sqrt(NEURONS))
        assert (floats == integers).all()


def test_two_thresholds_are_two_spikes_always_in_every_order() -> None:
    spikes = float_run(TPP(1.0, 4, 3), gathered(2.0, 4))[2][4:]
    assert (spikes.sum(axis=0) == 2).all()
    patterns, counts = np.unique(spikes, axis=1, return_counts=True)
    # Six orders of two spikes in four steps, equally likely (App. G, Th. 1).
    assert patterns.shape[1] == 6
    assert np.abs(counts / NEURONS - 1 / 6).max() < 4 * np.sqrt(5 / 36 / NEURONS)


def test_neighbours_and_steps_draw_independently() -> None:
    _, _, spikes = float_run(TPP(1.0, 4, 5), gathered(2.0, 4))
    first = spikes[4].astype(float)
    for other in (np.roll(first, 1), np.roll(first, 64), float_run(TPP(1.0, 4, 6), gathered(2.0, 4))[2][4]):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(NEURONS)


def test_it_takes_input_in_phase_1_only_and_fires_in_phase_2_only() -> None:
    model = TPP(1.0, 3, 0, first=2)
    xs = np.array([50.0, 50.0, 1.0, 1.0, 1.0, 50.0, 50.0, 50.0, 50.0])[:, None]
    _, v, spikes = float_run(model, xs)
    assert v[:, 0].tolist() == [0, 0, 1, 2, 3, 2, 1, 0, 0]
    assert spikes[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0]
    neuron = model.quantized(np.asarray(0.25), 1 / 64, LOIHI.limits, LOIHI.arithmetic)
    states, out = integer_run(neuron, np.rint(xs * 64).astype(int))
    assert (states["v"][:5, 0] / 4096).tolist() == [0, 0, 1.25, 2.5, 3.75]
    assert out[:, 0].tolist() == spikes[:, 0].tolist()


def test_without_a_threshold_it_gathers() -> None:
    model = TPP(np.inf, 3, 0, first=1)
    _, _, out = float_run(model, np.ones((6, 2)))
    assert out[:, 0].tolist() == [0, 1, 2, 3, 3, 3]
    neuron = model.quantized(np.asarray(1.0), 1.0, LOIHI.limits, LOIHI.arithmetic)
    assert neuron.kind == "TPPLI"
    assert (integer_run(neuron, np.ones((6, 2), int))[1][:, 0] / 64).tolist() == [0, 2, 4, 6, 6, 6]


def test_negative_charge_never_fires_and_every_sample_draws_alike() -> None:
    assert not float_run(TPP(1.0, 4, 1), gathered(-3.0, 4))[2].any()
    neuron = IntegerTPP(100, 4, 7, 0, 0)
    state = neuron.start((3, 5))
    assert (state["generator"] == state["generator"][:1]).all()
    assert (generator_starts(7, (5,)) == state["generator"][0]).all()
    assert (generator_starts(8, (5,)) != state["generator"][0]).all()


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (TPP(0.0, 4, 1), TPP(1.0, 0, 1), TPP(1.0, 4, -1), TPP(1.0, 4, 1, first=-1), TPP(1.0, 1 << 15, 1)):
        with pytest.raises(S2CError, match="two-phase"):
            wrong.check((2,))


@given(
    v=st.integers(-REGISTER, REGISTER), generator=st.integers(0, 2**31 - 1), t=st.integers(0, 40),
    a=st.integers(-(1 << 16), 1 << 16), theta=st.integers(1, 131071), steps=st.integers(1, 12),
    first=st.integers(0, 12), bias=st.integers(-4095, 4095),
)  # fmt: skip
def test_the_integer_step_on_pythons_integers(v, generator, t, a, theta, steps, first, bias) -> None:  # type: ignore[no-untyped-def]
    neuron = IntegerTPP(theta, steps, 0, first, bias, 3)
    new, out = one_step(neuron, {"u": 0, "v": v, "t": t, "generator": generator}, a)
    u = 0
    if first <= t < first + steps:
        u = wrapped_once(a * 64)
        v = saturated(v + u + bias * 8)
    drawn = (generator * 1103515245 + 12345) % 2**31
    left = first + 2 * steps - t
    fires = first + steps <= t < first + 2 * steps and Fraction(drawn // 128, 2**24) < Fraction(v, theta * 64 * left)
    v -= theta * 64 * fires
    assert {k: int(x) for k, x in new.items()} == {"u": u, "v": v, "t": t + 1, "generator": drawn}
    assert int(out) == fires


def test_products_hold_at_the_longest_phase() -> None:
    neuron = IntegerTPP(131071, 1 << 14, 0, 0, 0)
    state = {"u": 0, "v": REGISTER, "t": 1 << 14, "generator": (2**31 - 1 - 12345) * pow(1103515245, -1, 2**31) % 2**31}
    new, out = one_step(neuron, state, 0)
    # The largest draw, threshold and number of steps left: no spike, and no overflow that would make one.
    assert int(new["generator"]) == 2**31 - 1
    assert int(out) == 0


@given(seed=st.integers(0, 10**6), low=st.integers(-2000, 0), high=st.integers(0, 2000), first=st.integers(0, 4))
def test_no_input_exceeds_the_bounds(seed: int, low: int, high: int, first: int) -> None:
    rng = np.random.default_rng(seed)
    wide = dataclasses.replace(LOIHI.arithmetic, voltage_bits=38)
    neuron = IntegerTPP(rng.integers(1, 4000, 6), 3, seed, first, rng.integers(-90, 90, 6), 4)
    proved = neuron.bounds((low, high), wide, 8)
    states, _ = integer_run(neuron, rng.choice([low, high], (8, 6)), wide)
    assert np.abs(states["v"]).max() <= proved.v
    assert np.abs(states["u"]).max() <= proved.u
