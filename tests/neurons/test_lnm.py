"""The polynomial neuron against its published forms, written out, and against Python's integers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.lnm import LNM, IntegerLNM, tanh_pieces
from stepping import LOIHI, REGISTER, float_run, integer_run, one_step, saturated, shifted, wrapped_once

drives = st.lists(st.floats(-3, 3), min_size=1, max_size=12)
polynomials = st.lists(st.floats(-1, 1), min_size=1, max_size=6)
# Bound of the published variants (S002 Tab. 5): clip to 1, clip to 5, tanh; and none.
BOUNDS = {
    "clip1": {"bound": 1.0},
    "clip5": {"bound": 5.0},
    "tanh": {"bound": None, "squash": True},
    "free": {"bound": None},
}
FORMS = ("added", "subtracted", "absorbed")


@given(
    xs=drives, theta=polynomials, form=st.sampled_from(FORMS), kind=st.sampled_from(sorted(BOUNDS)), gated=st.booleans()
)
def test_the_float_step_is_the_published_form(
    xs: list[float], theta: list[float], form: str, kind: str, gated: bool
) -> None:
    model = LNM(0.5, tuple(theta), form, gated=gated, **BOUNDS[kind])  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        h, v, spikes = float_run(model, np.array(xs)[:, None])
    u, o = 0.0, False
    for t, x in enumerate(xs):
        c = {"clip1": max(-1.0, min(1.0, u)), "clip5": max(-5.0, min(5.0, u)), "tanh": math.tanh(u), "free": u}[kind]
        f = sum(coefficient * c**i for i, coefficient in enumerate(theta))
        driven = {"added": u + f, "subtracted": u - f, "absorbed": f}[form]
        new = (driven * (1 - o) if gated else driven) + x
        assert h[t, 0] == pytest.approx(new, rel=1e-9, abs=1e-9)
        if abs(new) > 1e6:
            # A cubic that nothing bounds is on its way to infinity.
            break
        # Go on from the step's own numbers: near the threshold a rounding decides.
        new, o = h[t, 0], h[t, 0] >= 0.5
        u = new if gated or not o else 0.0
        assert (v[t, 0], spikes[t, 0]) == (u, o)


def test_eq_10_and_eq_16_differ_beyond_the_bound_and_both_from_the_lif() -> None:
    # Initialised as a LIF of decay 0.25, at u = 2 and without input (papers' Eq. 10, Eq. 16, LIF).
    def next_h(model: LNM | LIF) -> float:
        h, _, _ = float_run(dataclasses.replace(model, v_threshold=np.asarray(9.0)), [[2.0], [0.0]])
        return float(h[1, 0])

    assert next_h(LNM(0.5, (0, -0.75), "added")) == 1.25
    assert next_h(LNM(0.5, (0, 0.25), "absorbed")) == 0.25
    assert next_h(LIF(0.5, 0.25)) == 0.5


def test_algorithm_1_subtracts_what_eq_10_adds() -> None:
    xs = np.random.default_rng(0).normal(size=(50, 4))
    added = float_run(LNM(0.5, (0, -0.75, 0.2), "added"), xs)
    subtracted = float_run(LNM(0.5, (0, 0.75, -0.2), "subtracted"), xs)
    assert all((a == b).all() for a, b in zip(added, subtracted, strict=True))
    assert added[2].any()


def test_a_gate_gives_the_same_spikes_unless_the_polynomial_has_a_constant() -> None:
    xs = np.random.default_rng(1).normal(size=(80, 4))
    for constant, same in ((0.0, True), (0.2, False)):
        at_once, gate = (float_run(LNM(0.5, (constant, -0.5, 0.3), "added", gated=g), xs)[2] for g in (False, True))
        assert (at_once == gate).all() == same


def test_what_makes_no_sense_is_refused() -> None:
    for wrong, why in (
        (LNM(0.5, (), "added"), "no coefficients"),
        (LNM(0.5, (0, float("nan")), "added"), "no number"),
        (LNM(0.5, (0, 1), "added", bound=0.0), "not positive"),
        (LNM(0.5, (0, 1), "added", squash=True), "by clipping and by tanh"),
        (LNM(0.5, (0, 1), "added", gated=True, v_reset=0.1), "a gate resets to zero"),
    ):
        with pytest.raises(S2CError, match=why):
            wrong.check((3,))


@given(
    v=st.integers(-REGISTER, REGISTER), a=st.integers(-(1 << 16), 1 << 16), theta=st.integers(1, 131071),
    bits=st.integers(1, 23), guard=st.integers(0, 12), mantissas=st.lists(st.integers(-9, 9), min_size=1, max_size=7),
    clipped=st.booleans(), carries=st.booleans(), gated=st.booleans(), strict=st.booleans(),
    bias=st.integers(-4095, 4095),
)  # fmt: skip
def test_the_integer_step_on_pythons_integers(
    v, a, theta, bits, guard, mantissas, clipped, carries, gated, strict, bias
) -> None:  # type: ignore[no-untyped-def]
    # As large as the promise allows: (Σ |c| + 2·number) << bits just below 2**62.
    room = (1 << (62 - bits)) - 3 * len(mantissas)
    coefficients = tuple(m * room // (9 * len(mantissas)) for m in mantissas)
    bound = (1 << bits) - 1 if clipped or bits < 23 else None
    neuron = IntegerLNM(
        theta,
        coefficients,
        bits,
        guard,
        bound,
        bias,
        2,
        (),
        carries,
        ">" if strict else ">=",
        gated,
        0 if gated else -9,
    )
    assert neuron.representable(LOIHI.limits, LOIHI.arithmetic)
    new, out = one_step(neuron, {"u": 0, "v": v}, a)
    z = v if bound is None else max(-bound, min(bound, v))
    total = coefficients[-1]
    for c in coefficients[-2::-1]:
        total = shifted(total * z, bits) + c
    driven = shifted(total, guard) + (v if carries else 0)
    if gated and (v > theta * 64 if strict else v >= theta * 64):
        driven = 0
    u = wrapped_once(a * 64)
    h = saturated(driven + u + bias * 4)
    fired = h > theta * 64 if strict else h >= theta * 64
    assert (int(new["u"]), int(new["v"]), int(out)) == (u, h if gated or not fired else -9, fired)


@given(unit=st.floats(1e-4, 5e-3), sign=st.sampled_from([-1, 1]), size=st.floats(0, 12))
def test_the_table_is_tanh_to_2_to_the_minus_14(unit: float, sign: int, size: float) -> None:
    fine = unit / 64
    neuron = LNM(0.5, (0.0, 1.0), "absorbed", bound=None, squash=True)
    integers = neuron.quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    v = sign * min(round(size / fine), REGISTER)
    new, _ = one_step(dataclasses.replace(integers, v_threshold=np.asarray(1 << 20)), {"u": 0, "v": v}, 0)
    assert abs(int(new["v"]) * fine - math.tanh(v * fine)) <= 2.0**-14 + 2 * fine


def test_the_table_joins_without_steps() -> None:
    pieces = tanh_pieces(1e-4)
    assert len(pieces) == 17
    assert [p[0] for p in pieces] == sorted({p[0] for p in pieces})
    assert pieces[0][2] <= 1 << 6


@given(
    unit=st.floats(1e-4, 5e-3), v=st.floats(-2, 2), x=st.floats(-1, 1),
    theta=st.lists(st.floats(-1, 1), min_size=1, max_size=5), form=st.sampled_from(FORMS),
    kind=st.sampled_from(["clip1", "clip5", "free"]),
)  # fmt: skip
def test_the_integer_step_is_the_float_step_within_a_few_units(unit, v, x, theta, form, kind) -> None:  # type: ignore[no-untyped-def]
    model = LNM(1e3, tuple(theta), form, **BOUNDS[kind])
    neuron = dataclasses.replace(
        model.quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic), v_threshold=np.asarray(131071)
    )
    fine = unit / 64
    held, a = min(round(v / fine), REGISTER // 2), round(x / unit)
    if not neuron.representable(LOIHI.limits, LOIHI.arithmetic):
        # Unclipped, a cubic of the whole register has no room in 63 bits.
        assert kind == "free"
        assert len(theta) > 3
        return
    new, _ = one_step(neuron, {"u": 0, "v": held}, a)
    # From rest the input itself becomes the membrane.
    h, _, _ = float_run(model, [[held * fine - (theta[0] if form != "subtracted" else -theta[0])], [a * unit]])
    if abs(h[1, 0]) > 131000 * 64 * fine:
        return
    # Clipping rounds the bound to a unit, on a slope of at most Σ i·|θ_i|·bound**(i−1).
    reach = {"clip1": 1.0, "clip5": 5.0, "free": 2.0}[kind]
    slope = sum(i * abs(c) * reach ** (i - 1) for i, c in enumerate(theta) if i)
    assert abs(int(new["v"]) * fine - h[1, 0]) <= (len(theta) + 2 + slope) * fine


@given(
    seed=st.integers(0, 10**6), unit=st.floats(1e-4, 2e-2), theta=polynomials, form=st.sampled_from(FORMS),
    kind=st.sampled_from(sorted(BOUNDS)), gated=st.booleans(), low=st.integers(-3000, 0), high=st.integers(0, 3000),
)  # fmt: skip
def test_no_input_exceeds_the_bounds(seed, unit, theta, form, kind, gated, low, high) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    model = LNM(rng.uniform(0.2, 1, 4), tuple(theta), form, gated=gated, **BOUNDS[kind])
    neuron = model.quantized(rng.normal(0, 0.1, 4), unit, LOIHI.limits, LOIHI.arithmetic)
    if not neuron.representable(LOIHI.limits, LOIHI.arithmetic):
        return
    proved = neuron.bounds((low, high), LOIHI.arithmetic, 6)
    wide = dataclasses.replace(LOIHI.arithmetic, voltage_bits=50)
    state = {"u": np.zeros(4, np.int64), "v": np.zeros(4, np.int64)}
    for a in rng.choice([low, high, (low + high) // 2], (6, 4)):
        unreset = dataclasses.replace(neuron, v_threshold=np.asarray(1 << 40)) if not gated else neuron
        assert np.abs(unreset.step(dict(state), a, wide)[0]["v"]).max() <= proved.v
        state, _ = neuron.step(dict(state), a, LOIHI.arithmetic)
        assert np.abs(state["u"]).max() <= proved.u


def test_a_lif_in_either_clothing_is_the_lif() -> None:
    """Inside the bound the degree-1 polynomial is a LIF: same spikes, integer form against integer form."""
    unit, sums = 1 / 512, np.random.default_rng(3).integers(-150, 400, (60, 5))
    poly = LNM(0.5, (0, -0.75), "added", bound=None).quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    lif = LIF(0.5, 0.25).quantized(np.zeros(()), unit, LOIHI.limits, LOIHI.arithmetic)
    (one, first), (two, second) = integer_run(poly, sums), integer_run(lif, sums)
    assert first.mean() > 0.1
    assert np.abs(one["v"] - two["v"]).max() <= 2
    assert (first == second).all()


@pytest.mark.parametrize(("fire", "spike"), [(">", 0), (">=", 1)])
def test_the_fire_test_and_the_gate_at_the_threshold_itself(fire: str, spike: int) -> None:
    # The identity: what has not fired is carried on, what has is gated to zero.
    neuron = IntegerLNM(10, (0,), 1, 0, None, 0, fire=fire, gated=True)  # type: ignore[arg-type]
    new, out = one_step(neuron, {"u": 0, "v": 0}, 10)
    assert int(out) == spike
    assert int(one_step(neuron, new, 1)[0]["v"]) == 64 + (0 if spike else 640)
    h, _, spikes = float_run(LNM(0.5, (0.0,), "added", fire=fire, gated=True), [[0.5], [0.125]])  # type: ignore[arg-type]
    assert spikes[0, 0] == spike
    assert h[1, 0] == 0.125 + (0 if spike else 0.5)
