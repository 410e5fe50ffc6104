"""The demo verb, with an example that trains in no time in the place of the digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snn2chip.cli import demo

QUICK = """
from user import network, data

TIME_STEPS = 4


def train(seed):
    return network()


def test_data():
    return data()


def calibration_data():
    return data()[0][:16]
"""


def test_the_demo_compiles_what_the_example_trains(
    run, session_folder: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the demo needs scikit-learn")
    pytest.importorskip("lava.magma", reason="lava-nc is not installed")
    (session_folder / "quick.py").write_text(QUICK)
    monkeypatch.setattr(demo, "_EXAMPLE", session_folder / "quick.py")
    result = run("demo", "--out", "demo", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [v["against"] for v in report["verification"] if v["equal"]] == [
        "model.nir read back",
        "Lava's model classes",
        "Lava's runtime",
    ]
    assert (session_folder / "demo" / "report.html").is_file()


def test_without_the_examples_it_says_where_they_are(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the demo needs scikit-learn")
    monkeypatch.setattr(demo, "_EXAMPLE", tmp_path / "digits.py")
    result = run("demo")
    assert result.exit_code == 1
    assert "installed without its examples" in result.stderr
    assert "make demo" in result.stderr
