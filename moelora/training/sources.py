"""What a plan's tasks and training data become; a process loads each once."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from moelora.files import canonical_json
from moelora.tasks import Task, load_task
from moelora.tasks.text import Text, load_text


@cache
def _task(document: str, data_dir: "Path | None") -> Task:
    return load_task(json.loads(document), data_dir)


@cache
def _text(source: str, data_dir: "Path | None") -> Text:
    return load_text(json.loads(source), data_dir)


def load_tasks(plan: dict[str, Any], data_dir: "Path | None") -> list[Task]:
    """Return the plan's tasks; a process loads each task once."""
    return [_task(canonical_json(document), data_dir) for document in plan["tasks"]]


def load_watched(plan: dict[str, Any], data_dir: "Path | None") -> "tuple[Text | None, list[Task]]":
    """Return what forgetting is measured on: a text, and the tasks that are probed for; a process loads each once."""
    asked = plan.get("forgetting") or {}
    text = _text(canonical_json(asked["text"]), data_dir) if asked.get("text") else None
    return text, load_tasks({"tasks": asked.get("probes", {}).get("tasks", [])}, data_dir)


def training_tasks(plan: dict[str, Any], tasks: list[Task]) -> tuple[list[Task], "dict[str, Any] | None"]:
    """Return what a run is trained on, its tasks or the data that its plan names, and what the record says of those."""
    data = plan["training"].get("data")
    if not data:
        return tasks, None
    task, said = _instructions(canonical_json(data), tasks[0].document["protocol"])
    return [task], said


@cache
def _instructions(data: str, protocol: str) -> tuple[Task, dict[str, Any]]:
    from moelora.tasks.instructions import load_instructions

    return load_instructions(json.loads(data), protocol)
