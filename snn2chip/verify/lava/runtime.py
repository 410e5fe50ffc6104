"""Run Lava's real multi-process runtime in a subprocess that can always be ended.

Lava hangs instead of failing in several cases: a model that raises, shared memory that runs out, an exit
without ``stop()``. So it never runs in this process, always has a time limit, and its whole process
group is ended with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from snn2chip.errors import S2CError

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_WANTED = 64 << 20
_TAIL_LINES = 15
_GRACE_SECONDS = 3.0


def run_project(folder: str | os.PathLike[str], *arguments: str, timeout: float) -> str:
    """Run the ``run.py`` of an emitted Lava project with this Python.

    Args:
        folder: the project; also the working directory of the run.
        arguments: command line arguments of ``run.py``.
        timeout: time limit [s].

    Returns:
        what the program printed.

    Raises:
        S2CError: there is no ``run.py``, it failed, or it did not end in time.
    """
    script = Path(folder, "run.py")
    if not script.is_file():
        raise S2CError(
            "This is not an emitted Lava project.",
            where=str(folder),
            why="it has no run.py",
            fix="give the lava folder of a compile",
        )
    return run_python([script.name, *arguments], cwd=Path(folder), timeout=timeout)


def run_python(arguments: Sequence[str], *, cwd: Path, timeout: float) -> str:
    """Run ``python *arguments`` in ``cwd`` for at most ``timeout`` seconds; return what it printed.

    stdout and stderr are one text. All processes of the run are gone when this function returns or raises,
    Ctrl-C included.

    Raises:
        S2CError: the exit status was not 0 or the time limit was reached; the last lines are quoted.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # A file and not a pipe: a Lava process left behind would hold a pipe open after the program ended.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if status == 0:
        return text
    command = " ".join(["python", *arguments])
    if status is None:
        raise S2CError(
            "Lava's runtime did not finish in time and was ended.",
            where=f"{command} (in {cwd})",
            why=f"no result after {timeout:g} s; last output:\n{_tail(text)}",
            fix=_shared_memory_advice() or "allow more time, or fewer samples or steps",
        )
    raise S2CError(
        "Lava's runtime failed.",
        where=f"{command} (in {cwd})",
        why=f"exit status {status}; last output:\n{_tail(text)}",
    )


def shared_memory_size() -> int | None:
    """Size of the shared memory file system [bytes], or None where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None


def _shared_memory_advice() -> str:
    size = shared_memory_size()
    if size is None or size >= SHARED_MEMORY_WANTED:
        return ""
    return f"enlarge {SHARED_MEMORY} ({size >> 20} MiB): Lava hangs when it runs out (docker run --shm-size=1g)"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # A polite signal first: Python's resource tracker then frees the shared memory of what is ended.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_TAIL_LINES:]) or "(nothing)"
