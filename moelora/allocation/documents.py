"""Sensitivity files: what strategies and stability read, checked where they are read."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moelora.allocation.settings import SCORES
from moelora.errors import AllocationError, RecordError
from moelora.files import read_json
from moelora.methods import Linear

FIELDS = ("module", "layer", "type", "part", "shape", "score")
# What a float16 sum that overflowed stands for: more than any other, as it does in the public code.
OVERFLOWED = sys.float_info.max


def read_sensitivities(paths: Sequence["Path | str"]) -> list[dict[str, Any]]:
    """Return the documents of sensitivity files, by task.

    Raises:
        RecordError: a file is missing, truncated or not of this form.
        AllocationError: the files are of different models, scores or modules, or two are of one task.
    """
    documents = sorted((_read(path) for path in paths), key=lambda document: document["task"])
    for key, what in (("model", "models"), ("score", "scores")):
        found = sorted({document[key] for document in documents})
        if len(found) != 1:
            raise AllocationError(f"sensitivities of different {what} cannot vote together: {found}")
    tasks = [document["task"] for document in documents]
    if len(set(tasks)) != len(tasks):
        raise AllocationError(f"found several sensitivities of one task among {tasks}; give one file a task")
    shapes = linears(documents[0])
    for document in documents[1:]:
        if linears(document) != shapes:
            raise AllocationError(
                f"task '{document['task']}' scores other modules than task '{tasks[0]}' does; measure both on one model"
            )
    return documents


def _read(path: "Path | str") -> dict[str, Any]:
    document = read_json(path, "sensitivity")
    rows = document.get("modules") if isinstance(document, dict) else None
    named = isinstance(document, dict) and all(isinstance(document.get(key), str) for key in ("model", "task"))
    if (
        not named
        or document.get("score") not in SCORES
        or not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) and set(FIELDS) <= set(row) for row in rows)
    ):
        raise RecordError(
            f"sensitivity {path} is not of the expected form (model, task, score as one of {', '.join(SCORES)}, and "
            f"modules with {', '.join(FIELDS)}); delete it and measure again"
        )
    return {**document, "path": str(path)}


def linears(document: Mapping[str, Any]) -> tuple[Linear, ...]:
    """Return the modules that a document scores, in its order."""
    return tuple(
        Linear(row["module"], row["type"], row["part"], row["layer"], inputs=row["shape"][1], outputs=row["shape"][0])
        for row in document["modules"]
    )


def scores_of(document: Mapping[str, Any]) -> dict[str, float]:
    """Return module → score; a score that overflowed (``null`` in the file) is above every other.

    Raises:
        AllocationError: a score is negative or not a number.
    """
    scores = {row["module"]: OVERFLOWED if row["score"] is None else row["score"] for row in document["modules"]}
    for module, score in scores.items():
        if not isinstance(score, int | float) or not math.isfinite(score) or score < 0:
            raise AllocationError(f"the sensitivity of '{module}' is {score!r}; expected a number from 0")
    return scores


def mean_shares(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each module's part of the sensitivity, averaged over tasks, so that each task counts alike.

    Args:
        scores: task → module → score.

    Raises:
        AllocationError: a score overflowed, so that it has a rank but no size.
    """
    shares: dict[str, float] = {}
    for task, by_module in scores.items():
        if OVERFLOWED in by_module.values():
            raise AllocationError(
                f"sensitivities to '{task}' overflowed float16 and have no size, only a rank; take a strategy that "
                "votes (smoe_percentile, smoe_budget, reverse) or another score than as_coded"
            )
        total = math.fsum(by_module.values())
        for module, score in by_module.items():
            shares[module] = shares.get(module, 0.0) + (score / total / len(scores) if total else 0.0)
    return shares
