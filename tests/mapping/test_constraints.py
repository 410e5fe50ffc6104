"""Every limit of a target is broken once, on purpose, and must be named with both sides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.layers import Delay, Input, Linear, Neuron, Output, Readout
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.mapping import check, require
from snn2chip.neurons.lif import IntegerLIF

GOOD = IntegerLIF(np.asarray(64), np.asarray(410), np.asarray(4096), np.asarray(0))


def net(
    target: str = "loihi1",
    neuron: IntegerLIF = GOOD,
    weight: np.ndarray | None = None,
    exponent: int = 0,
    input_bits: int = 1,
    delay: int = 0,
    relay: int = 0,
    inputs: int = 2,
) -> Program:
    stored = np.full((3, inputs), 4, dtype=np.int64) if weight is None else weight
    nodes = [
        Node("input", Input((inputs,))),
        Node("fc", Linear(stored), (Edge("input", delay=delay),)),
        Node("wait", Delay(relay), (Edge("fc"),)),
        Node("lif", Neuron(neuron), (Edge("wait"),)),
        Node("sum", Readout("sum"), (Edge("lif"),), placement="host"),
        Node("out", Output(), (Edge("sum"),)),
    ]
    formats = {
        "input": Format(input_bits, False, 1.0, overflow="error"),
        "fc.weight": Format(9 + max(exponent, 0), True, 1.0, exponent),
    }
    return Program(in_order(nodes), 4, "steps", load_target(target), formats, np.asarray(1.0))


def test_a_sound_network_breaks_nothing() -> None:
    assert check(net()) == []
    require(net())


@pytest.mark.parametrize(
    ("broken", "rule", "found"),
    [
        (net(weight=np.array([[300, -2]])), "weights.range", "-2…300"),
        (net(weight=np.array([[3, -2]])), "weights.step", "1 of 2 weights"),
        (net(weight=np.array([[4, 5]]) << 9, exponent=9), "weights.exponent", "exponent 9"),
        (net(weight=np.array([[8, 5]]), exponent=2), "weights.exponent", "1 weights are no multiple of 2**2"),
        (
            net(neuron=dataclasses.replace(GOOD, v_threshold=np.asarray(131072))),
            "limits.threshold_max",
            "131072",
        ),
        (net(neuron=dataclasses.replace(GOOD, bias=np.array([0, 1, -5000]))), "limits.bias_max", "-5000…1"),
        (net(neuron=dataclasses.replace(GOOD, bias_exp=9)), "limits.bias_exp", "9"),
        (net(neuron=dataclasses.replace(GOOD, decay_v=np.asarray(4097))), "arithmetic.decay_bits", "4097"),
        (net(neuron=dataclasses.replace(GOOD, reset="soft")), "limits.custom_neurons", "soft reset"),
        (net(input_bits=8), "limits.input_bits", "8 bits"),
        (net(delay=63), "limits.delay_max", "63 steps"),
        (net(relay=99), "limits.delay_max", "99 steps"),
        (net(inputs=5000), "cores.axons_in", "5000 inputs"),
    ],
)
def test_each_limit(broken: Program, rule: str, found: str) -> None:
    violations = check(broken)
    assert rule in [v.rule for v in violations]
    assert any(found in v.found for v in violations if v.rule == rule)


def test_loihi2_takes_what_loihi1_refuses() -> None:
    assert check(net("loihi2", neuron=dataclasses.replace(GOOD, reset="soft"), input_bits=8, inputs=5000)) == []


def test_weights_of_one_sign_may_be_odd() -> None:
    assert check(net(weight=np.array([[3, 255]]))) == []


def test_all_violations_come_at_once() -> None:
    bad = net(
        weight=np.array([[301, -2]]),
        neuron=dataclasses.replace(GOOD, v_threshold=np.asarray(1 << 20)),
        delay=63,
    )
    with pytest.raises(S2CError) as caught:
        require(bad)
    text = str(caught.value)
    assert "breaks 4 limits of Intel Loihi" in text
    assert all(rule in text for rule in ("weights.range", "weights.step", "limits.delay_max", "limits.threshold_max"))


def test_host_layers_are_free() -> None:
    bad = net(weight=np.array([[3001, -2]]))
    assert check(bad.with_nodes(dataclasses.replace(n, placement="host") for n in bad)) == []
