"""What a suite's report shows of published claims: those about which its own records say something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moelora.claims import Judgement
from moelora.claims.verdicts import NOT_RUN, VERDICTS
from moelora.errors import RecordError
from moelora.files import atomic_write_json, read_json
from moelora.reporting.claims import measured_table
from moelora.reporting.table import Entry, Row, Table, plain

PART = "claims.json"
_SHOWN = 40
"""Rows that the report shows; the page of claims has all."""


@dataclass(frozen=True)
class ClaimsPart:
    """Sentences and a table of claims."""

    said: Sequence[str]
    table: Table


def claims_part(judgements: Sequence[Judgement]) -> ClaimsPart:
    """Return what judgements say of runs that were made here; counted parameters and what was not run are left out."""
    made = [j for j in judgements if j.verdict != NOT_RUN and (j.ours or j.tuned)]
    counts = Counter(j.verdict for j in made)
    found = ", ".join(f"{counts[v]:,} {v}" for v in VERDICTS if counts[v])
    said = [
        f"Of {len(judgements):,} published numbers, records of this suite say something of {len(made):,}"
        + (f": {found}." if found else ".")
    ]
    full = measured_table(made)
    if len(full.rows) > _SHOWN:
        said.append(f"The first {_SHOWN} stand here.")
    columns = [label for label, _ in full.columns]
    return ClaimsPart(said, plain("claims", "Paper against measured", columns, full.rows[:_SHOWN], full.note))


def write_part(path: Path, part: ClaimsPart) -> None:
    """Write it as JSON.

    Raises:
        OutputError: The file can't be written.
    """
    rows = [
        [{"text": e.text, "detail": e.detail, "marks": sorted(e.marks), "title": e.title} for e in row.entries]
        for row in part.table.rows
    ]
    columns = [label for label, _ in part.table.columns]
    atomic_write_json(path, {"said": list(part.said), "columns": columns, "rows": rows, "note": part.table.note})


def read_part(path: str | Path) -> ClaimsPart:
    """Return what `write_part` wrote.

    Raises:
        RecordError: The file is missing, truncated or of another kind.
    """
    document = read_json(path, "claims")
    if not isinstance(document, dict) or not {"said", "columns", "rows", "note"} <= document.keys():
        raise RecordError(
            f"{path} is no summary of claims: expected the keys said, columns, rows and note; run moelora claims"
        )
    rows = [Row([_entry(entry) for entry in entries]) for entries in document["rows"]]
    table = plain("claims", "Paper against measured", document["columns"], rows, document["note"])
    return ClaimsPart(document["said"], table)


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(document["text"], document["detail"], frozenset(document["marks"]), document["title"])
