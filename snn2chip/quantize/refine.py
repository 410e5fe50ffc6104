"""Which of the good scales of each population serves the whole network best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from snn2chip.ir.graph import Graph
from snn2chip.ir.program import Program
from snn2chip.quantize.search import Quantized
from snn2chip.quantize.setting import Setting
from snn2chip.simulate import again

# Calibration samples that are run at most; more refine nothing that 8-bit weights can show.
CALIBRATION_SAMPLES = 128
# Values of all layers over all steps and samples that a calibration run holds at most.
CALIBRATION_VALUES = 60_000_000
# Values of all layers that the whole network is run on for each alternative at most.
REFINING_VALUES = 20_000_000


def affordable_samples(graph: Graph, limit: int = CALIBRATION_VALUES) -> int:
    """How many calibration samples are run: as many as hold ``limit`` values over all layers and steps, at least 4."""
    shapes = graph.shapes()
    values = (graph.time_steps or 1) * sum(int(np.prod(shapes[node.name])) for node in graph)
    return min(CALIBRATION_SAMPLES, max(4, limit // values))


def best_by_themselves(shortlists: Mapping[str, Sequence[Quantized]]) -> dict[str, Quantized]:
    """The way that serves each population best."""
    return {name: shortlist[0].as_in_program() for name, shortlist in shortlists.items()}


def refined(
    setting: Setting,
    shortlists: Mapping[str, Sequence[Quantized]],
    build: Callable[[Mapping[str, Quantized]], Program],
) -> dict[str, Quantized]:
    """One alternative per population: the local best, unless another brings the whole network closer to its float self.

    Populations are visited in order; each keeps the alternative with which the outputs on the calibration data deviate
    least. Labels are not looked at.

    Args:
        shortlists: of each population, the best first.
        build: makes the Program of these choices, one per population.
    """
    chosen = best_by_themselves(shortlists)
    first = build(chosen)
    samples = affordable_samples(setting.graph, REFINING_VALUES)
    outputs = setting.reference.outputs[:samples]
    spread = float(((outputs - outputs.mean(axis=0)) ** 2).sum()) or 1.0
    runs = again(first, setting.data[:samples], sum(map(len, shortlists.values())))

    def deviation(program: Program) -> float:
        return float(((runs.outputs(program) - outputs) ** 2).sum()) / spread

    least = deviation(first)
    runs.keep()
    for name, shortlist in shortlists.items():
        for alternative in shortlist[1:]:
            choices = chosen | {name: alternative.as_in_program()}
            found = deviation(build(choices))
            if found < least:
                least, chosen = found, choices
                runs.keep()
    return chosen
