"""Text from records in formats where some of it would be read as more than text; the page's template escapes its own.

CSV has no way to say that a cell is text, and spreadsheets take one that begins with ``=``, ``+``, ``-`` or ``@`` for a
formula. Such a cell gets an apostrophe before it unless it is a number, an interval or a plain difference: spreadsheets
hide the apostrophe, and readers of data lose nothing, because names never begin so.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(r"[=@\t\r\n]|[-+](?![0-9.,]*[0-9][0-9 .,%±()\[\]–−eE+-]*\Z)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


class CsvWriter:
    """Write rows as CSV, with line breaks of one kind and no formulas."""

    def __init__(self):
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")

    def writerow(self, row: Sequence[Any]) -> None:
        """Write one row; what is None stays empty."""
        self._writer.writerow([csv_cell(value) for value in row])

    def writerows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)

    def getvalue(self) -> str:
        """Return what was written."""
        return self._text.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    return f"'{value}" if _FORMULA.match(value) and len(value) > 1 else value


def markdown_text(text: str) -> str:
    """Return text for one line of Markdown: no column of a table, tag or link begins in it."""
    text = re.sub(r"\s*[\r\n]+\s*", " ", text)
    return _TAG.sub("&lt;", text).replace("](", "]\\(").replace("|", "\\|")
