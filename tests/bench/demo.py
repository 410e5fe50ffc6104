"""The network of examples/digits.py against Lava, which is timed on it alone: its runtime takes seconds a sample."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

import snn2chip as s2c
from bench.forms import FOLDED, WRITTEN
from bench.measure import Variant, seconds
from bench.variants import Case, add_engines, in_the_best_parts, inference
from examples import digits
from snn2chip.ir.program import Program
from snn2chip.verify.lava import project, shim

RUNTIME, IN_PROCESS = "Lava's runtime", "Lava's model classes, one process"
# A run's first sample waits until Lava's processes have started: the second and further ones are what a sample takes.
_FURTHER = {RUNTIME: 33, IN_PROCESS: 17}


def demo_case(samples: int | None = None, epochs: int = 5) -> Case:
    """The example's network after some epochs, on its test set; the engines' integers compared."""
    torch.manual_seed(0)
    model = digits.train(epochs=epochs)
    images = digits.test_data()[0][:samples]
    graph = s2c.trace(model, images[:2], time_steps=digits.TIME_STEPS)
    program = s2c.quantize(graph, calibration=digits.calibration_data(), refine=False)
    found = Case("examples/digits.py, 1×8×8, trained", len(images), digits.TIME_STEPS, program)
    x = torch.from_numpy(images)
    found.variants[WRITTEN] = Variant(inference(model, x), len(x), outputs=lambda out: out.numpy())
    folded = in_the_best_parts(partial(_folded, model), x, digits.TIME_STEPS)
    found.variants[FOLDED] = Variant(folded, len(x), outputs=lambda out: out.numpy())
    add_engines(found, images)
    for variant in found.variants.values():
        variant.run()
    return found


def _folded(model: digits.Digits, x: torch.Tensor) -> torch.Tensor:
    def lif(current: torch.Tensor, module: digits.LIF) -> torch.Tensor:
        v: Any = 0.0
        spikes = []
        for now in current.view(-1, len(x), *current.shape[1:]).expand(digits.TIME_STEPS, -1, *current.shape[1:]):
            h = torch.add(now, v, alpha=module.decay)
            fired = h > module.v_threshold
            v = h.masked_fill(fired, 0.0)
            spikes.append(fired.to(h.dtype))
        return torch.cat(spikes)

    x = x.contiguous(memory_format=torch.channels_last)
    h = lif(model.bn1(model.conv1(x)), model.lif1)
    h = lif(model.bn2(model.conv2(h)), model.lif2)
    h = lif(model.fc1(model.pool(h).flatten(1)), model.lif3)
    return model.fc2(h).view(digits.TIME_STEPS, len(x), -1).mean(0)


def lava_seconds_per_sample(program: Program, images: np.ndarray) -> dict[str, float]:
    """Of a further sample, beyond the first, in Lava's own executions; both give the Program's integers."""
    runs = {RUNTIME: partial(project.in_runtime, timeout=300), IN_PROCESS: project.in_process}
    expected = s2c.simulate(program, images[:1], engine="reference").outputs_int
    taken = {}
    for name, run in runs.items():
        np.testing.assert_array_equal(run(program, images[:1]).outputs, expected)
        one, many = (seconds(partial(run, program, images[:n])) for n in (1, _FURTHER[name]))
        taken[name] = (many - one) / (_FURTHER[name] - 1)
    return taken


def lava_missing() -> str:
    """Why Lava is not timed; empty where it is."""
    return "" if shim.installed() else "Lava is not installed"
