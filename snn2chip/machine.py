"""What the machine has: memory that can still be taken, what this process holds, and the user's home."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from snn2chip.errors import UsageError

_MEMORY_INFO = Path("/proc/meminfo")
# (limit, use) of the control group this process is in: version 2, then version 1, as containers see them.
_GROUP_FILES = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_memory() -> int | None:
    """Bytes that can still be taken without swapping: of the machine, the container, and this process's own limit.

    None where the system does not say.
    """
    limits = [_of_machine(), *(_of_group(*files) for files in _GROUP_FILES), _of_process()]
    return min((limit for limit in limits if limit is not None), default=None)


def resident_memory() -> int:
    """Bytes of memory this process holds now (at most so far, where the system does not say)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


def home() -> Path | None:
    """The user's home; None where the system knows none, as for the numbered users of containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with its ``~`` replaced; where nobody knows that home, the name stands for itself.

    Raises:
        UsageError: it holds a null byte, which no file name has.
    """
    if "\0" in str(path):
        raise UsageError("a path holds a null byte", where=repr(path), fix="give it without; no name has one")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _of_machine() -> int | None:
    try:
        lines = _MEMORY_INFO.read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None


def _of_group(limit: Path, use: Path) -> int | None:
    try:
        return max(0, int(limit.read_text()) - int(use.read_text()))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


def _of_process() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return max(0, soft - pages * resource.getpagesize())
