"""Running a Lava program in a subprocess: output, failure, time limit, nothing left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from snn2chip.errors import S2CError
from snn2chip.verify.lava.runtime import run_project, run_python


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_project_runs_in_its_folder_with_one_thread(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['OMP_NUM_THREADS'])")
    assert run_project(tmp_path, "--samples", "3", timeout=60) == f"{tmp_path} ['--samples', '3'] 1\n"


def test_a_folder_without_run_py_is_refused(tmp_path: Path) -> None:
    with pytest.raises(S2CError, match="not an emitted Lava project"):
        run_project(tmp_path, timeout=1)


def test_a_failure_quotes_the_last_lines(tmp_path: Path) -> None:
    with pytest.raises(S2CError, match="failed") as caught:
        run_python(["-c", "print('x' * 9); raise SystemExit('no such layer')"], cwd=tmp_path, timeout=60)
    assert "no such layer" in caught.value.why
    assert "status 1" in caught.value.why


def test_a_hang_is_ended_with_all_its_children(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "open(f'pid{child and 1}', 'w').write(str(os.getpid()))\n"
        "print('stuck')\n"
        "time.sleep(1000)\n"
    )
    with pytest.raises(S2CError, match="did not finish in time") as caught:
        run_project(tmp_path, timeout=2)
    assert "stuck" in caught.value.why
    pids = [int((tmp_path / name).read_text()) for name in ("pid0", "pid1")]
    time.sleep(0.2)
    assert not any(_alive(pid) for pid in pids)


def test_children_left_behind_by_a_program_that_ended_are_ended_too(tmp_path: Path) -> None:
    program = "import os, time\nchild = os.fork()\nif child: print(child)\nelse: time.sleep(1000)"
    child = int(run_python(["-c", program], cwd=tmp_path, timeout=60))
    time.sleep(0.2)
    assert not _alive(child)
    with pytest.raises(ProcessLookupError):
        os.killpg(child, 0)
