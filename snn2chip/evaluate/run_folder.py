"""The folder of a resumable evaluation: a manifest that says what is evaluated, and one file per finished shard."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snn2chip.atomic import atomic_file, explained
from snn2chip.errors import S2CError
from snn2chip.evaluate.shard import Job, Shard, from_bytes, to_bytes
from snn2chip.machine import expanded

MANIFEST = "manifest.json"
_SHARDS, _TOGETHER = "shards", 100
_FORMAT, _VERSION = "snn2chip-evaluation", 1


class OtherDataError(S2CError):
    """The data is not what finished shards were computed from."""


class RunFolder:
    """Finished shards on disk; only :func:`opened` makes one."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.damaged = 0
        self._run = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

    def get(self, job: Job) -> Shard | None:
        """What an earlier run made of a job; None where it did not finish it, or its file is damaged.

        Raises:
            OtherDataError: the earlier run was given other samples.
        """
        try:
            shard, belonging = from_bytes(self._file(job.index).read_bytes())
        except FileNotFoundError:
            return None
        except S2CError:
            self.damaged += 1
            return None
        if belonging["run"] != self._run or (shard.index, shard.first) != (job.index, job.first):
            self.damaged += 1
            return None
        if belonging["data"] != job.digest():
            raise OtherDataError(
                "the data is not what it was when this run began",
                where=f"samples {job.first} to {job.first + len(job.x) - 1}",
                why=f"their content differs from what {self.path} was computed from",
                fix="name a new run folder; the data must come in the same order, and unchanged, every time",
            )
        return shard

    def put(self, shard: Shard, digest: str) -> None:
        """Keep a finished shard, whole or not at all."""
        path = self._file(shard.index)
        with atomic_file(path) as temporary, explained(path):
            temporary.write_bytes(to_bytes(shard, run=self._run, data=digest))

    def finished(self) -> int:
        """How many shards there are."""
        return sum(1 for _ in (self.path / _SHARDS).glob("*/*.shard"))

    def _file(self, index: int) -> Path:
        # Few files to a folder: every write looks through its folder for what killed writers left.
        return self.path / _SHARDS / f"{index // _TOGETHER:04d}" / f"{index:06d}.shard"


def earlier_shard_size(path: str | os.PathLike[str]) -> int | None:
    """The samples of a shard in a run folder that is there already."""
    place = expanded(path)
    if not (place / MANIFEST).exists():
        return None
    size = _read(place)["options"].get("shard_size")
    return size if isinstance(size, int) and size > 0 else None


@contextmanager
def opened(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The run folder at ``path``, made or continued, for this process alone.

    Args:
        manifest: JSON-able; what must be equal for results to belong together.

    Raises:
        S2CError: the folder holds something else, or another run (the message says what differs), or is in use, or
            cannot be written.
    """
    place = expanded(path)
    whole = {"format": _FORMAT, "version": _VERSION, **manifest}
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise S2CError(
            "the run folder cannot be made",
            where=str(path),
            why=error.strerror or str(error),
            fix="name a folder in a place you may write to",
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise S2CError(
                "the run folder is in use",
                where=str(path),
                why="another process evaluates into it",
                fix="wait for it, or name another folder",
            ) from None
        if (place / MANIFEST).exists():
            _require_same(place, _read(place), whole)
        else:
            _start(place, whole)
        yield RunFolder(place, whole)
    finally:
        os.close(lock)


def _start(place: Path, manifest: Mapping[str, Any]) -> None:
    # A kill before the manifest is complete leaves its workspace; anything else was not written by a run.
    foreign = [entry.name for entry in place.iterdir() if not entry.name.startswith(f".{MANIFEST}.")]
    if foreign:
        raise S2CError(
            "the folder holds files, and is no run folder",
            where=str(place),
            why=f"it has no {MANIFEST}",
            fix="name a new or empty folder",
        )
    with atomic_file(place / MANIFEST) as temporary, explained(place / MANIFEST):
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def _read(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / MANIFEST).read_text("utf-8"))
        if found["format"] != _FORMAT or found["version"] != _VERSION or not isinstance(found["options"], dict):
            raise ValueError(f"it is no {_FORMAT} of version {_VERSION}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise S2CError(
            "the manifest of the run folder cannot be read",
            where=str(place / MANIFEST),
            why=str(error),
            fix="name a new folder",
        ) from None
    return dict(found)


def _require_same(place: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, after = dict(_leaves(earlier)), dict(_leaves(json.loads(json.dumps(now))))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if names:
        raise S2CError(
            "the run folder belongs to another evaluation",
            where=str(place),
            why="\n".join(f"{name} was {before.get(name)}, and is {after.get(name)}" for name in names),
            fix="name a new folder, or evaluate what it was begun with",
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    else:
        yield name, value
