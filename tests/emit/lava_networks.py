"""Hand-made Programs that together use everything an emitted Lava project can do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from snn2chip.ir.graph import Edge, in_order
from snn2chip.ir.layers import Conv2d, Flatten, Input, Linear, Neuron, Output, Readout, Rescale
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.alif import ALIF
from snn2chip.neurons.base import FloatNeuron
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.neurons.lnm import LNM
from snn2chip.neurons.per_step import PerStepLIF
from snn2chip.neurons.qif import QIF
from snn2chip.neurons.ternary import TernaryLIF
from snn2chip.neurons.tpp import TPP
from tests.networks import node

A = np.asarray


def _even(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 2 * rng.integers(-40, 70, shape)


def conv_then_dense() -> tuple[Program, np.ndarray]:
    """Native neurons only: strided convolution on a non-square image, flatten, dense, read out as spike counts."""
    rng = np.random.default_rng(1)
    per_channel = rng.integers(-20, 20, (4, 1, 1))
    nodes = [
        node("x", Input((2, 5, 7))),
        node("conv", Conv2d(_even(rng, 4, 2, 3, 3), None, (1, 2), (1, 0)), "x"),
        node("lif1", Neuron(IntegerLIF(A(130), A(300), A(4096), per_channel)), "conv"),
        node("flat", Flatten(), "lif1"),
        node("dense", Linear(_even(rng, 5, 4 * 5 * 3)), "flat"),
        node("lif2", Neuron(IntegerLIF(rng.integers(900, 3000, 5), A(0), A(2000), A(5))), "dense"),
        node("readout", Readout("sum"), "lif2"),
        node("output", Output(), "readout"),
    ]
    formats = {"x": Format(1, False, 1.0, overflow="error")}
    program = Program(in_order(nodes), 6, "steps", load_target("loihi2"), formats, A(1.0)).verify()
    return program, rng.integers(0, 2, (3, 6, 2, 5, 7))


def recurrent_soft_reset_with_delays() -> tuple[Program, np.ndarray]:
    """A gap between samples: recurrence, synaptic delays, and a membrane that starts above zero."""
    rng = np.random.default_rng(2)
    soft = IntegerLIF(A(260), A(200), A(4096), A(7), fire=">=", reset="soft", v_start=rng.integers(0, 9000, 6))
    late = IntegerLIF(A(90), A(50), A(1000), A(0), reset_timing="next", v_reset=A(-300))
    nodes = [
        node("x", Input((8,))),
        node("in", Linear(_even(rng, 6, 8), delay=rng.integers(0, 3, (6, 8))), "x"),
        node("back", Linear(_even(rng, 6, 6)), Edge("soft", delay=1, recurrent=True)),
        node("soft", Neuron(soft), "in", "back"),
        node("out", Linear(_even(rng, 3, 6)), Edge("soft", delay=1)),
        node("late", Neuron(late), "out"),
        node("readout", Readout("last"), Edge("late", port="v")),
        node("output", Output(), "readout"),
    ]
    formats = {"x": Format(1, False, 1.0, overflow="error")}
    program = Program(in_order(nodes), 5, "steps", load_target("loihi2"), formats, A(0.5)).verify()
    return program, rng.integers(0, 2, (3, 5, 8))


def host_on_both_ends() -> tuple[Program, np.ndarray]:
    """Float images, the same at every step: the first convolution and the last layer on the host."""
    rng = np.random.default_rng(3)
    nodes = [
        node("x", Input((1, 4, 6))),
        node("stem", Conv2d(rng.integers(-99, 99, (3, 1, 3, 3)), rng.integers(-999, 999, 3)), "x", placement="host"),
        node("stem.down", Rescale(5), "stem", placement="host"),
        node("lif", Neuron(IntegerLIF(A(300), A(0), A(4096), A(0), reset="soft")), "stem.down"),
        node("flat", Flatten(), "lif"),
        node("dense", Linear(_even(rng, 6, 3 * 2 * 4)), "flat"),
        node("lif2", Neuron(IntegerLIF(A(200), A(100), A(4096), A(0), fire=">=")), "dense"),
        node("head", Linear(rng.integers(-99, 99, (4, 6)), rng.integers(-9, 9, 4)), "lif2", placement="host"),
        node("readout", Readout("sum"), "head"),
        node("output", Output(), "readout"),
    ]
    formats = {"x": Format(8, True, 0.02)}
    program = Program(in_order(nodes), 4, "direct", load_target("loihi2"), formats, A(0.01)).verify()
    return program, rng.normal(size=(3, 1, 4, 6))


def programmed() -> tuple[Program, np.ndarray]:
    """Neurons that Lava does not have, spikes of both signs and a generator per neuron among them."""
    rng = np.random.default_rng(4)
    chip = load_target("loihi2")

    def balanced(*shape: int) -> np.ndarray:
        return 2 * rng.integers(-50, 51, shape)

    def integers(model: FloatNeuron, *shape: int) -> Neuron:
        bias = 0.05 * rng.normal(size=shape)
        return Neuron(model.quantized(bias, 1 / 80, chip.limits, chip.arithmetic))

    factors, offsets = (tuple(rng.normal(mean, 0.2, (8, 5))) for mean in (1.0, 0.0))
    scaled = PerStepLIF(LIF(0.5, 0.8, reset="soft"), factors, offsets)
    nodes = [
        node("x", Input((2, 4, 5))),
        node("conv", Conv2d(balanced(4, 2, 3, 3), None, (1, 1), (1, 0)), "x"),
        node("ternary", integers(TernaryLIF(0.5, 0.7, reset="soft"), 4, 1, 1), "conv"),
        node("pooled", Conv2d(balanced(3, 4, 2, 2)), "ternary"),
        node("qif", integers(QIF(rng.uniform(0.3, 0.9, (3, 1, 1)), carries=True), 3, 1, 1), "pooled"),
        node("flat", Flatten(), "qif"),
        node("dense", Linear(balanced(9, 3 * 3 * 2)), "flat"),
        node("lnm", integers(LNM(0.5, (0.1, -0.7, 0.2, -0.1), "added", None, squash=True), 9), "dense"),
        node("back", Linear(balanced(7, 9)), "lnm"),
        node("recurrent", Linear(balanced(7, 7)), Edge("alif", delay=1, recurrent=True)),
        node("alif", integers(ALIF(0.5, 0.8, 0.9, 0.2, current_decay=0.5), 7), "back", "recurrent"),
        node("on", Linear(balanced(5, 7)), "alif"),
        node("late", integers(ALIF(0.5, 0.8, 0.7, 0.3, reset="adaptive", reset_timing="next"), 5), "on"),
        node("on2", Linear(balanced(5, 5)), "late"),
        node("per_step", integers(scaled, 5), "on2"),
        node("gate", Linear(balanced(6, 5)), "per_step"),
        node("tpp", integers(TPP(0.7, 4, seed=3), 6), "gate"),
        node("last", Linear(balanced(3, 6)), "tpp"),
        node("gather", integers(TPP(np.inf, 4, seed=0, first=4), 3), "last"),
        node("readout", Readout("last"), "gather"),
        node("output", Output(), "readout"),
    ]
    formats = {"x": Format(1, False, 1.0, overflow="error")}
    program = Program(in_order(nodes), 8, "steps", chip, formats, A(0.5)).verify()
    return program, rng.integers(0, 2, (3, 8, 2, 4, 5))


NETWORKS: dict[str, Callable[[], tuple[Program, np.ndarray]]] = {
    f.__name__: f for f in (conv_then_dense, recurrent_soft_reset_with_delays, host_on_both_ends, programmed)
}
