"""How much of a run is computed at once: samples and steps of a chunk, and of a piece of one population."""

from __future__ import annotations

import math
from collections.abc import Mapping

from snn2chip.simulate.fast.fused.lanes import REGISTER, Lanes
from snn2chip.simulate.fast.plan import Chunk, Plan

# Bytes of one layer's sums in one chunk. Most are streamed; spikes, a quarter of it, then stay in the last-level cache,
# and the allocator reuses memory instead of asking the system for it.
CHUNK_BYTES = 8 << 20
# The same of words, where spikes are (``words.py``).
LANES_BYTES = 2 << 20
# Samples that are better run side by side, and fewer steps at once, than the other way round.
SAMPLES = 8
# The share of the products that are fused for which threads share one chunk, and work alone on everything else.
_MOST = 0.75
# Steps that are not cut.
_FEW_STEPS = 8
# Bytes of the sums that are computed and read at once on the way into a population: they stay in a second-level cache,
# and are enough to repay the calls.
PIECE_BYTES = 1 << 20


def chunk_of(plan: Plan, samples: int, steps: int, limit: int | None = None, workers: int = 1) -> Chunk:
    """How much is computed at once where ``workers`` threads share the samples, and at most ``limit`` are wanted."""
    most = min(samples, limit or samples)
    if plan.fusion.populations:
        whole = _in_lanes(plan, most, steps)
        ways = (whole, _in_lanes(plan, min(most, math.ceil(samples / workers)), steps))
        shared = (Chunk(_shared(way.samples, samples, workers), way.steps) for way in ways)
        chunk = max(shared, key=lambda chunk: Lanes(chunk.steps, chunk.samples).used)
        if plan.fused_in(chunk):
            return chunk
        # Threads can also share the places of the only chunk: of what is fused.
        if plan.fused_in(whole) and whole.samples == samples and plan.fusion.share >= _MOST:
            return whole
    room = max(1, CHUNK_BYTES // max(1, _largest(plan, plan.step_bytes, steps)))
    # Steps of a cycle are taken one by one: many samples at once amortise the calls.
    stepped = any(component.stepped for component in plan.components)
    at_once = _shared(max(1, min(most, room if stepped else room // steps)), samples, workers)
    return Chunk(at_once, max(1, min(steps, room // at_once)))


def _largest(plan: Plan, sizes: Mapping[str, int], steps: int) -> int:
    """Bytes of the largest layer for one step of one sample."""
    return max((size // steps if name in plan.static else size for name, size in sizes.items()), default=1)


def _shared(at_once: int, samples: int, workers: int) -> int:
    """Samples at once, fewer where the threads then share them evenly."""
    if workers > 1 and samples > at_once:
        rounds = math.ceil(samples / (at_once * workers)) * workers
        return math.ceil(samples / rounds)
    return max(1, min(at_once, math.ceil(samples / workers)))


def _in_lanes(plan: Plan, most: int, steps: int) -> Chunk:
    """So many samples and steps that they fill registers and, where that is no more, stay in a second-level cache."""
    room = max(1, LANES_BYTES // max(1, _largest(plan, plan.fused_bytes, steps)))
    samples = Lanes.full(min(most, max(SAMPLES, room // steps)))
    if steps <= _FEW_STEPS:
        return Chunk(Lanes.filled(samples, most, steps), steps)
    whole = max(1, REGISTER // Lanes(1, samples).batch)
    return Chunk(samples, min(steps, max(1, room // samples // whole) * whole))


def piece_of(plan: Plan, name: str, samples: int, steps: int) -> Chunk:
    """How much of a population is computed at once: all, or what keeps its streamed sums within ``PIECE_BYTES``."""
    bytes_ = sum(plan.step_bytes[source] for source in plan.streamed_into(name))
    room = max(1, PIECE_BYTES // bytes_) if bytes_ else samples * steps
    return Chunk(max(1, min(samples, room // steps)), min(steps, room))
