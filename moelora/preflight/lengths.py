"""How long runs are, from facts about their data sets: steps, tokens, and what scoring reads.

Texts are counted as a token for four characters and 20 more for the instruction, and cut where the plan cuts them. The
longest text of a batch is taken to be four times the mean.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.config import ConfigDir, check, load_yaml
from moelora.errors import ConfigError, nearest

CHARACTERS_PER_TOKEN = 4
INSTRUCTION_TOKENS = 20
LONGEST = 4
NEW_TOKENS, BEAMS = 32, 4  # of the protocol generate-regex
AUTOMATIC = 32  # items that an automatic batch is taken to hold
RECIPES = {"commonsense-15k": 15_000, "commonsense-170k": 170_420}  # rows


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of one data set; see ``workflow/config/data.yaml``."""

    train: int
    evaluation: int
    choices: int
    characters: float
    megabytes: float
    licence: "str | None"
    posed: "float | None" = None

    def tokens(self, protocol: str, max_length: int) -> float:
        """Return the mean tokens of a text under a protocol, cut to a length."""
        characters = self.posed if self.posed and protocol not in ("lm-eval", "glue") else self.characters
        return min(max_length, INSTRUCTION_TOKENS + characters / CHARACTERS_PER_TOKEN)

    def longest(self, protocol: str, max_length: int) -> float:
        """Return the tokens of the longest text, cut to a length."""
        return min(max_length, LONGEST * self.tokens(protocol, max_length))


def read_facts(config_dir: ConfigDir) -> dict[str, Facts]:
    """Return what is known of data sets, by task.

    Raises:
        ConfigError: the file does not follow its schema.
    """
    path: Path = config_dir.path / "data.yaml"
    document = load_yaml(path)
    check(document, "data", config_dir.schema_dir, path)
    return {name: Facts(**entry) for name, entry in document.items()}


def facts_of(task: Mapping[str, Any], facts: Mapping[str, Facts]) -> Facts:
    """Return what is known of a task's data set.

    Raises:
        ConfigError: nothing is.
    """
    name = task.get("data", task["name"])  # a transfer's task has another name than its data
    if name not in facts:
        raise ConfigError(
            f"nothing is known of the size of task '{name}'{nearest(name, set(facts))}; add it to "
            "workflow/config/data.yaml"
        )
    return facts[name]


@dataclasses.dataclass(frozen=True)
class Length:
    """How long one run is.

    Attributes:
        steps: Optimiser steps.
        tokens: Tokens that training reads, padding left out.
        mean: Mean tokens of a training text.
        longest: Tokens of the longest text, of training and of scoring.
        scored: Tokens that scoring reads.
        batches: Forward passes in which it reads them.
        generated: Steps of generation, in which each sequence of a batch gets one token.
    """

    steps: int
    tokens: float
    mean: float
    longest: float
    scored: float
    batches: int
    generated: int


def run_length(plan: Mapping[str, Any], facts: Mapping[str, Facts], untrained: bool) -> Length:
    """Return how long the run of a plan is.

    Args:
        plan: The plan.
        facts: What is known of data sets.
        untrained: Whether nothing is trained.

    Raises:
        ConfigError: nothing is known of one of its data sets.
    """
    training, evaluation = plan["training"], plan["evaluation"]
    known = [(facts_of(task, facts), task["protocol"]) for task in plan["tasks"]]
    cut = training["max_length"]
    sizes = [min(one.train, training["max_examples"] or one.train) for one, _ in known]
    total = sum(sizes)
    mean = sum(size * one.tokens(how, cut) for size, (one, how) in zip(sizes, known, strict=True)) / total
    if training.get("data"):
        total = training["data"].get("rows") or RECIPES.get(training["data"].get("recipe", ""), total)
    steps = 0
    if not untrained and not _scored_only(plan):
        by_epochs = training["max_steps"] is None
        steps = round(training["epochs"] * -(-total // training["batch_size"])) if by_epochs else training["max_steps"]
    scored, batches, generated = 0.0, 0, 0
    batch = evaluation["batch_size"] if isinstance(evaluation["batch_size"], int) else AUTOMATIC
    for one, how in known:
        items = min(one.evaluation, evaluation["limit"] or one.evaluation)
        texts = items * (one.choices if how == "lm-eval" else 1)
        scored, batches = scored + texts * one.tokens(how, cut), batches + -(-texts // batch)
        if how.startswith("generate"):
            generated += NEW_TOKENS * -(-items // batch)
    longest = max(one.longest(how, cut) for one, how in known)
    return Length(steps, mean * training["batch_size"] * steps, mean, longest, scored, batches, generated)


def tuning_length(plan: Mapping[str, Any], tune: Mapping[str, Any], facts: Mapping[str, Facts]) -> float:
    """Return the tokens that the trials of a learning rate read in training.

    Raises:
        ConfigError: nothing is known of one of its data sets.
    """
    training = {**plan["training"], "max_examples": tune["max_examples"] or plan["training"]["max_examples"]}
    if tune["epochs"]:
        training |= {"epochs": tune["epochs"], "max_steps": None}
    length = run_length({**plan, "training": training}, facts, untrained=False)
    return length.tokens * len(tune["learning_rates"]) * (1 - tune["validation_fraction"])


def _scored_only(plan: Mapping[str, Any]) -> bool:
    """Return whether a run only scores the adapter of another."""
    parent = plan.get("pending", {}).get("parent")
    return bool(parent) and not parent["continue"]
