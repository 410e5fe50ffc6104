"""The report as Markdown: everything but the drawings."""

from __future__ import annotations

from collections.abc import Iterator

from snn2chip.report.blocks import Document, Table, Text


def to_markdown(doc: Document) -> str:
    """The document as GitHub-flavoured Markdown."""
    lines = [f"# {doc.title}", "", doc.subtitle, ""]
    for label, value, remark in doc.facts:
        lines.append(f"- **{label}:** {value}" + (f" ({remark})" if remark else ""))
    for section in doc.sections:
        body: list[str] = []
        for block in section.blocks:
            if isinstance(block, Text):
                body += ["", _escaped(block.text)]
            elif isinstance(block, Table) and block.rows:
                body += ["", *_table(block)]
        if body:
            lines += ["", f"## {section.title}", *body]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield _row(tuple("---:" if i in table.numeric else "---" for i in range(len(table.columns))))
    yield from map(_row, table.rows)
    if table.caption:
        yield ""
        yield f"*{_escaped(table.caption)}*"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("\n", "<br>")
