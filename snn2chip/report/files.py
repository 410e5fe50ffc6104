"""``report.json`` and its views, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snn2chip.errors import S2CError
from snn2chip.report.collect import FORMAT, VERSION
from snn2chip.report.document import document
from snn2chip.report.markdown import to_markdown
from snn2chip.report.page import to_html

Json = dict[str, Any]


def views(report: Json) -> dict[str, str]:
    """File name → text of the report and its views; the same report gives the same bytes."""
    doc = document(report)
    return {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": to_markdown(doc),
        "report.html": to_html(doc),
    }


def read_report(path: str | Path) -> Json:
    """A report from its file, or from the folder of a compile.

    Raises:
        S2CError: there is none, or it is not a report this version can read.
    """
    given = Path(path)
    file = given / "report.json" if given.is_dir() else given
    try:
        report = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise S2CError(
            "the report cannot be read",
            where=str(file),
            why=error.strerror or str(error),
            fix="give the folder that `snn2chip compile` wrote, or its report.json",
        ) from None
    except ValueError as error:
        raise S2CError(
            "the report is damaged", where=str(file), why=f"it is not JSON: {error}", fix="compile the network again"
        ) from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise S2CError(
            "this is not a report of snn2chip",
            where=str(file),
            why=f'it has no "format": "{FORMAT}"',
            fix="give the folder that `snn2chip compile` wrote, or its report.json",
        )
    if report.get("version") != VERSION:
        raise S2CError(
            f"the report has version {report.get('version')!r}",
            where=str(file),
            why=f"this version of snn2chip reads version {VERSION}",
            fix="compile again, or read it with the version that wrote it",
        )
    return report
