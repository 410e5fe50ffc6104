"""The code of docs/bring-your-model.md runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-model.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for library in ("snntorch", "spikingjelly", "norse", "sinabs"):
        pytest.importorskip(library)
    assert len(BLOCKS) >= 6
    namespace: dict[str, object] = {}
    with warnings.catch_warnings():
        # Untrained nets: a layer may be silent.
        warnings.filterwarnings("ignore", message=".*never fired.*")
        for block in BLOCKS:
            exec(compile(block, str(PAGE), "exec"), namespace)
    shown = capsys.readouterr().out
    for promised in re.findall(r"print\(.*?#\s*(.+)", "\n".join(BLOCKS)):
        assert promised in shown
