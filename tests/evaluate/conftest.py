"""A tiny classifier, samples for it, and what one simulation over all of them says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from networks import node, population, program
from snn2chip.evaluate import Evaluation
from snn2chip.ir.layers import Linear
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import Result, simulate


def classifier(rng: np.random.Generator, inputs: int = 6, hidden: int = 12) -> Program:
    """Two layers of LIF neurons, three classes, four steps of spikes."""
    return program(
        (inputs,),
        node("fc1", Linear(2 * rng.integers(-60, 60, (hidden, inputs))), "x"),
        node("lif1", population(IntegerLIF(100, 1000, 4096, 0)), "fc1"),
        node("fc2", Linear(2 * rng.integers(-60, 60, (3, hidden))), "lif1"),
        node("lif2", population(IntegerLIF(100, 1000, 4096, 0)), "fc2"),
        time_steps=4,
    )


@dataclass(frozen=True)
class Whole:
    """Everything at once: what every evaluation in parts has to equal."""

    program: Program
    x: np.ndarray
    y: np.ndarray
    result: Result

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation.of(self.result, self.y)


@pytest.fixture(scope="session")
def whole() -> Whole:
    rng = np.random.default_rng(3)
    made = classifier(rng)
    x = (rng.random((103, 4, 6)) < 0.4).astype(np.uint8)
    return Whole(made, x, rng.integers(0, 3, len(x)), simulate(made, x))
