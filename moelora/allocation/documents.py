"""Files of sensitivities and of allocations, checked where they are read."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moelora.errors import AllocationError, RecordError
from moelora.files import read_json
from moelora.methods import Linear
from moelora.validation import find_trouble, load_validator

SENSITIVITY = Path(__file__).with_name("sensitivity.schema.json")
ALLOCATION = Path(__file__).with_name("allocation.schema.json")
# What a float16 sum that overflowed stands for: more than any other, as it does in the public code.
OVERFLOWED = sys.float_info.max


def read_allocation(path: "Path | str") -> dict[str, int]:
    """Return experts per module from an allocation file.

    Raises:
        RecordError: the file is missing, truncated or no allocation; the message names it and the key.
    """
    document = read_json(path, "allocation")
    if trouble := find_trouble(document, load_validator(ALLOCATION)):
        raise RecordError(f"allocation {path}: {trouble}; delete it and allocate again")
    return document["experts"]


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
    if trouble := find_trouble(document, load_validator(SENSITIVITY)):
        raise RecordError(f"sensitivity {path} is not of the expected form: {trouble}; delete it and measure again")
    names = [row["module"] for row in document["modules"]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecordError(f"sensitivity {path}: 'modules' has '{twice[0]}' twice; delete it and measure again")
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
        AllocationError: a score is negative or not a number; the message names the file.
    """
    scores = {row["module"]: OVERFLOWED if row["score"] is None else row["score"] for row in document["modules"]}
    for module, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score) or score < 0:
            where = document.get("path", "sensitivities")
            raise AllocationError(f"{where}: the sensitivity of '{module}' is {score!r}; expected a number from 0")
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
