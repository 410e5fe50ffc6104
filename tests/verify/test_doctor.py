"""The doctor's list: versions of what works, commands for what does not."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from snn2chip.verify import doctor


def test_every_check_is_either_fine_or_comes_with_a_command(capfd: pytest.CaptureFixture[str]) -> None:
    checks = doctor.run_checks()
    named = {check.name for check in checks}
    assert {"python", "numpy", "h5py", "nir", "torch", "lava-nc", "lava-dl", "norse", "sinabs"} <= named
    extras = [r for r in importlib.metadata.requires("snn2chip") or () if "extra ==" in r and "'dev'" not in r]
    assert len(extras) >= 5
    for requirement in extras:
        assert re.split(r"[<>=; ]", requirement)[0] in named, requirement
    for check in checks:
        assert bool(check.command) != check.ok, check
    by_name = {check.name: check for check in checks}
    assert by_name["numpy"].detail == importlib.metadata.version("numpy")
    assert by_name["python"].detail == ".".join(map(str, sys.version_info[:3]))
    assert capfd.readouterr().out == ""


def test_a_package_that_is_missing_or_broken_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s2c_broken.py").write_text("raise ImportError('libcuda is gone')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    packages = {
        name: doctor._Package(name, name, f"import {name}", f"mend {name}", False, "")
        for name in ("s2c_broken", "s2c_absent")
    }
    broken = doctor._check_package(packages["s2c_broken"])
    absent = doctor._check_package(packages["s2c_absent"])
    assert not broken.ok
    assert "libcuda is gone" in broken.detail
    assert broken.command == "mend s2c_broken"
    assert (absent.ok, absent.detail, absent.command) == (False, "not installed", "mend s2c_absent")


@pytest.mark.parametrize(("size", "ok"), [(None, True), (4 << 20, False), (1 << 30, True)])
def test_little_shared_memory_is_reported(size: int | None, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.runtime, "shared_memory_size", lambda: size)
    check = doctor._check_shared_memory()
    assert check.ok is ok
    assert ("--shm-size" in check.command) is not ok
