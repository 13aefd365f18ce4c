"""Commonsense questions as their data sets store them, read into one neutral form. No prompt is made here."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moelora.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with its possible answers.

    ``labels`` are the answers' names where the data give them some (ARC: letters or digits), else empty. ``context`` is
    the situation (Social IQa), the activity (HellaSwag) or the passage (BoolQ) that stands beside the question.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    labels: tuple[str, ...] = ()
    context: str = ""


def _labelled_choices(text: str) -> Callable[[Mapping[str, Any]], Question]:
    def read(row: Mapping[str, Any]) -> Question:
        labels = tuple(row["choices"]["label"])
        return Question(row[text], tuple(row["choices"]["text"]), labels.index(row["answerKey"].strip()), labels)

    return read


def _boolq(row: Mapping[str, Any]) -> Question:
    said = row["label"] if "label" in row else row["answer"]  # SuperGLUE's column, and that of google/boolq
    return Question(row["question"], ("true", "false"), 0 if int(said) else 1, context=row["passage"])


def _piqa(row: Mapping[str, Any]) -> Question:
    return Question(row["goal"], (row["sol1"], row["sol2"]), int(row["label"]))


def _siqa(row: Mapping[str, Any]) -> Question:
    choices = tuple(row[f"answer{letter}"] for letter in "ABC")
    return Question(row["question"], choices, int(row["label"]) - 1, context=row["context"])


def _hellaswag(row: Mapping[str, Any]) -> Question:
    return Question(row["ctx"], tuple(row["endings"]), int(row["label"]), context=row["activity_label"])


def _winogrande(row: Mapping[str, Any]) -> Question:
    return Question(row["sentence"], (row["option1"], row["option2"]), int(row["answer"]) - 1)


READERS: dict[str, Callable[[Mapping[str, Any]], Question]] = {
    "arc": _labelled_choices("question"),
    "openbookqa": _labelled_choices("question_stem"),
    "boolq": _boolq,
    "piqa": _piqa,
    "siqa": _siqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
}


def read_questions(form: str, rows: Iterable[Mapping[str, Any]], where: str) -> list[Question]:
    """Return the questions of a split.

    Args:
        form: which data set's columns these are; a key of :data:`READERS`.
        rows: the rows as the hub gives them.
        where: names the split in messages.

    Raises:
        ConfigError: a row lacks a column, or its answer is none of its choices, as in splits without labels.
    """
    if form not in READERS:
        raise ConfigError(f"{where}: no prompts of the form '{form}'{nearest(form, set(READERS))}")
    found = []
    for index, row in enumerate(rows):
        try:
            question = READERS[form](row)
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{where}: row {index} is no question of the form '{form}' ({type(error).__name__}: {error}); splits "
                "without answers cannot be scored"
            ) from error
        if not 0 <= question.answer < len(question.choices):
            raise ConfigError(
                f"{where}: row {index} has the answer {question.answer + 1} of {len(question.choices)}; splits without "
                "answers cannot be scored"
            )
        found.append(question)
    return found
