"""What the fast engine puts in place of whole layers: digits of wide numbers, maxima of windows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks import node, population, program, spikes
from snn2chip.ir.layers import Conv1d, Conv2d, Linear
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import simulate
from snn2chip.simulate.explain import explain_engine
from snn2chip.simulate.fast.again import Again
from snn2chip.simulate.fast.synapses import digits, methods
from snn2chip.simulate.fast.synapses.digits import digits_kernel, refuse_digits
from snn2chip.simulate.fast.synapses.linear import Case, has_int8_dot_products
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import Range
from tests.simulate.test_fast import assert_same, chunks

pytest.importorskip("numba")
dot_products = pytest.mark.skipif(not has_int8_dot_products(), reason="no 8-bit dot products in this processor")


@st.composite
def wide_cases(draw: Any) -> tuple[Case, np.ndarray]:
    """A synapse of wide weights, an input of its whole range, extremes among both."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    high, reach = (1 << draw(st.sampled_from([1, 8, 9, 16]))) - 1, 1 << draw(st.integers(3, 16))
    extremes = np.array([-reach, -129, -128, -1, 0, 127, 128, 255, 256, reach - 1])

    def weight(*shape: int) -> np.ndarray:
        chosen = rng.choice(extremes, shape) if draw(st.booleans()) else rng.integers(-reach, reach, shape)
        return np.asarray(chosen) << draw(st.integers(0, 3))

    bias = rng.integers(-(1 << 30), 1 << 30, 3) if draw(st.booleans()) else None
    layer, shape = draw(
        st.sampled_from(
            [
                (Linear(weight(3, 7), bias), (7,)),
                (Linear(weight(3, 7), bias), (2, 7)),
                (Conv1d(weight(3, 2, 3), bias, padding=(1,)), (2, 6)),
                (Conv2d(weight(3, 2, 3, 2), bias, (2, 1), (1, 0), (1, 2)), (2, 5, 6)),
            ]
        )
    )
    x = rng.choice([0, 1, 255, 256, high - 1, high], (4, *shape)).clip(0, high)
    return Case.of(layer, shape, Range(0, high)), x


@dot_products
@given(wide_cases(), st.sampled_from([1, 1 << 19]))
def test_sums_of_wide_numbers_digit_by_digit(case: tuple[Case, np.ndarray], at_once: int) -> None:
    known, x = case
    if reason := refuse_digits(known):
        assert "digits" in reason or reason == "8 bits suffice"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "_PRODUCTS", at_once)
        found = digits_kernel(known)(torch.from_numpy(x))
    np.testing.assert_array_equal(found.to(torch.int64).numpy(), apply(known.layer, [x], NumpyOps()))


@dot_products
def test_a_first_layer_of_16_bits_runs_digit_by_digit() -> None:
    rng = np.random.default_rng(0)
    conv = Conv2d(rng.integers(-(2**14), 2**14, (64, 3, 3, 3)), padding=(1, 1))
    made = program(
        (3, 32, 32), node("conv", conv, "x"), node("lif", population(IntegerLIF(1 << 30, 0, 4096, 0)), "conv"), bits=16
    )
    x = rng.integers(0, 2**16, (4, 5, 3, 32, 32))
    assert_same(simulate(made, x, engine="reference"), simulate(made, x, engine="fast"))
    (row,) = [row for row in explain_engine(made, 4, 5).rows if row.layer == "conv"]
    assert row.kernel == "int8 digits"


ANY = IntegerLIF(1, 4096, 4096, 0)


@pytest.mark.parametrize("record", [(), ("spikes",), ("u", "v", "spikes"), ("a",)])
@pytest.mark.parametrize(
    ("synapse", "model", "taken"),
    [
        (Conv2d(np.full((3, 1, 2, 2), 2), None, (2, 2), groups=3), ANY, True),
        (Conv2d(np.full((3, 1, 3, 3), 2), None, (2, 2), (1, 1), groups=3), ANY, True),
        (Conv1d(np.full((3, 1, 3), 4), None, (2,), (1,), groups=3), ANY, True),
        (Conv2d(np.full((3, 1, 2, 2), 2), None, (2, 2), groups=3), IntegerLIF(3, 4096, 4096, 0), False),
        (Conv2d(np.full((3, 1, 2, 2), 2), None, (2, 2), groups=3), IntegerLIF(1, 4096, 100, 0), False),
        (Conv2d(np.arange(1, 13).reshape(3, 1, 2, 2), None, (2, 2), groups=3), ANY, False),
        (Conv2d(np.full((3, 3, 2, 2), 2), None, (2, 2)), ANY, False),
        (Conv2d(np.full((3, 1, 2, 2), 2), np.ones(3, int), (2, 2), groups=3), ANY, False),
    ],
)
def test_a_population_that_fires_on_any_spike_is_a_maximum(
    synapse: Any, model: IntegerLIF, taken: bool, record: tuple[Any, ...]
) -> None:
    shape = (3, 7, 6)[: synapse.weight.ndim - 1]
    made = program(
        shape,
        node("any", synapse, "x"),
        node("pool", population(model), "any"),
        node("last", population(model), "pool"),
    )
    x = spikes(np.random.default_rng(2), 5, *made.sample_shape).astype(int)
    expected = simulate(made, x, record=record, engine="reference")
    assert_same(expected, simulate(made, x, record=record, engine="fast"))
    rows = {row.layer: row.kernel for row in explain_engine(made, 5, x.shape[1], wanted=frozenset(record)).rows}
    assert (rows["pool"] == "maximum") == (taken and not {"u", "v", "a"} & set(record))


@pytest.mark.parametrize("first", [ANY, IntegerLIF(3, 4096, 4096, 0)])
def test_a_population_that_is_a_maximum_no_more_gets_its_kernels(first: IntegerLIF) -> None:
    synapse = Conv2d(np.full((3, 1, 2, 2), 2), None, (2, 2), groups=3)
    x = spikes(np.random.default_rng(3), 4, 5, 3, 6, 6).astype(int)
    runs = Again(x, 5)
    for model in (first, ANY, IntegerLIF(3, 4096, 4096, 0), ANY):
        made = program((3, 6, 6), node("any", synapse, "x"), node("pool", population(model), "any"))
        np.testing.assert_array_equal(runs.outputs(made), simulate(made, x, engine="reference").outputs)
        runs.keep()


def test_kernels_are_prepared_for_the_one_thread_that_runs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number the process has: oneDNN packs anew at every call for another number than it packed for."""
    rng = np.random.default_rng(0)
    made = program((8,), node("fc", Linear(rng.integers(-9, 9, (6, 8))), "x"), node("lif", population(ANY), "fc"))
    x = spikes(rng, 9, *made.sample_shape).astype(int)
    real, found = methods.METHODS["f32"].make, []

    def counting(case: Case) -> Any:
        found.append(torch.get_num_threads())
        kernel = real(case)
        return lambda rows: (found.append(torch.get_num_threads()), kernel(rows))[1]

    monkeypatch.setitem(methods.METHODS, "f32", dataclasses.replace(methods.METHODS["f32"], make=counting))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with chunks(100, 2):
            simulate(made, x, engine="fast")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(found) > 2
    assert set(found) == {1}
