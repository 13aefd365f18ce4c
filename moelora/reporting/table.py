"""A printed table as data. `render` turns it into Markdown, CSV and LaTeX, the page into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One cell of a printed table.

    Attributes:
        text: What stands there.
        detail: What stands beneath it, smaller: an interval, a note.
        marks: Any of `best`, `clear` (a difference whose interval leaves out zero), `single` (one seed), `chance`,
            `lost` (no score, a reason), `absent`, `number`.
        title: A sentence for those who ask.
        link: Id of the record behind it, the first where there are several.
    """

    text: str
    detail: str = ""
    marks: frozenset[str] = frozenset()
    title: str = ""
    link: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its heading is the first entry; `kind` is `reference`, `matched` or empty; `record` is whose it is."""

    entries: Sequence[Entry]
    kind: str = ""
    record: str = ""


@dataclass(frozen=True)
class Table:
    """A printed table with two levels of column headings.

    Attributes:
        title: Its heading.
        groups: Column groups as (label, number of columns); they cover all columns.
        columns: Column headings as (label, what beneath it).
        rows: Its rows.
        note: What stands under it.
        synthetic: Whether its scores come from generated tasks.
    """

    title: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    note: str = ""
    synthetic: bool = False
    name: str = field(default="", compare=False)


def number(text: str) -> Entry:
    """Return an entry that is set as a number."""
    return Entry(text, marks=frozenset({"number"}))


def plain(name: str, title: str, columns: Sequence[str], rows: Sequence[Row], note: str) -> Table:
    """Return a table with one level of column headings."""
    return Table(title, [("", len(columns))], [(c, "") for c in columns], rows, note, name=name)
