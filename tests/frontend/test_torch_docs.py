"""The code of the pages on models runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "libraries", "least"),
    [
        ("models/spikingjelly.md", ("spikingjelly",), 2),
        ("models/snntorch.md", ("snntorch",), 4),
        ("models/norse.md", ("norse",), 2),
        ("models/sinabs.md", ("sinabs",), 2),
        ("models/lava-dl.md", ("lava.lib.dl",), 2),
        ("models/own-code.md", ("snntorch",), 4),
        ("zoo.md", (), 3),
        ("identify-neurons.md", (), 5),
    ],
)
def test_the_page_runs(name: str, libraries: tuple[str, ...], least: int, capsys: pytest.CaptureFixture[str]) -> None:
    for library in libraries:
        pytest.importorskip(library)
    page = DOCS / name
    text = page.read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= least
    namespace: dict[str, object] = {}
    with warnings.catch_warnings():
        # Untrained nets: a layer may be silent.
        warnings.filterwarnings("ignore", message=".*never fired.*")
        for block in blocks:
            exec(compile(block, str(page), "exec"), namespace)
    shown = capsys.readouterr().out
    for promised in re.findall(r"print\(.*?#\s*(.+)", "\n".join(blocks)):
        assert promised in shown
    for printed in re.findall(r"```text\n(.*?)```", text, re.DOTALL):
        assert printed in shown
