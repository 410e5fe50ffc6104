"""The report in a few lines of plain text."""

from __future__ import annotations

from typing import Any

from snn2chip.report.construction import unwritten
from snn2chip.report.document import document


def summary(report: dict[str, Any]) -> str:
    """Title, facts, and what was not done."""
    doc = document(report)
    width = max((len(label) for label, _, _ in doc.facts), default=0)
    lines = [doc.title, doc.subtitle, ""]
    lines += [
        f"  {label:<{width}}  {value}" + (f"  ({remark})" if remark else "") for label, value, remark in doc.facts
    ]
    lines += [f"  not written: {line}" for line in unwritten(report)]
    lines += [f"  remark: {remark}" for remark in report["remarks"]]
    return "\n".join(lines)
