"""Classification and graded tasks, such as GLUE's, through the ordinary hub client or from the built-in suite."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moelora import hub
from moelora.errors import ConfigError, DataUnavailableError, first_line, nearest
from moelora.files import canonical_json
from moelora.sums import check_sums
from moelora.tasks import LabelledText, Task


def content_hash(*splits: Iterable[Any]) -> str:
    """Return the SHA-256 over the examples of the splits, in order."""
    digest = hashlib.sha256()
    for split in splits:
        for example in split:
            values = [getattr(example, field.name) for field in dataclasses.fields(example)]
            digest.update(canonical_json(values).encode())
        digest.update(b"\x00")
    return digest.hexdigest()


def builtin_split(document: dict[str, Any], data_dir: "Path | None", half: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of one split of a built-in task.

    Raises:
        DataUnavailableError: the data were not written there.
        RecordError: they were changed since.
    """
    name = document.get("data", document["name"]).removeprefix("tiny-")  # a transfer's task has another name
    if data_dir is None:
        raise DataUnavailableError(
            f"task '{document['name']}' is built in, but no data folder was given; "
            "write it with 'moelora data --out DIR' and pass --data DIR"
        )
    path = Path(data_dir) / half / name / f"{split}.jsonl"
    if not path.is_file():
        raise DataUnavailableError(f"{path} does not exist; write it with 'moelora data --out {data_dir}'")
    check_sums(data_dir, f"{half}/{name}/{split}.jsonl")
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def hub_dataset(document: dict[str, Any]) -> Any:
    """Load a task's data set from the hub, all splits.

    Raises:
        DataUnavailableError: it cannot be had.
    """
    return fetch_dataset(document["source"], f"task '{document['name']}'", "the task file")


def fetch_dataset(source: Mapping[str, Any], owner: str, place: str, split: "str | None" = None) -> Any:
    """Load a data set from the hub: all splits, or one.

    Args:
        source: ``hub``, and where wanted ``config`` and ``revision``.
        owner: whose data they are, for the message.
        place: where its id stands, for the message.
        split: the one split that is wanted.

    Raises:
        DataUnavailableError: it cannot be had.
    """
    import datasets

    datasets.disable_progress_bars()
    name, revision = source["hub"], source.get("revision")
    subject = f"data set '{name}' (config {source.get('config')}, revision {revision}) of {owner}"
    try:
        with hub.reached("dataset", name, revision):
            found = datasets.load_dataset(
                name, source.get("config"), revision=revision, **({"split": split} if split else {})
            )
        hub.check_prepared(name, found)
    except hub.AlteredError as error:
        raise DataUnavailableError(f"{subject} is not what its commit holds: {error}") from error
    except Exception as error:  # the client raises a dozen unrelated types; all mean that there are no data
        raise DataUnavailableError(
            f"{subject} cannot be had: {type(error).__name__}: {first_line(error)[:300]}. {hub.advice(place)}"
        ) from error
    return found


def resolved_commit(available: Any) -> str:
    """Return the hub commit of a loaded data set, empty where there is none.

    The client keeps what it prepared in a folder named for the commit, also when it is offline.
    """
    for split in available.values():
        for file in split.cache_files:
            found = [part for part in Path(file["filename"]).parts if re.fullmatch("[0-9a-f]{40}", part)]
            if found:
                return found[-1]
    return ""


def labelled_examples(rows: Iterable[Any], fields: list[str], label: str, kind: str) -> tuple[LabelledText, ...]:
    """Return rows as examples, numbered in their order."""
    number = float if kind == "regression" else int
    return tuple(
        LabelledText(
            id=index,
            text=row[fields[0]],
            text_pair=row[fields[1]] if len(fields) > 1 else None,
            label=number(row[label]),
        )
        for index, row in enumerate(rows)
    )


def load_labelled_task(document: dict[str, Any], data_dir: "Path | None") -> Task:
    """Load a classification or regression task (see :func:`moelora.tasks.load_task`)."""
    splits = document["splits"]
    source = document["source"]
    commit = ""
    if "builtin" in source:
        rows = {key: builtin_split(document, data_dir, "encoder", splits[key]) for key in ("train", "evaluation")}
        fields, label = ["text", "text_pair"], "label"
    else:
        available = hub_dataset(document)
        commit = resolved_commit(available)
        for split in splits.values():
            if split not in available:
                raise ConfigError(f"task '{document['name']}' has no split '{split}'{nearest(split, set(available))}")
        rows = {key: available[splits[key]] for key in ("train", "evaluation")}
        fields, label = document["fields"], document["label"]
        for column in [*fields, label]:
            if column not in rows["train"].column_names:
                raise ConfigError(
                    f"task '{document['name']}' has no column '{column}'{nearest(column, rows['train'].column_names)}"
                )
        # by columns: row by row the client takes longer than the tokeniser
        rows = {key: split.select_columns([*fields, label]).to_list() for key, split in rows.items()}
    examples = {key: labelled_examples(rows[key], fields, label, document["kind"]) for key in rows}
    if document["kind"] == "classification":
        known = set(range(len(document["labels"])))
        for key, split in examples.items():
            wrong = {example.label for example in split} - known
            if wrong:
                raise ConfigError(
                    f"task '{document['name']}': the {key} split '{splits[key]}' has labels {sorted(wrong)} outside "
                    f"the {len(known)} of the task file; GLUE's test splits carry -1 and cannot be scored"
                )
    return Task(document, examples["train"], examples["evaluation"], content_hash(*examples.values()), commit)
