"""Ctrl-C and kill −9 in the middle of a compile: one clean line, and an earlier output as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_COMMAND = (sys.executable, "-c", "from snn2chip.cli import main; main(prog_name='snn2chip')")
_LIMIT = 60.0


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def compiling(folder: Path, out: Path, flag: Path) -> Iterator[subprocess.Popen[str]]:
    """A compile that stands still inside the user's forward, with its output folder open."""
    arguments = ("compile", "user.py:network", "--data", "data.npz", "--against", "none", "--out", str(out))
    process = subprocess.Popen(
        (*_COMMAND, *arguments),
        cwd=folder,
        env={**os.environ, "WAIT_IN_FORWARD": str(flag), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + _LIMIT
        while not flag.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "the compile never got as far as the model"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def earlier(built: Path, tmp_path: Path) -> Path:
    """A copy of an earlier output, alone in its folder."""
    out = tmp_path / "work" / "out"
    for name, content in _contents(built).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return out


def test_ctrl_c(built: Path, earlier: Path, tmp_path: Path) -> None:
    before = _contents(earlier)
    with compiling(built.parent, earlier, tmp_path / "flag") as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=_LIMIT)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == "Interrupted; nothing was written."
    assert "Traceback" not in stderr
    assert _contents(earlier) == before
    assert [path.name for path in earlier.parent.iterdir()] == ["out"]


def test_ctrl_c_without_earlier_output_leaves_nothing(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with compiling(built.parent, out, tmp_path / "flag") as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_LIMIT)
    assert process.returncode == 130
    assert not out.parent.exists()


def test_kill_9(run, built: Path, earlier: Path, tmp_path: Path) -> None:
    before = _contents(earlier)
    with compiling(built.parent, earlier, tmp_path / "flag") as process:
        process.kill()
        process.communicate(timeout=_LIMIT)
    assert _contents(earlier) == before
    result = run("compile", "user.py:network", "--data", "data.npz", "--against", "reference", "--out", str(earlier))
    assert result.exit_code == 0, result.output
    assert [path.name for path in earlier.parent.iterdir()] == ["out"], "the next compile clears what was left"
    assert _contents(earlier) == _contents(built)
