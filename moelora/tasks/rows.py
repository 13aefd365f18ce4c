"""From what a Python caller has (a task's name, splits, rows) to a task."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moelora.config import find_config_dir
from moelora.errors import ConfigError
from moelora.tasks import Task, load_task
from moelora.tasks.labelled import content_hash, labelled_examples

KNOWN_FIELDS = (
    ["text", "text_pair"], ["sentence1", "sentence2"], ["premise", "hypothesis"], ["question1", "question2"],
    ["question", "sentence"], ["sentence"], ["text"],
)  # fmt: skip
EVALUATION_SPLITS = ("validation", "evaluation", "dev", "test")


def usual_metrics(kind: str, outputs: int) -> list[str]:
    """Return the metrics that are always given; binary F1 needs two labels."""
    if kind == "regression":
        return ["pearson", "spearman"]
    return ["accuracy", "f1", "macro_f1"] if outputs == 2 else ["accuracy", "macro_f1"]


def as_task(
    dataset: Any,
    part: str,
    outputs: int,
    fields: "list[str] | None" = None,
    label: str = "label",
    config_dir: "Path | str | None" = None,
) -> Task:
    """Return a data set as a task whose ``part`` (``train`` or ``evaluation``) holds its examples.

    Args:
        dataset: a task's name, a task, splits, or rows.
        part: which part is wanted.
        outputs: of the model's head.
        fields: text columns of rows, one or two, where their names do not say it.
        label: column of the label of rows.
        config_dir: where task files lie.

    Raises:
        ConfigError: the data do not fit the head, or their columns cannot be told.
        DataUnavailableError: the data cannot be had.
    """
    if isinstance(dataset, Task):
        task = dataset
    elif isinstance(dataset, str):
        document = find_config_dir(config_dir).load("task", dataset)
        if document["kind"] == "multiple_choice":
            raise ConfigError(
                f"task '{dataset}' is scored by log-likelihood on decoders; a model with a head cannot be"
            )
        check_outputs(Task(document, (), (), ""), outputs)  # before anything is fetched
        task = load_task(document)
    else:
        task = _task_of_rows(_rows(dataset, part), outputs, fields, label)
    check_outputs(task, outputs)
    return task


def check_outputs(task: Task, outputs: int) -> None:
    """Refuse a task that needs another head.

    Raises:
        ConfigError: as said.
    """
    if task.outputs != outputs:
        raise ConfigError(
            f"task '{task.name}' needs a head of {task.outputs}, but the model's has {outputs} outputs, so the head "
            f"cannot be used for it; build the model with num_labels={task.outputs} and train it on such a task"
        )


def _task_of_rows(rows: list, outputs: int, fields: "list[str] | None", label: str) -> Task:
    kind = "regression" if outputs == 1 else "classification"
    fields = fields or _fields(rows[0], label)
    missing = [name for name in (*fields, label) if name not in rows[0]]
    if missing:
        raise ConfigError(f"the rows have no columns {missing}; they have {sorted(rows[0])}; say fields=… and label=…")
    try:
        examples = labelled_examples(rows, fields, label, kind)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the labels in column '{label}' must be numbers ({error}); number the classes") from error
    found = {example.label for example in examples}
    if kind == "classification" and not found <= set(range(outputs)):
        raise ConfigError(
            f"the rows have labels {sorted(found)[:8]}, but the model's head has {outputs} outputs, for labels 0 to "
            f"{outputs - 1}; build the model with num_labels={max(found) + 1}"
        )
    return rows_task(examples, outputs)


def _rows(dataset: Any, part: str) -> list[Mapping[str, Any]]:
    """Return the rows of a data set: the train or the evaluation split where it has splits."""
    if isinstance(dataset, Mapping):
        wanted = ("train",) if part == "train" else EVALUATION_SPLITS
        split = next((name for name in wanted if name in dataset), None)
        if split is None:
            raise ConfigError(f"the data set has the splits {sorted(dataset)}, expected one of {list(wanted)}")
        dataset = dataset[split]
    if not isinstance(dataset, Iterable):
        raise ConfigError(f"a data set is a task's name, splits or rows; found {type(dataset).__name__}")
    rows = list(dataset)
    if not rows or not isinstance(rows[0], Mapping):
        raise ConfigError(f"a data set needs at least one row, each a dict of texts and a label; found {rows[:1]}")
    return rows


def _fields(row: Mapping[str, Any], label: str) -> list[str]:
    """Return the text columns of a row by their usual names."""
    for fields in KNOWN_FIELDS:
        if all(row.get(name) is not None for name in fields):
            return fields
    raise ConfigError(f"the text columns cannot be told from {sorted(row)}; say fields=[…], one column or two")


def rows_task(examples: tuple, outputs: int) -> Task:
    """Return examples as a task of their own, to train and to score on."""
    kind = "regression" if outputs == 1 else "classification"
    document = {
        "name": "rows",
        "kind": kind,
        "labels": [str(index) for index in range(outputs)],
        "metrics": usual_metrics(kind, outputs),
    }
    return Task(document, examples, examples, content_hash(examples))
