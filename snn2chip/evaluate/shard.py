"""A shard: some consecutive samples of a test set, simulated by themselves."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.evaluate.evaluation import Evaluation
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.simulate.engine import Engine, simulate
from snn2chip.simulate.reference import MachineClock


@dataclass(frozen=True)
class Setting:
    """How every shard is simulated.

    Args:
        engine, batch_size: see :func:`snn2chip.simulate.simulate`; a Program's integers do not depend on them.
        machine: how the machine's clock runs; None: the sample's clock.
        outputs: whether the read-outs are kept.
    """

    engine: Engine = "auto"
    batch_size: int = 128
    machine: MachineClock | None = None
    outputs: bool = False


@dataclass(frozen=True)
class Job:
    """Samples x [n, ...] with labels y [n] or None, the first of them number ``first`` of the test set."""

    index: int
    first: int
    x: Array
    y: Array | None

    def digest(self) -> str:
        """SHA-256 of samples and labels."""
        found = hashlib.sha256()
        for array in (self.x, self.y):
            if array is not None:
                found.update(f"{array.dtype.str} {array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


@dataclass(frozen=True)
class Shard:
    """What became of a job.

    Args:
        outputs: read-outs [n, ...] if they are kept: the integers of a Program, the floats of a Graph.
    """

    index: int
    first: int
    evaluation: Evaluation
    outputs: Array | None = None


def run_job(network: Network, setting: Setting, job: Job) -> Shard:
    """Simulate a shard."""
    machine = setting.machine
    clock: dict[str, Any] = {} if machine is None else {"clock": "machine", **vars(machine)}
    result = simulate(
        network,
        job.x,
        engine=setting.engine,
        batch_size=setting.batch_size,
        first_sample=job.first,
        **clock,
    )
    kept = result.outputs_int if isinstance(network, Program) else result.outputs
    return Shard(job.index, job.first, Evaluation.of(result, job.y, job.first), kept if setting.outputs else None)


def cut(pieces: Iterator[tuple[Array, Array | None]], size: int) -> Iterator[tuple[Array, Array | None]]:
    """Pieces (x [n, ...], y [n] or None) of any lengths as pieces of ``size`` samples, the last one of the rest."""
    held: list[tuple[Array, Array | None]] = []
    count = 0
    for x, y in pieces:
        start = 0
        while start < len(x):
            stop = min(len(x), start + size - count)
            held.append((x[start:stop], None if y is None else y[start:stop]))
            count, start = count + stop - start, stop
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(pieces: list[tuple[Array, Array | None]]) -> tuple[Array, Array | None]:
    if len(pieces) == 1:
        return pieces[0]
    labels = [y for _, y in pieces if y is not None]
    return np.concatenate([x for x, _ in pieces]), np.concatenate(labels) if labels else None


# --- as bytes: a checksum, then an .npz ---

_CHECKSUM = 32


def to_bytes(shard: Shard, **belonging: str) -> bytes:
    """A finished shard as a file; ``belonging`` says what it is a part of."""
    about = {"index": shard.index, "first": shard.first, "evaluation": shard.evaluation.as_dict(), **belonging}
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}
    if shard.outputs is not None:
        arrays["outputs"] = shard.outputs
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def from_bytes(content: bytes) -> tuple[Shard, dict[str, str]]:
    """The inverse of :func:`to_bytes`.

    Raises:
        S2CError: a byte is missing or is not what it was.
    """
    if hashlib.sha256(content[_CHECKSUM:]).digest() != content[:_CHECKSUM]:
        raise S2CError("the file of a finished shard is damaged")
    with np.load(io.BytesIO(content[_CHECKSUM:]), allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        outputs = arrays["outputs"] if "outputs" in arrays.files else None
    evaluation = Evaluation.from_dict(about.pop("evaluation"))
    return Shard(about.pop("index"), about.pop("first"), evaluation, outputs), about
