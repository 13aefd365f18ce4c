"""Records as Markdown tables."""

from collections.abc import Mapping
from typing import Any

from moelora.reporting.speed import COLUMNS, conditions, speed_tables
from moelora.reporting.table import Table


def markdown(record: Mapping[str, Any]) -> str:
    """Return a record's tables, one a comparison, under a line on where they were measured."""
    first = f"`{record['name']}`: {conditions(record)}"
    return "\n\n".join([first, *(_markdown(table) for table in speed_tables(record))]) + "\n"


def _markdown(table: Table) -> str:
    how = table.note.split(". ", 1)[0]
    lines = [
        f"**{table.title}.** {how}.",
        "",
        "| " + " | ".join(label for label, _ in COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(entry.text for entry in row.entries) + " |" for row in table.rows]
    return "\n".join(lines)
