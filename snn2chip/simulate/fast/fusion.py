"""Which populations run fused with their synapses: those whose sums can be looked up, and sooner than multiplied.

Both ways are run on the same random spikes. Fused is taken where every spike is the same and the clock is for it.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from snn2chip.errors import first_line
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Conv, Linear, Shape
from snn2chip.simulate.counting import dense_macs
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.absorbed import Read
from snn2chip.simulate.fast.chunk import ChunkRun, Span
from snn2chip.simulate.fast.components import Component
from snn2chip.simulate.fast.cutting import SAMPLES
from snn2chip.simulate.fast.fused.lanes import REGISTER, Grid, Lanes
from snn2chip.simulate.fast.fused.population import Fused, Fusion
from snn2chip.simulate.fast.fused.taps import Taps
from snn2chip.simulate.fast.plan import Chunk, Plan
from snn2chip.simulate.fast.populations.codegen import DoesNotFitError
from snn2chip.simulate.fast.sink import Sink
from snn2chip.simulate.fast.synapses import linear
from snn2chip.simulate.fast.synapses.choice import milliseconds
from snn2chip.simulate.ranges import SPIKES

_MACHINE_CODE = "snn2chip.simulate.fast.fused.lookup"
# Products of a population in one chunk below which compiling and trying it costs more than it could ever save.
_WORTHWHILE = 20_000_000
# Steps of a trial where they fill a register, and the share of the sources that fire.
_STEPS = 4
_RATE = 0.25


@dataclass(frozen=True)
class Reading:
    """What a population reads: the source's spikes, and how."""

    source: str
    taps: Taps


def fuse(plan: Plan, samples: int, steps: int) -> Plan:
    """The plan with every population fused that gains by it, in runs of about that size."""
    at_once = Lanes.filled(Lanes.full(min(samples, SAMPLES)), samples, steps)
    chunk = Chunk(at_once, min(steps, max(_STEPS, REGISTER // at_once)))
    if compiled.missing() or not Lanes(chunk.steps, chunk.samples).worthwhile or cannot_look_up():
        return plan
    found = {node.name: reads for node in plan.program.neurons if (reads := _readings(plan, node))}
    readings = {name: reads for name, reads in found.items() if _macs(plan, name, reads, chunk) >= _WORTHWHILE}
    grids = _grids(plan, readings)
    with linear.exact_floats(), linear.one_thread():
        tried = {name: _tried(plan, name, reads, grids, chunk) for name, reads in readings.items()}
    populations = {name: fused for name, (fused, _) in tried.items() if fused is not None}
    reads_of = {name: tuple(read.source for read in readings[name]) for name in populations}
    in_words = {*populations, *plan.maxima, *itertools.chain(*reads_of.values())}
    kept = {name: grid for name, grid in grids.items() if name in in_words}
    why = {name: said for name, (_, said) in tried.items()}
    return replace(plan, fusion=Fusion(populations, reads_of, kept, why, _share(plan, populations.keys())))


def _share(plan: Plan, fused: Collection[str]) -> float:
    """Of all products of a step, those of synapses that are fused with these populations."""
    macs: dict[str, int] = {}
    for node in plan.program:
        if node.name in plan.static or node.name in plan.without_kernel:
            continue
        inputs = [plan.shapes[edge.source] for edge in node.inputs]
        macs[node.name] = dense_macs(node.layer, inputs, plan.shapes[node.name])
    inside = sum(n for name, n in macs.items() if plan.absorbed.streamed.get(name) in fused)
    return inside / max(1, sum(macs.values()))


def cannot_look_up() -> str:
    """Why nothing can be looked up here; empty where it can."""
    if unloadable := compiled.cannot_import(_MACHINE_CODE):
        return unloadable
    why: str = importlib.import_module(_MACHINE_CODE).missing()
    return why


def _tried(
    plan: Plan, name: str, reads: tuple[Reading, ...], grids: Mapping[str, Grid], chunk: Chunk
) -> tuple[Fused | None, str]:
    """A population fused with its synapses, where that is exact and sooner, and what came of the trial."""
    try:
        fused = Fused(plan.populations[name], [(grids[read.source], read.taps) for read in reads], grids[name])
        alone = Fusion({name: fused}, {name: tuple(read.source for read in reads)}, grids)
        different, together, apart = _compared(replace(plan, fusion=alone), plan, name, chunk)
    except DoesNotFitError as error:
        return None, str(error)
    except Exception as error:  # whatever another numba or LLVM raises for machine code that it does not take
        return None, f"it cannot be compiled here: {first_line(error)}"
    if different:
        return None, f"its self-test has {different} spikes wrong"
    return fused if together < apart else None, f"{together:.2f} ms, apart {apart:.2f} ms"


def _readings(plan: Plan, node: Node) -> tuple[Reading, ...]:
    """Everything a population reads, where all of it is spikes whose sums can be looked up; else nothing."""
    name = node.name
    alone = name in plan.maxima or plan.keeps_states(name) or name in plan.static or (name, "out") in plan.history
    stepped = any(c.stepped and node in c.nodes for c in plan.components)
    if alone or stepped or not plan.absorbed.reads[name]:
        return ()
    found = [_reading(plan, read) for read in plan.absorbed.reads[name]]
    return tuple(found) if all(found) else ()  # type: ignore[arg-type]


def _reading(plan: Plan, read: Read) -> Reading | None:
    """One of the things a population reads, where it is spikes of this step, channels first."""
    synapse = plan.program[read.edge.source]
    if read.gain is not None:
        edge, taps = read.edge, Taps.of(read.gain)
        one_per_channel = read.gain.shape == (len(read.gain), *(1,) * (len(plan.shapes[edge.source]) - 1))
    elif synapse.name in plan.absorbed.streamed:
        assert isinstance(synapse.layer, Linear | Conv)
        edge, taps = synapse.inputs[0], Taps.of(synapse.layer)
        one_per_channel = isinstance(synapse.layer, Conv) or len(plan.shapes[edge.source]) == 1
    else:
        return None
    now = edge.port == "out" and not edge.delay and edge.source not in plan.static
    if taps is None or not one_per_channel or not now or len(plan.shapes[edge.source]) > 3:
        return None
    return Reading(edge.source, taps) if plan.ranges.of(edge.source).within(SPIKES) else None


def _macs(plan: Plan, name: str, readings: tuple[Reading, ...], chunk: Chunk) -> int:
    places = math.prod(plan.shapes[name][1:])
    return sum(places * int(np.count_nonzero(read.taps.weight)) for read in readings) * chunk.samples * chunk.steps


def _grids(plan: Plan, readings: Mapping[str, tuple[Reading, ...]]) -> dict[str, Grid]:
    """Of every population that sends or is read as words: a border as wide as its widest reader's windows reach."""
    grids = {name: Grid(plan.shapes[name]) for name in (*readings, *plan.maxima)}
    for name, reads in readings.items():
        for read in reads:
            known = grids.setdefault(read.source, Grid(plan.shapes[read.source]))
            before, after = read.taps.reach(known.space, Grid(plan.shapes[name]).space)
            wider = [tuple(map(max, *pair)) for pair in ((known.before, before), (known.after, after))]
            grids[read.source] = Grid(known.shape, *wider)  # type: ignore[arg-type]
    return grids


def _compared(fused: Plan, apart: Plan, name: str, chunk: Chunk) -> tuple[int, float, float]:
    """A population in two plans on the same spikes: how many it sends differ, and the milliseconds of both."""
    rng = torch.Generator().manual_seed(0)
    spikes = {source: _random(fused.shapes[source], chunk, rng) for source in fused.fusion.reads[name]}
    component, key = Component((fused.program[name],), stepped=False), (name, "out")
    results, times = [], []
    for plan in (fused, apart):
        sink = Sink(plan, chunk.samples, chunk.steps, frozenset(), 0)
        span = Span(ChunkRun(plan, sink, 0, chunk.samples, chunk.steps, chunk), 0, chunk.steps)
        span.values.update({(source, "out"): x for source, x in spikes.items()})

        def run(span: Span = span) -> None:
            span.values.pop(key, None)
            span.compute(component, torch.empty(0))

        times.append(milliseconds(run))
        results.append(span.value(key))
    return int(np.count_nonzero(results[0] != results[1])), times[0], times[1]


def _random(shape: Shape, chunk: Chunk, rng: torch.Generator) -> torch.Tensor:
    """Spikes [T, N, *shape], channels last in memory; in one step of one sample everything fires."""
    size = (chunk.steps, chunk.samples, *shape[1:], shape[0])
    spikes = (torch.rand(size, generator=rng) < _RATE).to(torch.uint8)
    spikes[-1, -1] = 1
    return spikes.movedim(-1, 2)
