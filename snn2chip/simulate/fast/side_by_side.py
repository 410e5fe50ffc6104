"""Threads for the parts of one population, where there are fewer chunks than threads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def side_by_side(calls: Sequence[Callable[[], None]]) -> None:
    """Run one or more calls that let go of the interpreter, the first of them in this thread."""
    others = [_pool(len(calls) - 1).submit(call) for call in calls[1:]]
    calls[0]()
    for other in others:
        other.result()


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "snn2chip")


# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
