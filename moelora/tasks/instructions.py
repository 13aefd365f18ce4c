"""Instruction data in the form of LLM-Adapters: its commonsense mixtures, built from train splits, or its own files.

A row has ``instruction``, ``input`` (empty), ``output`` and ``answer``. The checksum is over rows as canonical JSON,
one a line, in their order, so that it does not depend on how a file is laid out.

The mixture of 170 thousand rows is all of the eight train splits: 9,427 of BoolQ, 16,113 of PIQA, 33,410 of Social IQa,
39,905 of HellaSwag, 63,238 of WinoGrande, 2,251 and 1,119 of ARC and 4,957 of OpenBookQA make the 170,420 that
LLM-Adapters reports. WinoGrande's number is that of its six configurations one after the other, with the rows that they
share (derived from the counts; the file itself could not be had). Which 15 thousand rows the smaller file has is not
known: ours are drawn with a seed from the task files' train splits, every row with the same chance.
"""

import collections
import dataclasses
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, DataUnavailableError, first_line
from moelora.files import canonical_json
from moelora.seeds import derive_seed
from moelora.tasks import Task
from moelora.tasks.labelled import hub_dataset
from moelora.tasks.prompts.generate_regex import label_words, scoring_prompt, training_prompt, write_instruction
from moelora.tasks.prompts.generate_regex import write_output as write_answer
from moelora.tasks.prompts.posing import Posed
from moelora.tasks.protocols import is_as_coded
from moelora.tasks.questions import Question, read_questions

FIELDS = ("instruction", "input", "output", "answer")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a mixture is made: task files with the configurations that are read (none: the file's own), and rows drawn.

    ``version`` is raised when anything here changes the rows.
    """

    parts: tuple[tuple[str, tuple[str, ...]], ...]
    rows: "int | None"
    version: int = 1


_BEFORE, _AFTER = ("boolq", "piqa", "siqa", "hellaswag"), ("arc_easy", "arc_challenge", "openbookqa")
_ALL_WINOGRANDE = tuple(f"winogrande_{size}" for size in ("xs", "s", "m", "l", "xl", "debiased"))


def _parts(winogrande: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (*((name, ()) for name in _BEFORE), ("winogrande", winogrande), *((name, ()) for name in _AFTER))


RECIPES = {
    "commonsense-15k": Recipe(_parts(()), 15_000),
    "commonsense-170k": Recipe(_parts(_ALL_WINOGRANDE), None),
}


def write_row(form: str, question: Question) -> dict[str, str]:
    """Return a question as a row."""
    answer = label_words(form, question, as_coded=False)[question.answer]
    return {
        "instruction": write_instruction(form, question),
        "input": "",
        "output": write_answer(answer),
        "answer": answer,
    }


def build_rows(
    parts: Iterable[tuple[Mapping[str, Any], Iterable[Mapping[str, Any]]]], rows: "int | None", seed: int
) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Return the rows of a recipe, and how many come from each task.

    Args:
        parts: each part of the plan with its split's rows as the hub gives them.
        rows: how many are drawn without replacement; None takes all, in the order of the parts.
        seed: of the draw.

    Raises:
        ConfigError: there are fewer rows than are to be drawn.
    """
    pool = []
    for part, found in parts:
        where = f"{part['hub']} ({part['config']}), split '{part['split']}'"
        for question in read_questions(part["prompts"], found, where):
            pool.append((part["task"], write_row(part["prompts"], question)))
    if rows is not None:
        if len(pool) < rows:
            raise ConfigError(f"{rows} rows are to be drawn, but the train splits have {len(pool)}")
        chosen = random.Random(derive_seed("instruction rows", rows, seed)).sample(range(len(pool)), rows)
        pool = [pool[index] for index in chosen]
    return [row for _, row in pool], dict(sorted(collections.Counter(task for task, _ in pool).items()))


def check_rows(rows: Any, where: str) -> list[dict[str, str]]:
    """Return rows with the four fields and no others.

    Raises:
        ConfigError: they are not of the form of LLM-Adapters, or have an ``input``, which no commonsense row has.
    """
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{where} holds no list of rows with {', '.join(FIELDS)}")
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(row.get(field), str) for field in FIELDS):
            raise ConfigError(f"{where}: row {index} lacks one of the texts {', '.join(FIELDS)}: {str(row)[:200]}")
        if row["input"]:
            raise ConfigError(
                f"{where}: row {index} has an 'input' ({row['input'][:80]!r}); only rows without one can be used"
            )
    return [{field: row[field] for field in FIELDS} for row in rows]


def read_file(path: "Path | str") -> list[dict[str, str]]:
    """Return the rows of a JSON file of LLM-Adapters, such as ``commonsense_15k.json``.

    Raises:
        DataUnavailableError: the file is missing or is no JSON.
        ConfigError: its rows are of another form.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataUnavailableError(
            f"instruction file {path} cannot be read: {first_line(error)}; give the path of a JSON list of "
            f"rows with {', '.join(FIELDS)}"
        ) from error
    return check_rows(rows, str(path))


def checksum(rows: Iterable[Mapping[str, str]]) -> str:
    """Return the SHA-256 over rows as canonical JSON, one a line."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json({field: row[field] for field in FIELDS}).encode() + b"\n")
    return digest.hexdigest()


def load_rows(data: Mapping[str, Any]) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Return the rows of a plan's ``training.data``, and how many come from each task where that is known.

    Raises:
        DataUnavailableError: a source cannot be had.
        ConfigError: its rows are of another form, or a file's are not those that the suite names.
    """
    if "recipe" in data:
        read = ((part, _split(part)) for part in data["parts"])
        return build_rows(read, data.get("rows"), data.get("seed", 0))
    if "hub" in data:
        return check_rows(_split(data).to_list(), f"data set '{data['hub']}'"), {}
    rows = read_file(data["file"])
    if (found := checksum(rows)) != data["sha256"]:
        raise ConfigError(
            f"{data['file']} holds rows with the sum {found}, expected {data['sha256']}; correct 'sha256' in the suite "
            "if these are the rows that are meant"
        )
    return rows, {}


def _split(part: Mapping[str, Any]) -> Any:
    source = {key: part.get(key) for key in ("hub", "config", "revision")}
    available = hub_dataset({"name": part.get("task", "training data"), "source": source})
    if part["split"] not in available:
        raise ConfigError(f"data set '{part['hub']}' has no split '{part['split']}', only {sorted(available)}")
    return available[part["split"]]


def load_instructions(data: Mapping[str, Any], protocol: str) -> tuple[Task, dict[str, Any]]:
    """Return instruction data as a task without an evaluation split, and what the record says of it.

    Args:
        data: the plan's ``training.data``.
        protocol: that of the run's tasks; under ``generate-regex-as-coded`` the wrapper has its peculiar white space.
    """
    rows, tasks = load_rows(data)
    as_coded = is_as_coded(protocol)
    examples = tuple(
        Posed(
            index,
            scoring_prompt(row["instruction"], as_coded=as_coded),
            (row["output"],),
            0,
            training_prompt(row["instruction"], as_coded=as_coded),
            (row["answer"],),
            ends=True,
            keeps_start=as_coded,
        )
        for index, row in enumerate(rows)
    )
    total = checksum(rows)
    name = data.get("recipe") or data.get("hub") or Path(data["file"]).name
    document = {"name": name, "kind": "multiple_choice", "protocol": "generate-regex"}
    said = {"name": name, "rows": len(rows), "sha256": total, **({"tasks": tasks} if tasks else {})}
    return Task(document, examples, (), total), said
