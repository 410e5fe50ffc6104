"""Timing: variants interleaved after one warm-up each, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Variant:
    """One way to compute a network.

    Args:
        run: computes ``samples`` samples.
        threads: of torch, while it runs; None: as the machine has them.
        outputs: what ``run`` returns, as float outputs [N, classes] to compare; None where they compare with nothing.
        every: takes part in one of so many rounds, where it is slow.
    """

    run: Callable[[], Any]
    samples: int
    threads: int | None = None
    outputs: Callable[[Any], np.ndarray] | None = None
    every: int = 1


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within it torch computes with ``count`` threads."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(run: Callable[[], Any]) -> float:
    """What one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# Rounds that are run whatever they take.
_LEAST = 3


def interleaved(variants: Mapping[str, Variant], rounds: int, budget: float = math.inf) -> dict[str, list[float]]:
    """Seconds of every run of every variant; each has run once before.

    After three rounds no new one begins once ``budget`` seconds have passed.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for i in range(rounds):
        if i >= _LEAST and time.perf_counter() - start > budget:
            break
        for name, variant in variants.items():
            if i % variant.every == 0:
                with torch_threads(variant.threads):
                    times[name].append(seconds(variant.run))
    return times


def summary(times: list[float], samples: int) -> dict[str, Any]:
    """Median and quartiles, and the median per sample."""
    low, middle, high = (1000 * float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
    return {
        "samples": samples,
        "runs": len(times),
        "median_ms": middle,
        "quartiles_ms": [low, high],
        "ms_per_sample": middle / samples,
    }
