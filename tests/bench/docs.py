"""``docs/speed.md``, its numbers and its plots: written from a report, so that nothing in them is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import plots, tables

FOLDER = Path(__file__).parents[2] / "docs"
NUMBERS = "speed.json"
PAGE = "speed.md"
_SECTION = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_numbers(page: str, report: dict[str, Any]) -> str:
    """The page with every measured section made anew."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables.SECTIONS[match[2]](report)}\n\n{match[3]}"

    return _SECTION.sub(made, page)


def write(report: dict[str, Any], folder: Path = FOLDER) -> None:
    """The page, its JSON and its plots, in ``folder``; the page's text must be there."""
    page = folder / PAGE
    page.write_text(with_numbers(page.read_text("utf-8"), report), "utf-8")
    (folder / NUMBERS).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    plots.write(report["sweeps"], folder)
