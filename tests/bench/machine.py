"""What the numbers were taken on: only ratios of one run on one machine mean anything."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import seconds
from snn2chip.simulate.fast.fusion import cannot_look_up
from snn2chip.simulate.fast.synapses.linear import has_int8_dot_products
from snn2chip.version import __version__


def machine() -> dict[str, Any]:
    """Processor, threads and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "VNNI": has_int8_dot_products(),
        "look-ups": not cannot_look_up(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "snn2chip": __version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def copy_bandwidth(size: int, moved: int = 1 << 29) -> float:
    """Bytes per second read and written by one thread that copies blocks of ``size`` bytes, ``moved`` bytes in all."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    repeats = max(1, moved // size)

    def run() -> None:
        for _ in range(repeats):
            np.copyto(target, source)

    run()
    return 2 * size * repeats / statistics.median(seconds(run) for _ in range(3))
