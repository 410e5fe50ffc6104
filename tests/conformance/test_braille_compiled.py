"""The Braille network on Loihi 2: what eight bits cost, and the same integers in Lava."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.frontend.load import load_graph
from snn2chip.ir.graph import Graph
from snn2chip.ir.program import Program
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate
from snn2chip.verify import verify

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def graph(material: Path) -> Graph:
    return load_graph(material / "braille" / "braille_noDelay_bias_zero.nir", dt=1e-4, reset="zero")


@pytest.fixture(scope="module")
def data(material: Path) -> tuple[Array, Array]:
    with np.load(material / "braille" / "samples.npz") as file:
        shape, labels = file["shape"], file["labels"]
        return np.unpackbits(file["spikes_packed"])[: np.prod(shape)].reshape(shape), labels


@pytest.fixture(scope="module")
def program(graph: Graph, data: tuple[Array, Array]) -> Program:
    return quantize(graph, "loihi2", data[0][::9])


def accuracy(network: Graph | Program, data: tuple[Array, Array]) -> float:
    return float((simulate(network, data[0]).outputs.argmax(1) == data[1]).mean())


def test_eight_bits_cost_at_most_half_a_point(graph: Graph, program: Program, data: tuple[Array, Array]) -> None:
    lost = 100 * (accuracy(graph, data) - accuracy(program, data))
    assert lost <= 0.5
    assert all(row.proved for row in program.quantization)


@pytest.mark.parametrize("seed", [1, 2])
def test_whichever_samples_calibrate(graph: Graph, data: tuple[Array, Array], seed: int) -> None:
    chosen = np.random.default_rng(seed).choice(len(data[0]), 96, replace=False)
    calibrated = quantize(graph, "loihi2", data[0][chosen])
    assert 100 * (accuracy(graph, data) - accuracy(calibrated, data)) <= 0.5


@pytest.mark.parametrize("against", ["lava", "lava-runtime"])
def test_lava_computes_the_same_integers(program: Program, data: tuple[Array, Array], against: str) -> None:
    report = verify(program, data[0][:3], against=against)
    assert report.equal, str(report)
    spikes = simulate(program, data[0][:3], record="spikes")
    assert all(spikes[name].spikes.any() for name in ("lif1.lif", "lif2"))
