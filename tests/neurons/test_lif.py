"""Hand-worked steps of the family, in fixed point and in float."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.neurons.arithmetic import decayed, fit, shift_right
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.simulate.ops import NumpyOps

LOIHI = Arithmetic()


def run(neuron: IntegerLIF, sums: list[int]) -> tuple[list[int], list[int], list[int]]:
    """u, v and spikes over time for one neuron fed these sums."""
    state = neuron.start((1,))
    rows = []
    for a in sums:
        state, out = neuron.step(state, np.array([a]), LOIHI)
        rows.append((int(state["u"][0]), int(state["v"][0]), int(out[0])))
    return tuple(list(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def neuron(**options: object) -> IntegerLIF:
    defaults: dict[str, object] = {"v_threshold": 10, "decay_v": 0, "decay_u": 4096, "bias": 0}
    return IntegerLIF(**(defaults | options))  # type: ignore[arg-type]


def test_shifts_round_toward_zero_and_down() -> None:
    x = np.array([-5, -4, -1, 0, 1, 5])
    assert shift_right(x, 1, "zero").tolist() == [-2, -2, 0, 0, 0, 2]
    assert shift_right(x, 1, "floor").tolist() == [-3, -2, -1, 0, 0, 2]


def test_registers_wrap_once_wrap_and_saturate() -> None:
    half = 1 << 23
    x = np.array([half, half + 1, -half, -half - 1, 4 * half + 5, half - 1, 1 - half])
    once = [half, half + 1 - 2 * half, half, half - 1, 2 * half + 5, half - 1, 1 - half]
    assert fit(x, 24, "wrap_once").tolist() == once
    assert fit(x, 24, "wrap").tolist() == [-half, 1 - half, -half, half - 1, 5, half - 1, 1 - half]
    assert fit(x, 24, "saturate").tolist() == [half - 1, half - 1, 1 - half, 1 - half, half - 1, half - 1, 1 - half]


def test_decay_keeps_the_sign_and_loses_the_fraction() -> None:
    assert decayed(np.array([100, -100]), 1024, 12, "zero").tolist() == [75, -75]
    assert decayed(np.array([3, -3]), 2048, 12, "zero").tolist() == [1, -1]


def test_the_threshold_is_strict_and_the_reset_is_to_zero() -> None:
    # 10 << 6 = 640: a membrane of exactly 640 stays, 704 fires.
    assert run(neuron(), [10, 1]) == ([640, 64], [640, 0], [0, 1])


def test_greater_or_equal_fires_at_the_threshold() -> None:
    assert run(neuron(fire=">="), [10, 1]) == ([640, 64], [0, 64], [1, 0])


def test_soft_reset_keeps_what_is_above_the_threshold() -> None:
    assert run(neuron(reset="soft"), [15, 0]) == ([960, 0], [320, 320], [1, 0])


def test_a_gate_resets_before_the_next_input() -> None:
    # The membrane shows what fired; one step later it starts from zero and takes the input.
    assert run(neuron(reset_timing="gate"), [15, 2])[1:] == ([960, 128], [1, 0])
    # Subtracting as a gate happens before the decay: (960 - 640) / 2.
    assert run(neuron(reset="soft", reset_timing="gate", decay_v=2048), [15, 0])[1] == [960, 160]


def test_next_resets_the_sum_of_the_next_step() -> None:
    # snnTorch: β·960 + x − θ with β = 1/2.
    assert run(neuron(reset="soft", reset_timing="next", decay_v=2048), [15, 1])[1] == [960, 480 + 64 - 640]
    # Reset to zero drops that step's input as well.
    assert run(neuron(reset_timing="next"), [15, 2, 2])[1:] == ([960, 0, 128], [1, 0, 0])


def test_hard_reset_to_another_value_and_start() -> None:
    assert run(neuron(v_reset=-64, v_start=600), [1, 0])[1:] == ([-64, -64], [1, 0])


def test_current_decays_and_biases_add() -> None:
    u, v, _ = run(neuron(decay_u=2048, bias=1, bias_exp=3, bias_u=32), [2, 0])
    assert u == [160, 112]
    assert v == [168, 288]


def test_without_a_threshold_the_membrane_is_the_output() -> None:
    assert run(neuron(v_threshold=None), [1000, 1000])[1:] == ([64000, 128000], [64000, 128000])


def test_native_is_what_lavas_lif_computes() -> None:
    assert neuron().native
    for change in ({"fire": ">="}, {"reset": "soft"}, {"reset_timing": "gate"}, {"bias_u": 1}, {"v_start": 5}):
        assert not neuron(**change).native


@given(
    drive=st.lists(st.floats(-1, 2), min_size=1, max_size=30),
    decay=st.floats(0, 1),
    fire=st.sampled_from([">", ">="]),
)
def test_a_gate_to_zero_gives_the_spikes_of_a_reset_in_the_same_step(
    drive: list[float], decay: float, fire: str
) -> None:
    ops = NumpyOps()
    spikes = {}
    for timing in ("same", "gate"):
        model = LIF(1.0, decay, fire=fire, reset="hard", reset_timing=timing)  # type: ignore[arg-type]
        x = np.zeros((1, 1), np.float32)
        state = model.start(x, ops)
        spikes[timing] = []
        for value in drive:
            state, out = model.step(state, np.full((1, 1), value, np.float32), ops)
            spikes[timing].append(float(out[0, 0]))
    assert spikes["same"] == spikes["gate"]


@pytest.mark.parametrize(
    ("form", "value", "factor", "gain"),
    [
        ("factor", 0.8, 0.8, 1.0),
        ("tau", 4.0, 0.75, 0.25),
        ("tau_undriven", 4.0, 0.75, 1.0),
        ("subtract", 0.2, 0.8, 1.0),
    ],
)
def test_every_decay_form_is_one_factor_and_one_gain(form: str, value: float, factor: float, gain: float) -> None:
    model = LIF(np.inf, value, form)  # type: ignore[arg-type]
    assert model.decay_factor == pytest.approx(factor)
    assert model.input_gain == pytest.approx(gain)
    ops, x = NumpyOps(), np.full((1, 1), 0.3)
    state, _ = model.step({"v": np.full((1, 1), 0.7)}, x, ops)
    assert state["v"][0, 0] == pytest.approx(factor * 0.7 + gain * 0.3)


def test_names_follow_the_field() -> None:
    assert LIF(1.0, 1.0).kind == "IF"
    assert LIF(1.0, 0.9).kind == "LIF"
    assert LIF(1.0, 0.9, current_decay=0.5).kind == "CubaLIF"
    assert LIF(np.inf, 0.9).kind == "LI"
    assert LIF(np.inf, 0.9, current_decay=0.5).kind == "CubaLI"


@pytest.mark.parametrize("decay_u", [0, 4096])
@pytest.mark.parametrize("decay_v", [0, 4096])
@pytest.mark.parametrize("timing", ["same", "gate", "next"])
def test_greater_or_equal_on_a_grid_is_the_next_lower_threshold(decay_u: int, decay_v: int, timing: Any) -> None:
    plain = IntegerLIF(10, decay_v, decay_u, 2, bias_exp=6, fire=">=", reset_timing=timing)
    strict = plain.strict(Arithmetic())
    assert (strict.fire, strict.v_threshold) == (">", 9)
    assert strict.native == (timing == "same")
    states = [neuron.start((1,)) for neuron in (plain, strict)]
    fired = 0
    for a in np.random.default_rng(0).integers(-8, 12, (50, 1)):
        (states[0], one), (states[1], other) = (
            neuron.step(state, a, Arithmetic()) for neuron, state in zip((plain, strict), states, strict=True)
        )
        assert one == other
        assert states[0] == states[1]
        fired += int(one[0])
    assert fired > 3


@pytest.mark.parametrize(
    "change", [{"decay_v": 5}, {"decay_u": 4000}, {"reset": "soft"}, {"bias_exp": 3}, {"v_reset": 7}]
)
def test_greater_or_equal_stays_where_states_lie_between_thresholds(change: dict[str, Any]) -> None:
    plain = dataclasses.replace(IntegerLIF(10, 0, 4096, 2, bias_exp=6, fire=">="), **change)
    assert plain.strict(Arithmetic()) is plain
