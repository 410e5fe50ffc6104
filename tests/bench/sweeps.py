"""Time and peak memory against the number of steps, the batch, the number of layers, and the firing rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import snn2chip as s2c
from bench.forms import FOLDED, WRITTEN
from bench.memory import FAST, Job, keep, kept, workers
from bench.networks import NETS, named
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Neuron
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import IntegerLIF

STEPS, SAMPLES = 4, 8
# Of Loihi's membrane decay and threshold.
NO_MEMORY, HIGHEST_THRESHOLD = 4096, 2**17 - 1


@dataclass(frozen=True)
class Sweep:
    """One axis.

    Args:
        axis: what varies, for people.
        points: its values. quick: those of a quick run.
        jobs: what is measured at one of them, from the folder that Programs are written to.
    """

    axis: str
    points: tuple[float, ...]
    quick: tuple[float, ...]
    jobs: Callable[[float, Path], list[Job]]


def _jobs(net: str, program: Path, steps: int = STEPS, samples: int = SAMPLES) -> list[Job]:
    return [Job(variant, net, steps, samples, str(program)) for variant in (FAST, FOLDED, WRITTEN)]


def _written(program: Callable[[], Program], path: Path) -> Path:
    if not path.exists():
        keep(program(), path)
    return path


def _vgg(folder: Path) -> Path:
    return _written(lambda: NETS["vgg"].program(STEPS), folder / "vgg.program")


def _layers(count: float, folder: Path) -> list[Job]:
    name = f"chain-{count:.0f}"
    return _jobs(name, _written(lambda: named(name).program(STEPS), folder / f"{name}.program"))


def _rates(rate: float, folder: Path) -> list[Job]:
    x = NETS["vgg"].data(2, STEPS).numpy()
    path = _written(lambda: at_rate(kept(_vgg(folder)), x, rate), folder / f"vgg-{rate}.program")
    return [Job(FAST, "vgg", STEPS, SAMPLES, str(path))]


SWEEPS: dict[str, Sweep] = {
    "steps": Sweep("time steps", (1, 2, 4, 8, 16, 32), (1, 4), lambda t, d: _jobs("vgg", _vgg(d), steps=int(t))),
    "batch": Sweep("samples at once", (1, 4, 16, 64), (1, 4), lambda n, d: _jobs("vgg", _vgg(d), samples=int(n))),
    "layers": Sweep("convolutions", (2, 4, 8, 16), (2, 4), _layers),
    "rate": Sweep("share of neurons that fire in a step", (0.01, 0.05, 0.1, 0.2, 0.4), (0.1, 0.3), _rates),
}


def at_rate(program: Program, x: np.ndarray, rate: float) -> Program:
    """The program with one threshold per leaky population, with which about ``rate`` of it fires at each step."""
    for name in [node.name for node in program.neurons]:
        node, model = program[name], program[name].layer.model
        if isinstance(model, IntegerLIF) and ((model.decay_v > 0) & (model.decay_v < NO_MEMORY)).all():
            summed = s2c.simulate(program, x, record="a", engine="fast")[name].a
            layer = Neuron(_firing_at(model, summed, rate, program.target.arithmetic))
            nodes = [dataclasses.replace(n, layer=layer) if n is node else n for n in program]
            program = dataclasses.replace(program, nodes={n.name: n for n in nodes})
    return program.verify()


def _firing_at(model: IntegerLIF, summed: np.ndarray, rate: float, arithmetic: Arithmetic) -> IntegerLIF:
    low, high = 0, HIGHEST_THRESHOLD
    while high - low > 1:
        middle = dataclasses.replace(model, v_threshold=np.asarray((low + high) // 2))
        state, fired = middle.start(summed[:, 0].shape), 0.0
        for t in range(summed.shape[1]):
            state, out = middle.step(state, summed[:, t], arithmetic)
            fired += float(out.mean()) / summed.shape[1]
        low, high = ((low + high) // 2, high) if fired > rate else (low, (low + high) // 2)
    return dataclasses.replace(model, v_threshold=np.asarray(high))


def measured(folder: Path, *, quick: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """(sweep, row) of every point and variant, as they come."""
    with workers() as run:
        for name, sweep in SWEEPS.items():
            for point in sweep.quick if quick else sweep.points:
                for job in sweep.jobs(point, folder):
                    yield name, {"axis": sweep.axis, "at": point, "variant": job.variant, **run(job)}
