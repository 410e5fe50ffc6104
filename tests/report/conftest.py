"""One report for the tests of its views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from networks import graph, node, population, spikes, weights
from snn2chip.ir.layers import Conv2d, Flatten, Linear
from snn2chip.neurons.lif import LIF
from snn2chip.quantize import quantize
from snn2chip.report import collect
from snn2chip.simulate import simulate
from snn2chip.verify.measure import measure


@pytest.fixture(scope="session")
def report() -> dict[str, Any]:
    """A small net with labels that a tenth of the answers miss, and every section filled."""
    rng = np.random.default_rng(5)
    net = graph(
        (2, 6, 6),
        node("conv", Conv2d(weights(rng, 4, 2, 3, 3, gain=2)), "x"),
        node("<lif> & 1", population(LIF(0.5, 0.7)), "conv"),
        node("flat", Flatten(), "<lif> & 1"),
        node("fc", Linear(weights(rng, 5, 64, gain=2)), "flat"),
        node("lif_2", population(LIF(0.5, 0.8, reset="soft")), "fc"),
    )
    x = spikes(rng, 80, 5, 2, 6, 6)
    labels = simulate(net, x).outputs.argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 5
    program = quantize(net, calibration=x[:40])
    return collect(
        program,
        subject={"model": "net.py:make", "notes": ["A remark | with a bar."]},
        measurement=measure(net, program, x, labels),
        labels=labels,
        verification=[
            {"against": "lava", "ran": True, "equal": True, "detail": "all 1,234 values equal"},
            {"against": "a recording", "ran": True, "equal": False, "detail": "lif_2: v is 3 instead of 4"},
            {"against": "lava-runtime", "ran": False, "equal": None, "detail": "lava-nc is not installed"},
        ],
        versions={"python": "3.11"},
        inputs={"weights file": "ab" * 32},
        artefacts=[{"path": "model.nir", "sha256": "cd" * 32, "bytes": 12345}],
        not_done=[{"what": "model.net", "why": "first reason\nsecond reason", "fix": "use lava/"}],
    )
