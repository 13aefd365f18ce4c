"""Tasks: data, prompt or fields, splits, metric, version.

A task document (``workflow/config/tasks``) becomes a :class:`Task` with its examples. Two kinds of example exist:
a text (or pair of texts) with a label, and a prompt with choices. The loaders import what they need when called.
"""

import dataclasses
from pathlib import Path
from typing import Any

from moelora.tasks.protocols import POSED


@dataclasses.dataclass(frozen=True)
class LabelledText:
    """One example of a classification or regression task; ``label`` is a class index or a grade."""

    id: int
    text: str
    text_pair: str | None
    label: int | float


@dataclasses.dataclass(frozen=True)
class Choice:
    """One example of a multiple-choice task.

    ``prompt`` and each of ``continuations`` are exactly the strings that the scorer concatenates (the continuation
    carries the delimiter), so that training and scoring see the same tokens.
    """

    id: int
    prompt: str
    continuations: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A loaded task.

    ``document`` is the task file's content; ``train`` and ``evaluation`` are examples in their stored order;
    ``content`` is the SHA-256 over both splits, kept in the record since hub revisions may be unpinned; ``commit`` is
    the hub commit that the data came from, empty where they are no hub's. ``held_out`` is None, or the rows of the
    official training split that stand in ``evaluation`` instead of the official evaluation split.
    """

    document: dict[str, Any]
    train: tuple
    evaluation: tuple
    content: str
    commit: str = ""
    held_out: "tuple[int, ...] | None" = None

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.document["name"]

    @property
    def kind(self) -> str:
        """Return ``classification``, ``regression`` or ``multiple_choice``."""
        return self.document["kind"]

    @property
    def outputs(self) -> int:
        """Return the width of a head for this task: classes, or 1 for a grade."""
        return 1 if self.kind == "regression" else len(self.document["labels"])


def load_task(document: dict[str, Any], data_dir: "Path | None" = None) -> Task:
    """Load a task's examples.

    Args:
        document: the task file's content.
        data_dir: where the built-in suite's data were written; needed for tasks with a ``builtin`` source only.

    Raises:
        DataUnavailableError: the data cannot be had; the message names the id and how to use a local copy.
        ConfigError: the document contradicts the data, such as a missing split or column.
    """
    if document["kind"] == "multiple_choice":
        if document["protocol"] in POSED:
            from moelora.tasks.posed import load_posed_task

            return load_posed_task(document)
        from moelora.tasks.choice import load_choice_task

        return load_choice_task(document, data_dir)
    from moelora.tasks.labelled import load_labelled_task

    return load_labelled_task(document, data_dir)
