"""The door to whole test sets: opens what is read and written, sizes the run up, and adds shard to shard."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate import run_folder as folders
from snn2chip.evaluate import workers as working
from snn2chip.evaluate.evaluation import Evaluation
from snn2chip.evaluate.outputs import OutputFile, output_file
from snn2chip.evaluate.progress import Progress
from snn2chip.evaluate.shard import Job, Setting, Shard
from snn2chip.evaluate.sizing import SHARD_BYTES, Extent, size_up
from snn2chip.evaluate.sources import Source, open_source
from snn2chip.ir.graph import Network
from snn2chip.ir.program import Program
from snn2chip.ir.structure import fingerprint
from snn2chip.simulate.engine import Engine, machine_clock, require_count, require_network
from snn2chip.simulate.reference import Clock
from snn2chip.version import __version__

# Distributions whose version can change a float network's rounding; a Program's integers depend on none.
_ROUNDING = ("numpy", "torch")


def evaluate(
    network: Network,
    data: Any,
    labels: Any = None,
    *,
    run_folder: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    batch_size: int = 128,
    engine: Engine = "auto",
    clock: Clock = "sample",
    reset_interval: int | None = None,
    reset_phase: int = 0,
    registers: str | None = None,
    announce: Callable[[Extent], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Simulate ``network`` on a whole test set: accuracy, and operation counts per layer.

    Samples are read once, in order, a shard at a time, so that memory does not grow with their number. For a Program
    the result is, integer for integer, that of one :func:`snn2chip.simulate` over everything, whatever the shards,
    workers and interruptions.

    Args:
        network: a Program, or a float Graph.
        data: an array [N, T, ...] (or [N, ...] with direct coding), also memory-mapped; a torch ``Dataset`` or sequence
            of x or (x, y); a ``DataLoader`` or iterable of batches. See
            :func:`~snn2chip.evaluate.sources.open_source`.
        labels: class indices [N], where ``data`` is an array.
        run_folder: keeps every finished shard; a later call with the same arguments continues there. The data is read
            again from its start, and has to be the same.
        output: ``.npz`` to write ``outputs`` [N, ...] and ``outputs_int`` to.
        shard_size: samples of a shard; chosen from their size and work where left out.
        workers: shards simulated at once, in processes that Ray starts on this machine; left out: this process alone,
            or all processors of the cluster ``ray``.
        ray: address of a Ray cluster to simulate on, or "auto".
        batch_size, engine, clock, reset_interval, reset_phase, registers: see :func:`snn2chip.simulate`.
        announce: called before the first sample is simulated with what the run will be, peak memory included.
        progress: called after every shard.

    Raises:
        S2CError: the data cannot be read or does not fit, with the sample; there is not enough memory for one sample;
            the run folder belongs to something else; a worker was lost again and again.
    """
    require_network(network)
    require_count(batch_size, "a batch", "samples")
    if shard_size is not None:
        require_count(shard_size, "a shard", "samples")
    if workers is not None:
        require_count(workers, "a team", "workers")
    machine = machine_clock(clock, reset_interval, reset_phase, registers)
    setting = Setting(engine, batch_size, machine, output is not None)
    source = open_source(network, data, labels, free_time=machine is not None)
    if run_folder is not None:
        if source.shuffled:
            raise UsageError(
                "a shuffled data set cannot be continued",
                why="its samples come in another order every time",
                fix="give a DataLoader with shuffle=False",
            )
        shard_size = shard_size or folders.earlier_shard_size(run_folder)
    separate = ray is not None or (workers or 1) > 1
    with ExitStack() as stack:
        at_once = 1
        if separate:
            waiting = max(SHARD_BYTES, (shard_size or 1) * source.sample_bytes)
            at_once = stack.enter_context(working.cluster(ray, workers, waiting))
        extent = size_up(
            network,
            source,
            setting,
            workers=at_once,
            shard_size=shard_size,
            separate=separate,
            here=ray is None,
        )
        setting = Setting(extent.engine, batch_size, machine, setting.outputs)
        manifest = _manifest(network, source, setting, extent.shard_size)
        folder = None if run_folder is None else stack.enter_context(folders.opened(run_folder, manifest))
        rows = None if output is None else stack.enter_context(output_file(network, output))
        if announce is not None:
            announce(extent)
        if separate:
            work = working.on_ray(network, setting, f"{manifest['network']} {setting}", at_once)
        else:
            work = working.in_process(network, setting)
        run = _Run(folder, rows, extent, progress)
        try:
            run.over(source.jobs(network, extent.shard_size, free_time=machine is not None), work)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted; {run.kept() or 'nothing was written'}.") from None
        except folders.OtherDataError:  # does not continue
            raise
        except S2CError as error:
            error.fix = "\n".join(filter(None, (error.fix, run.kept())))
            raise
        assert run.found is not None
        return run.found


def _manifest(network: Network, source: Source, setting: Setting, shard_size: int) -> dict[str, Any]:
    """What has to be equal for shards to belong to one result."""
    exact = isinstance(network, Program)
    return {
        "snn2chip": __version__,
        "network": fingerprint(network),
        "data": {
            "samples": source.length,
            "sample_shape": list(source.sample_shape),
            "dtype": source.dtype.str,
            "labels": source.labelled,
        },
        "options": {
            "shard_size": shard_size,
            "clock": "sample" if setting.machine is None else vars(setting.machine),
            "outputs": setting.outputs,
            **({} if exact else {"batch_size": setting.batch_size}),
        },
        "versions": {} if exact else dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str | None]]:
    for name in _ROUNDING:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, None


class _Run:
    """The sum so far, and where finished shards go."""

    def __init__(
        self,
        folder: folders.RunFolder | None,
        rows: OutputFile | None,
        extent: Extent,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.folder, self.rows, self.extent, self.progress = folder, rows, extent, progress
        self.found: Evaluation | None = None
        self.shards = self.resumed = 0
        self.started: float | None = None
        self.digests: dict[int, str] = {}

    def over(self, jobs: Iterator[Job], work: working.Work) -> None:
        """All shards: those that are there are added, the others simulated."""
        for shard in work(self._unfinished(jobs)):
            if self.folder is not None:
                self.folder.put(shard, self.digests.pop(shard.index))
            self._add(shard)

    def _unfinished(self, jobs: Iterator[Job]) -> Iterator[Job]:
        for job in jobs:
            if self.folder is not None:
                shard = self.folder.get(job)
                if shard is not None:
                    self.resumed += shard.evaluation.samples
                    self._add(shard)
                    continue
                self.digests[job.index] = job.digest()
            self.started = self.started or time.monotonic()
            yield job

    def _add(self, shard: Shard) -> None:
        self.found = shard.evaluation if self.found is None else self.found + shard.evaluation
        self.shards += 1
        if self.rows is not None:
            self.rows.put(shard)
        if self.progress is not None:
            seconds = 0.0 if self.started is None else time.monotonic() - self.started
            damaged = 0 if self.folder is None else self.folder.damaged
            self.progress(Progress(self.found.samples, self.resumed, self.extent.samples, seconds, damaged))

    def kept(self) -> str:
        """What an interruption leaves; empty where there was nothing to keep."""
        if self.folder is None:
            return "with a run folder, the shards that are done would be kept" if self.shards else ""
        whole = "" if self.extent.shards is None else f" of {self.extent.shards:,}"
        return f"{self.folder.finished():,}{whole} shards are kept in {self.folder.path}; the same call continues there"
