"""Scripts in a process of their own, and the memory they take."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def printed(script: str, *arguments: str, **environment: str) -> str:
    """What a script prints in a new interpreter, which finds this folder's modules and the checkout's."""
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def peak_from_now() -> int:
    """KiB this process holds now, which is what :func:`peak` starts from again."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return peak()


def peak() -> int:
    """KiB this process has held at most; getrusage's figure would start at what its parent had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
