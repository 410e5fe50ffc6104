"""The report as one HTML page that carries everything it needs: no script, no font, nothing from a network."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files

from snn2chip.report.blocks import Block, Document, Figure, Table, Text

# Cells of this text alone are coloured; everything else speaks for itself.
_MARKED = {"equal": "good", "proved": "good", "differs": "bad", "not proved": "bad", "not run": "open"}
_TOTALS = ("Total", "Chip", "Host")


def to_html(doc: Document) -> str:
    """The document as a page."""
    style = files("snn2chip.report").joinpath("page.css").read_text("utf-8")
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<span class=remark>{escape(remark)}</span></dd></div>"
        for label, value, remark in doc.facts
    )
    sections = "\n".join(
        f"<section><h2>{escape(section.title)}</h2>\n{''.join(map(_block, section.blocks))}</section>"
        for section in doc.sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(doc.title)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        f"<header><h1>{escape(doc.title)}</h1><p>{escape(doc.subtitle)}</p><dl class=facts>{facts}</dl></header>\n"
        f"<main>\n{sections}\n</main>\n</body></html>\n"
    )


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_lines(block.text)}</p>\n"
    return _table(block) if isinstance(block, Table) else _figure(block)


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th{_numeric(table, i)}>{escape(name)}</th>" for i, name in enumerate(table.columns))
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    rows = "\n".join(_row(table, row) for row in table.rows)
    return f"<div class=wide><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"


def _row(table: Table, row: tuple[str, ...]) -> str:
    cells = "".join(
        f"<td{_numeric(table, i)}><span class={_MARKED[cell]}>{cell}</span></td>"
        if cell in _MARKED
        else f"<td{_numeric(table, i)}>{_breakable(cell)}</td>"
        for i, cell in enumerate(row)
    )
    return f"<tr{' class=total' if row[0] in _TOTALS and table.numeric else ''}>{cells}</tr>"


def _numeric(table: Table, column: int) -> str:
    return " class=n" if column in table.numeric else ""


def _figure(figure: Figure) -> str:
    drawings = "".join(
        f"<div><h3>{escape(name)}</h3>{drawing}</div>" if name else drawing for name, drawing in figure.drawings
    )
    body = f"<div class=small>{drawings}</div>" if len(figure.drawings) > 1 or figure.drawings[0][0] else drawings
    return f"<figure>{body}<figcaption>{escape(figure.caption)}</figcaption></figure>\n"


def _breakable(cell: str) -> str:
    """A cell that may go on in the next line where a path or a list has a joint, and nowhere inside a word."""
    return re.sub(r"([.,])(?=[^\s\d])", r"\1<wbr>", _lines(cell))


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")
