"""The Braille network of the NIR paper, trained in snnTorch, against snnTorch's own recording and on real samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.frontend.load import load_graph
from snn2chip.ir.graph import Graph
from snn2chip.simulate import simulate

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def folder(material: Path) -> Path:
    return material / "braille"


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    return load_graph(folder / "braille_noDelay_bias_zero.nir", dt=1e-4, reset="zero")


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_every_spike_of_the_recording(folder: Path, graph: Graph, backend: Any) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    recorded = np.load(folder / "snntorch_activity_noDelay_bias_zero.npy")
    x = np.load(folder / "test0_input.npy")
    result = simulate(graph, x[None], record="spikes", backend=backend)
    np.testing.assert_array_equal(result["lif1.lif"].spikes[0], recorded)
    assert recorded.size == 9728
    assert recorded.sum() == 119


def test_other_resets_do_not_give_the_recording(folder: Path) -> None:
    recorded = np.load(folder / "snntorch_activity_noDelay_bias_zero.npy")
    x = np.load(folder / "test0_input.npy")[None]
    for options in ({"reset": "subtract"}, {"reset": "zero", "reset_timing": "next"}):
        other = load_graph(folder / "braille_noDelay_bias_zero.nir", dt=1e-4, **options)  # type: ignore[arg-type]
        assert (simulate(other, x, record="spikes")["lif1.lif"].spikes[0] != recorded).sum() > 50


def test_accuracy_on_the_samples(folder: Path, graph: Graph) -> None:
    with np.load(folder / "samples.npz") as data:
        shape, labels = data["shape"], data["labels"]
        x = np.unpackbits(data["spikes_packed"])[: np.prod(shape)].reshape(shape)
    assert x.shape == (1158, 256, 12)
    accuracy = float((simulate(graph, x).outputs.argmax(1) == labels).mean())
    assert round(100 * accuracy, 1) == 96.4
