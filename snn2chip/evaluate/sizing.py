"""How an evaluation is cut and what it will take: decided, and refused if need be, before a sample is simulated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from snn2chip.errors import S2CError
from snn2chip.evaluate.shard import Setting
from snn2chip.evaluate.sources import Source
from snn2chip.ir.graph import Network
from snn2chip.ir.program import Program
from snn2chip.machine import available_memory, resident_memory
from snn2chip.simulate import fast
from snn2chip.simulate.engine import Engine
from snn2chip.simulate.footprint import Memory, reference_memory

# Limits of a shard: what a killed worker or run has to compute once more stays a matter of seconds, and the samples
# and results of a shard stay small beside the memory of a simulation.
SHARD_SAMPLES = 1024
SHARD_BYTES = 64 << 20
SHARD_WORK = 100_000_000_000
# A worker without a next shard waits; the last one to finish keeps the others waiting.
_SHARDS_PER_WORKER = 4
# Shards given to each worker: one that runs, and one that is there when it is done.
IN_FLIGHT = 2


@dataclass(frozen=True)
class Footprint:
    """Bytes an evaluation takes at most beyond what this process holds already.

    Args:
        data: samples read and waiting, here.
        engine: one simulation of one shard.
        process: what a worker process holds before it simulates; 0 where this process does.
        processes: simulations at once.
    """

    data: int
    engine: int
    process: int
    processes: int

    @property
    def total(self) -> int:
        """All of it, on one machine."""
        return self.data + self.processes * (self.engine + self.process)


@dataclass(frozen=True)
class Extent:
    """An evaluation before it runs.

    Args:
        samples: N, or None where only reading tells. steps: of a sample.
        shard_size: samples of a shard.
        engine: what simulates, "fast" or "reference".
        workers: simulations at once.
        memory: what it takes at most. held: bytes this process holds now. available: bytes the machine has left, or
            None where the system does not say.
    """

    samples: int | None
    steps: int
    shard_size: int
    engine: Engine
    workers: int
    memory: Footprint
    held: int
    available: int | None

    @property
    def shards(self) -> int | None:
        """How many shards, or None where the number of samples is not known."""
        return None if self.samples is None else math.ceil(self.samples / self.shard_size)


def size_up(
    network: Network,
    source: Source,
    setting: Setting,
    *,
    workers: int,
    shard_size: int | None,
    separate: bool,
    here: bool = True,
) -> Extent:
    """Choose the engine and the size of a shard so that what runs at once fits the memory there is.

    Args:
        workers: simulations at once. separate: whether they run in processes of their own.
        shard_size: None: chosen here.
        here: whether the workers share this machine's memory.

    Raises:
        S2CError: not even one sample at a time fits, or not a shard of the size asked for.
    """
    steps = _steps(network, source)
    engine = _engine(network, source, setting, steps, workers)
    setting = replace(setting, engine=engine)
    size = shard_size or _shard_size(network, source, steps, workers)
    available, held = available_memory(), resident_memory()

    def memory(samples: int) -> Footprint:
        engine_bytes = _engine_memory(network, setting, samples, steps, alone=separate).total
        # Read as pieces, joined, checked; where shards wait for workers, all that wait.
        copies = 3 + (IN_FLIGHT * workers if separate else 0)
        data = copies * samples * source.sample_bytes + 2 * source.piece_bytes
        return Footprint(data, engine_bytes, held if separate and here else 0, workers if here else 0)

    need = memory(size)
    while available is not None and need.total > available and shard_size is None and size > 1:
        size = math.ceil(size / 2)
        need = memory(size)
    if available is not None and need.total > available:
        raise _refused(size, shard_size is not None, need, available)
    return Extent(source.length, steps, size, engine, workers, need, resident_memory(), available)


def _steps(network: Network, source: Source) -> int:
    return source.sample_shape[0] if network.coding == "steps" else network.time_steps or 0


def _engine(network: Network, source: Source, setting: Setting, steps: int, workers: int) -> Engine:
    """What engine="auto" stands for: decided once, for the whole test set and not for one shard."""
    if setting.engine != "auto":
        return setting.engine
    if setting.machine is not None or not isinstance(network, Program):
        return "reference"
    samples = SHARD_SAMPLES if source.length is None else source.length
    return "fast" if fast.worthwhile(network, math.ceil(samples / workers), steps) else "reference"


def _shard_size(network: Network, source: Source, steps: int, workers: int) -> int:
    sizes = [SHARD_SAMPLES, SHARD_BYTES // source.sample_bytes, SHARD_WORK // max(1, steps * fast.work(network))]
    if workers > 1 and source.length is not None:
        sizes.append(math.ceil(source.length / (workers * _SHARDS_PER_WORKER)))
    if source.length is not None:
        sizes.append(source.length)
    return max(1, min(sizes))


def _engine_memory(network: Network, setting: Setting, samples: int, steps: int, alone: bool) -> Memory:
    if setting.engine != "fast" or not isinstance(network, Program):
        return reference_memory(network, samples, steps, setting.batch_size, machine=setting.machine is not None)
    from snn2chip.simulate.fast.explain import peak_memory

    plan = fast.plan_for(network, frozenset(), samples, steps)
    return peak_memory(plan, samples, steps, frozenset(), setting.batch_size, threads=1 if alone else None)


def _refused(size: int, asked: bool, need: Footprint, available: int) -> S2CError:
    many = f"{size:,} samples" if size > 1 else "one sample"
    apart = f", {need.processes} times" if need.processes > 1 else ""
    return S2CError(
        f"there is not enough memory for {many} at a time",
        why=f"simulating takes {_mib(need.engine + need.process)}{apart}, the samples {_mib(need.data)}; "
        f"{_mib(available)} are free",
        fix="give a smaller shard size" if asked and size > 1 else "use fewer workers, or a machine with more memory",
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
