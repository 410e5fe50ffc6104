"""Runs that share what is the same, against the definition run anew each time."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from networks import node, program, spikes
from snn2chip.ir.layers import Linear, Neuron
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import again, fast, simulate
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.again import Again
from snn2chip.simulate.fast.chunk import Span
from tests.emit.random_programs import Case, cases

pytest.importorskip("numba")


def changed(program: Program, name: str, how: str) -> Program:
    """The program with other weights in one synapse, or another bias in one population."""
    layer: Any = program[name].layer
    if isinstance(layer, Neuron):
        layer = Neuron(dataclasses.replace(layer.model, bias=layer.model.bias + {"smaller": -1, "other": 7}[how]))
    else:
        weight = layer.weight // 2 if how == "smaller" else np.roll(layer.weight, 1)
        layer = dataclasses.replace(layer, weight=weight)
    return dataclasses.replace(program, nodes={**program.nodes, name: dataclasses.replace(program[name], layer=layer)})


def shared_as_anew(case: Case, draw: Any) -> None:
    """Four programs in a row, each with one layer changed since one of the earlier."""
    names = [n.name for n in case.program if hasattr(n.layer, "weight") or isinstance(n.layer, Neuron)]
    runs = Again(case.x, case.x.shape[1] if case.program.coding == "steps" else case.program.time_steps or 0)
    kept = tried = case.program
    for _ in range(4):
        expected = simulate(tried, case.x, engine="reference").outputs
        np.testing.assert_array_equal(runs.outputs(tried), expected)
        if draw.draw(st.booleans()):
            runs.keep()
            kept = tried
        tried = changed(kept, draw.draw(st.sampled_from(names)), draw.draw(st.sampled_from(["smaller", "other"])))


@settings(max_examples=examples(50), deadline=None)
@given(case=cases(), draw=st.data())
def test_random_programs_with_layers_that_change(case: Case, draw: Any) -> None:
    # Compiling every kernel would take longer than all the rest.
    with mock.patch.object(compiled, "missing", return_value="left out"):
        shared_as_anew(case, draw)


@settings(max_examples=examples(3), deadline=None)
@given(case=cases(), draw=st.data())
def test_the_same_with_compiled_kernels(case: Case, draw: Any) -> None:
    shared_as_anew(case, draw)


def test_only_what_follows_a_change_is_computed() -> None:
    rng = np.random.default_rng(0)
    model = IntegerLIF(v_threshold=40, decay_v=1000, decay_u=4096, bias=3)
    nodes, source = [], "x"
    for i in range(4):
        nodes += [node(f"fc{i}", Linear(2 * rng.integers(-60, 61, (12, 12))), source)]
        nodes += [node(f"lif{i}", Neuron(model), f"fc{i}")]
        source = f"lif{i}"
    made = program((12,), *nodes)
    x = spikes(rng, 6, made.time_steps, 12)
    with mock.patch.object(fast, "_WORTHWHILE", 0):
        runs = again(made, x, 2)
    runs.outputs(made)
    runs.keep()
    other = changed(made, "fc2", "other")
    with mock.patch.object(Span, "compute", autospec=True, side_effect=Span.compute) as computed:
        found = runs.outputs(other)
    names = [n.name for call in computed.call_args_list for n in call.args[1].nodes]
    assert names == ["fc2", "lif2", "fc3", "lif3", "readout", "output"]
    np.testing.assert_array_equal(found, simulate(other, x, engine="reference").outputs)
    with mock.patch.object(Span, "compute", autospec=True, side_effect=Span.compute) as computed:
        runs.outputs(made)
    assert [n.name for call in computed.call_args_list for n in call.args[1].nodes] == ["output"]
