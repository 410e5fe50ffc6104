"""Neuron models stepped by hand, and integer arithmetic written a second time on Python's own integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.target import load_target
from snn2chip.neurons.base import FloatNeuron, IntegerNeuron
from snn2chip.simulate.ops import NumpyOps

LOIHI = load_target("loihi2")
REGISTER = (1 << 23) - 1
_OPS = NumpyOps()


def float_run(model: FloatNeuron, xs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(h, v, output), each [T, ...], in float64, for inputs ``xs`` [T, ...] of one sample."""
    xs = np.asarray(xs, dtype=np.float64)[:, None]
    state, rows = model.start(xs[0], _OPS), []
    for x in xs:
        state, out = model.step(state, x, _OPS)
        rows.append((state["h"][0], state["v"][0], out[0]))
    h, v, out = zip(*rows, strict=True)
    return np.stack(h), np.stack(v), np.stack(out)


def integer_run(
    neuron: IntegerNeuron, sums: Any, arithmetic: Arithmetic = LOIHI.arithmetic
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(states by name, output), each [T, ...], for summed inputs [T, ...] of one sample."""
    sums = np.asarray(sums, dtype=np.int64)[:, None]
    state, states, outs = neuron.start(sums.shape[1:]), [], []
    for a in sums:
        state, out = neuron.step(state, a, arithmetic)
        states.append({name: value[0] for name, value in state.items()})
        outs.append(out[0])
    return {name: np.stack([s[name] for s in states]) for name in states[0]}, np.stack(outs)


def one_step(neuron: IntegerNeuron, state: dict[str, Any], a: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A single step from any state."""
    arrays = {name: np.asarray(value, dtype=np.int64) for name, value in state.items()}
    return neuron.step(arrays, np.asarray(a, dtype=np.int64), LOIHI.arithmetic)


def shifted(x: int, bits: int) -> int:
    """Division by 2**bits, rounded toward zero."""
    return abs(x) // 2**bits * (1 if x >= 0 else -1)


def saturated(x: int) -> int:
    """As the membrane's 24-bit register."""
    return max(-REGISTER, min(REGISTER, x))


def wrapped_once(x: int) -> int:
    """As the current's 24-bit register in Lava's model: one correction."""
    if x > REGISTER + 1:
        x -= 1 << 24
    if x <= -REGISTER - 1:
        x += 1 << 24
    return x
