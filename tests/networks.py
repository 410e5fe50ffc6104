"""Small networks that several test files use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from snn2chip.ir.graph import Coding, Edge, Graph, Node, in_order
from snn2chip.ir.layers import BatchNorm, Input, Layer, Neuron, Output, Readout
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import LIF, IntegerLIF


def node(name: str, layer: Layer, *sources: str | Edge, **options: Any) -> Node:
    edges = tuple(s if isinstance(s, Edge) else Edge(s) for s in sources)
    return Node(name, layer, edges, **options)


def graph(
    shape: tuple[int, ...], *nodes: Node, time_steps: int = 5, coding: Coding = "steps", how: Any = "sum"
) -> Graph:
    """Input "x", the nodes, a read-out of the last one."""
    ends = (node("readout", Readout(how), nodes[-1].name), node("output", Output(), "readout"))
    return Graph(in_order([node("x", Input(shape)), *nodes, *ends]), time_steps, coding).verify()


def program(
    shape: tuple[int, ...], *nodes: Node, time_steps: int = 5, target: str = "loihi2", bits: int = 1
) -> Program:
    """The same for integer layers and whole-number inputs of ``bits`` bits."""
    ends = (node("readout", Readout("sum"), nodes[-1].name), node("output", Output(), "readout"))
    everything = in_order([node("x", Input(shape)), *nodes, *ends])
    formats = {"x": Format(bits, False, 1.0, overflow="error")}
    return Program(everything, time_steps, "steps", load_target(target), formats, np.asarray(1.0)).verify()


def population(model: LIF | IntegerLIF) -> Neuron:
    return Neuron(model)


def weights(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> np.ndarray:
    """Normal weights whose sums have a spread of ``gain``."""
    return (gain * rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def batch_norm(rng: np.random.Generator, channels: int) -> BatchNorm:
    """Statistics far from the identity, so that a fold that drops a part is seen."""
    arrays: Iterable[np.ndarray] = (
        rng.uniform(0.8, 2.0, channels),
        rng.normal(0, 0.3, channels),
        rng.normal(0, 0.2, channels),
        rng.uniform(0.2, 1.0, channels),
    )
    return BatchNorm(*(a.astype(np.float32) for a in arrays))


def spikes(rng: np.random.Generator, *shape: int, rate: float = 0.4) -> np.ndarray:
    return (rng.uniform(size=shape) < rate).astype(np.float32)
