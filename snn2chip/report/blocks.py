"""What a report is made of: sections of sentences, tables and figures, which Markdown and HTML both draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# ``report.json``, or a part of it.
Json = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under columns; ``numeric`` columns are set flush right in figures of equal width."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing and what it shows; several small ones may share a caption."""

    drawings: tuple[tuple[str, str], ...]
    caption: str


Block = Text | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A title, the facts in a few words, and the sections."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int], caption: str = "") -> Table:
    """A table of any sequences."""
    return Table(tuple(columns), tuple(tuple(row) for row in rows), frozenset(numeric), caption)
