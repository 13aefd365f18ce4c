"""A claim: one published number with its conditions, and the key that says what it may be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moelora.errors import ConfigError

METRICS = {
    "accuracy_pct": ("accuracy", 100.0),
    "macro_f1_pct": ("macro_f1", 100.0),
    "matthews_x100": ("matthews", 100.0),
    "pearson_x100": ("pearson", 100.0),
    "accuracy": ("accuracy", 1.0),
    "macro_f1": ("macro_f1", 1.0),
}
"""Printed metric → metric of a record and what it is multiplied by in print."""

_COUNTS = frozenset({"trainable_parameters", "trainable_parameters_millions"})


@dataclass(frozen=True)
class Key:
    """What two scores must share to be comparable; None where the document does not say or nothing here corresponds.

    Attributes:
        task: Task file here.
        version: Its version.
        split: Scored split.
        metric: Metric as records name it.
        protocol: How answers were scored.
        model: Model file, which may not exist here, or the printed name where no file is meant.
        start: What training started from.
        selection: Which checkpoint was scored.
    """

    task: str | None
    version: int | None
    split: str | None
    metric: str | None
    protocol: str
    model: str
    start: str = "base"
    selection: str = "last"

    def differences(self, other: Key) -> list[str]:
        """Return in what the two differ, as sentences without a full stop; empty where they are comparable."""
        found = []
        for name, words in _KEY_WORDS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{words} {_said(mine)} is not {_said(theirs)}")
        return found


_KEY_WORDS = {
    "task": "task",
    "version": "task version",
    "split": "split",
    "metric": "metric",
    "protocol": "protocol",
    "model": "model",
    "start": "start",
    "selection": "checkpoint",
}


@dataclass(frozen=True)
class Recipe:
    """What a document's method is here: a method page, the settings stated, and the training stated."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One published number.

    Attributes:
        id: Unique, from its place: `<file>/<table>/<setup>/<model>/<method>/<task>/<metric>`.
        file: Claim file.
        document: Where it is printed.
        table: Table or figure.
        setup: What sets the table's blocks apart.
        kind: `score`, `spread`, `cost`, `count`, `log` or `diagnostic`.
        model: Printed name of the model.
        method: Printed name of the method.
        task: Printed name of the task, `avg` for an average, `-` for none.
        metric: Printed metric with its unit.
        text: The number as printed.
        value: The number.
        digits: Printed digits after the point.
        source: Where to find it.
        trainable_percent: Share of trainable parameters as printed, or None.
        seeds: Runs behind it, or None where it is not said.
        items: Items of the test set, or None.
        constant: Items that the commonest answer gets right, or None.
        guess: Share that a uniform guess gets right, or None.
        key: What it may be compared with.
        recipe: What the method is here, or None.
        conditions: Conditions that no key has, by name.
        suite: Suite file that runs it, or None.
        shapes: Name of the model's shapes, or None.
        nominal: What the document divides trainable parameters by, or None for the exact size.
        founding: Whether the short table shows it.
        notes: What is known to be wrong or unclear about it.
    """

    id: str
    file: str
    document: str
    table: str
    setup: str
    kind: str
    model: str
    method: str
    task: str
    metric: str
    text: str
    value: float
    digits: int
    source: str
    trainable_percent: str | None
    seeds: int | None
    items: int | None
    constant: int | None
    guess: float | None
    key: Key
    recipe: Recipe | None
    conditions: Mapping[str, str]
    suite: str | None
    shapes: str | None
    nominal: float | None
    founding: bool
    notes: tuple[str, ...] = ()

    @property
    def scale(self) -> float | None:
        """What a record's score is multiplied by in print; None for metrics that records do not have."""
        return METRICS[self.metric][1] if self.metric in METRICS else None

    @property
    def half_step(self) -> float:
        """Half a step of the printed digits: how far rounding moves a number."""
        return 0.5 * 10.0**-self.digits

    def matches(self, about: Mapping[str, str]) -> bool:
        """Return whether the claim has all the fields of a selector."""
        return all(getattr(self, name) == value for name, value in about.items())


def kind_of(metric: str, table_kind: str) -> str:
    """Return a claim's kind: counts and spreads stand in tables of scores too."""
    if metric in _COUNTS:
        return "count"
    return "spread" if metric.endswith(("_std", "_ci95_low", "_ci95_high")) else table_kind


def pick(claims: list[Claim], about: Mapping[str, str], file: str) -> Claim:
    """Return the one claim that a selector names.

    Args:
        claims: All claims.
        about: Fields that it has; `file` where it stands in another file.
        file: The file that the selector stands in.

    Raises:
        ConfigError: None or several claims have these fields.
    """
    wanted = {"file": file, **about}
    found = [c for c in claims if c.matches(wanted)]
    if len(found) != 1:
        raise ConfigError(
            f"claims/{file}.yaml: {dict(about)} names {len(found)} claims, expected one; "
            "add or correct table, setup, model, method, task or metric"
        )
    return found[0]


def _said(value: Any) -> str:
    return "unknown" if value is None else str(value)
