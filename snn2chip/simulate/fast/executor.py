"""Runs a plan: chunks of samples, in threads where there are several."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch

from snn2chip.ir.layers import Array
from snn2chip.simulate.data import no_sample
from snn2chip.simulate.fast.chunk import ChunkRun
from snn2chip.simulate.fast.cutting import chunk_of
from snn2chip.simulate.fast.plan import Plan
from snn2chip.simulate.fast.sink import Sink
from snn2chip.simulate.fast.synapses import linear
from snn2chip.simulate.result import Result

# Just below the 32 MiB beyond which glibc learns nothing from a block.
_LARGEST_UNMAPPED = (32 << 20) - (64 << 10)


def execute(
    plan: Plan,
    samples: Array,
    steps: int,
    wanted: frozenset[str],
    *,
    batch_size: int,
    first: int = 0,
    progress: Callable[[int], None] | None,
) -> Result:
    """Run ``samples`` [N, T, ...] or [N, ...]; the Result is the reference engine's, integer for integer.

    ``first`` is the number of the first sample, for messages.
    """
    n = len(samples)
    if n == 0:
        raise no_sample()
    _keep_freed_memory()
    threads = torch.get_num_threads()
    chunk = chunk_of(plan, n, steps, batch_size, threads)
    starts = range(0, n, chunk.samples)
    sink = Sink(plan, n, steps, wanted, first)

    def run(start: int) -> int:
        part = samples[start : start + chunk.samples]
        ChunkRun(plan, sink, start, len(part), steps, chunk, threads if len(starts) == 1 else 1).run(part)
        return len(part)

    with linear.exact_floats(), linear.one_thread() if plan.fused_in(chunk) else contextlib.nullcontext():
        in_turn = len(starts) == 1 or threads == 1
        done = 0
        for finished in map(run, starts) if in_turn else _in_threads(run, starts, min(threads, len(starts))):
            done += finished
            if progress is not None:
                progress(done)
    return sink.result()


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of one layer for the next, where it would give it back and fetch it again.

    It keeps freed memory up to twice the largest block it has unmapped so far (mallopt(3), M_MMAP_THRESHOLD), at most
    64 MiB: whether layers of a few MiB are fetched anew, page by page, must not hang on what a process did before.
    """
    np.empty(_LARGEST_UNMAPPED, np.uint8)


def _in_threads(run: Callable[[int], int], starts: range, workers: int) -> Iterator[int]:
    """Chunks side by side, each with one thread of its own: no kernel waits for another's."""
    before = torch.get_num_threads()

    def alone(start: int) -> int:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return run(start)

    pool = ThreadPoolExecutor(workers, "snn2chip")
    try:
        for future in as_completed([pool.submit(alone, start) for start in starts]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
