"""The fast engine: the reference engine's integers, sooner.

Layer after layer with time folded into the batch where the network is feed-forward, step by step only inside cycles; in
chunks of samples that stay in the cache, side by side in threads. Synapses run on the fastest kernel that is proved and
tested to be exact (``synapses``), populations on a compiled kernel written from the one integer step of their neuron
(``populations``); where a processor can look up what spikes add up to, both are one kernel (``fused``). What has no
fast kernel runs on the definition itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array, Conv, Linear, Neuron
from snn2chip.ir.program import Program
from snn2chip.simulate.counting import dense_macs
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.result import Result

if TYPE_CHECKING:
    from snn2chip.simulate.fast.plan import Plan

# Multiply-accumulates (a neuron update counts as 20) below which preparing costs more than the reference engine.
_WORTHWHILE = 1_000_000_000
_UPDATE = 20

# What can only be recorded if the kernels store it, and what only if synapses stand alone.
_STATES = frozenset({"u", "v"})
_SUMS = frozenset({"a", "out"})

# Prepared programs, most recent last; each holds its program and its weights once more.
_KEPT = 2
_plans: list[tuple[Program, tuple[tuple[bool, bool, int], int], Plan]] = []


@functools.cache
def torch_missing() -> str:
    """Why torch cannot be used; empty where it can."""
    return compiled.cannot_import("torch")


def worthwhile(program: Program, samples: int, steps: int) -> bool:
    """Whether this engine can compile its kernels, covers the program, and repays its preparation."""
    if work(program) * samples * steps < _WORTHWHILE or torch_missing() or compiled.missing():
        return False
    from snn2chip.simulate.fast.prepare import refusal

    return not refusal(program)


def work(network: Network) -> int:
    """Multiply-accumulates of one step of one sample, every input counted as an event, neuron updates weighted."""
    shapes, total = network.shapes(), 0
    for node in network:
        size = math.prod(shapes[node.name])
        if isinstance(node.layer, Linear | Conv):
            total += dense_macs(node.layer, (), shapes[node.name])
        elif isinstance(node.layer, Neuron):
            total += size * _UPDATE
    return total


def plan_for(program: Program, wanted: frozenset[str], samples: int, steps: int) -> Plan:
    """The prepared program for a run that records ``wanted``; kept for the next run of the same kind."""
    from snn2chip.simulate.fast.fusion import fuse
    from snn2chip.simulate.fast.prepare import prepare

    kind, size = (bool(wanted & _STATES), bool(wanted & _SUMS), steps), samples.bit_length()
    for held, (prepared, most), plan in _plans:
        # Sizes only guide the choice among kernels, so what was prepared for more samples serves for fewer.
        if held is program and prepared == kind and size <= most:
            return plan
    plan = prepare(program, wanted, samples, steps)
    if not wanted & (_STATES | _SUMS):
        plan = fuse(plan, samples, steps)
    _plans[:] = [*_plans[-_KEPT + 1 :], (program, (kind, size), plan)]
    return plan


def run(
    program: Program,
    samples: Array,
    steps: int,
    wanted: frozenset[str],
    *,
    batch_size: int,
    first: int = 0,
    progress: Callable[[int], None] | None,
) -> Result:
    """Simulate checked samples; see :func:`snn2chip.simulate.simulate`."""
    from snn2chip.simulate.fast.executor import execute

    plan = plan_for(program, wanted, len(samples), steps)
    return execute(plan, samples, steps, wanted, batch_size=batch_size, first=first, progress=progress)
