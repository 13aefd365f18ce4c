"""How far a study is, in one line and in a table of text."""

from collections.abc import Mapping
from typing import Any


def progress_line(document: Mapping[str, Any], busy: int = 0) -> str:
    """Return how many slots have results, the best score so far, and an estimate of the time left.

    Args:
        document: as `moelora.search.choose.trials_document` returns it.
        busy: workers at work now; the estimate takes it that as many go on.
    """
    results = [trial for trial in document["trials"] if trial["result"]]
    left = document["slots"] - len(results)
    parts = [f"search {document['searched']}: {len(results)} of {document['slots']} trials"]
    place = document["objectives"].index("score")
    completed = [trial for trial in results if trial["state"] == "complete"]
    if completed:
        best = max(completed, key=lambda trial: (trial["values"][place], -trial["number"]))
        parts.append(f"best score {best['values'][place]:.4f} (trial {best['number']})")
    failed = sum(trial["state"] == "fail" for trial in document["trials"])
    if failed:
        parts.append(f"{failed} failed")
    spent = [trial["seconds"] for trial in results if trial["seconds"] is not None]
    if left and spent:
        parts.append(f"about {sum(spent) / len(spent) * left / max(1, busy):.0f} s left")
    return ", ".join(parts)


def trials_text(document: Mapping[str, Any]) -> str:
    """Return every trial as a line: number, slot, state, values of the objectives, parameters, and why it failed."""
    names = sorted({name for trial in document["trials"] for name in trial["params"]})
    rows = [("trial", "slot", "state", *document["objectives"], *names, "reason")]
    for trial in document["trials"]:
        values = trial["values"] if trial["state"] == "complete" else [None] * len(document["objectives"])
        rows.append(
            (
                str(trial["number"]),
                _say(trial["slot"]),
                trial["state"],
                *map(_say, values),
                *(_say(trial["params"].get(name)) for name in names),
                trial["reason"] or "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _say(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
