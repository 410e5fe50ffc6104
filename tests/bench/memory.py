"""Peak memory and time of one variant in a process of its own, started from a server that has the imports done."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import multiprocessing
import pickle
import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snn2chip as s2c
from bench import forms
from bench.measure import seconds
from bench.networks import named
from bench.variants import inference
from snn2chip.ir.program import Program
from snn2chip.ir.program_file import pack, unpack
from snn2chip.simulate.explain import explain_engine

# Functions do not travel between processes; names of networks do.
FAST = "snn2chip fast"


@dataclass(frozen=True)
class Job:
    """One measurement.

    Args:
        variant: a form's name, or ``FAST``.
        net: a name of ``NETS``, or of a chain of layers (``networks.chain``).
        time_steps, samples: of the run.
        program: file of the Program, for ``FAST``.
        runs: how often it is timed after the first run, whose peak is taken; the median counts.
    """

    variant: str
    net: str
    time_steps: int
    samples: int
    program: str = ""
    runs: int = 2


def measured(job: Job) -> dict[str, Any]:
    """Time per sample, peak memory in all, and what of it the run added to the loaded and prepared network."""
    # What the first run of any network costs once per process is no part of this one's: kernels are loaded here.
    _prepared(dataclasses.replace(job, time_steps=1, samples=1))()
    run = _prepared(job)
    _forget_peak()
    before = _status("VmRSS")
    run()
    peak = _status("VmHWM")
    taken = [seconds(run) for _ in range(job.runs)]
    return {
        "added_mib": (peak - before) / 2**20,
        "peak_mib": peak / 2**20,
        "ms_per_sample": 1000 * statistics.median(taken) / job.samples,
    }


def _prepared(job: Job) -> Callable[[], Any]:
    net = named(job.net)
    x = net.data(job.samples, job.time_steps)
    if job.variant != FAST:
        return inference(forms.FORMS[job.variant](net, job.time_steps), x)
    program = net.for_steps(kept(job.program), job.time_steps)
    images = x.numpy()
    explain_engine(program, job.samples, job.time_steps)
    return lambda: s2c.simulate(program, images, engine="fast")


def keep(program: Program, path: Path) -> None:
    """For a process of its own; any layer, which a file for others could not hold."""
    with path.open("wb") as file:
        pickle.dump(pack(program), file)


def kept(path: str | Path) -> Program:
    """What :func:`keep` wrote."""
    with Path(path).open("rb") as file:
        return unpack(pickle.load(file))


def _forget_peak() -> None:
    """Freed memory goes back to the system and the high-water mark starts anew, where the system (Linux) can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    """Bytes; where there is no /proc, the peak of the whole life of the process stands for both fields."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


@contextmanager
def workers() -> Iterator[Callable[[Job], dict[str, Any]]]:
    """Runs jobs one after another, each in a fresh process."""
    server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if server else "spawn")
    if server:
        context.set_forkserver_preload([__name__])

    def run(job: Job) -> dict[str, Any]:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found: dict[str, Any] = pool.submit(measured, job).result()
            return found

    yield run
