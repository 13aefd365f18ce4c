"""The runs of a suite as the tables and figures see them, in the order of the suite."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from moelora import stats
from moelora.plans import layout
from moelora.plans.controls import CONTROLS, LORA_PREFIXES, control_name, equal_lora_of
from moelora.reporting import words


@dataclass(frozen=True)
class Score:
    """What one run scored on one task.

    Attributes:
        task: The scored task.
        metrics: Value by metric.
        main_metric: The one that tables show.
        n_items: Items of the test set.
        chance: Main metric of the constant answer.
        majority: Every metric of the constant answer.
        within_chance: What the record says about the main metric.
        interval: The record's own interval over items, or None.
        synthetic: Whether the task comes from a generator.
        items: The scored items, or None for a published record.
        protocol: How answers were scored.
    """

    task: str
    metrics: Mapping[str, float]
    main_metric: str
    n_items: int
    chance: float | None
    majority: Mapping[str, float]
    within_chance: bool
    interval: tuple[float, float] | None
    synthetic: bool
    items: stats.Items | None
    protocol: str = ""

    @property
    def value(self) -> float:
        """The main metric."""
        return self.metrics[self.main_metric]

    @property
    def chance_bounds(self) -> tuple[float, float] | None:
        """The interval of chance of the main metric; None where none is known."""
        if self.chance is None:
            return None
        return stats.chance_bounds(self.main_metric, self.chance, self.n_items)

    def item_draws(self, key: str) -> np.ndarray:
        """Return the main metric in each resample of the items, shape (B,).

        Args:
            key: The run's id, which names the random stream where only the interval is known.
        """
        if self.items is not None:
            counts = stats.resampling_counts(len(self.items), stream=zlib.crc32(self.task.encode()))
            drawn = stats.resampled_metric(self.main_metric, self.items, counts)
            if drawn is not None:
                return drawn
        if self.interval is None:
            return np.full(stats.DRAWS, self.value)
        return self.value + stats.normal_draws(*self.interval, key=zlib.crc32(f"{key}/{self.task}".encode()))

    @property
    def disagreement(self) -> float:
        """How far the record's main metric lies from what its items give; 0 where that can't be told."""
        found = None if self.items is None else stats.item_metric(self.main_metric, self.items)
        return 0.0 if found is None else abs(found - self.value)


@dataclass(frozen=True)
class Run:
    """One record and its scored tasks, and how its routing agrees with that of smaller seeds."""

    record: Mapping[str, Any]
    scores: Mapping[str, Score] = field(default_factory=dict)
    agreement: Sequence[Mapping[str, Any]] = ()

    def __getattr__(self, name: str) -> Any:
        # id, model, task, variant, method, regime, seed, status and reason are the record's own words.
        if name in _RECORD_FIELDS:
            return self.record.get(name)
        raise AttributeError(f"a run has no {name!r}")

    @property
    def finished(self) -> bool:
        """Whether the run has scores to show."""
        return self.record["status"] == "finished" and bool(self.scores)

    @property
    def is_mixture(self) -> bool:
        """Whether one adapter was trained on several tasks."""
        return len(self.record["plan"].get("tasks") or []) > 1

    @property
    def tasks(self) -> list[str]:
        """The tasks the plan names; a failed run has no others to show."""
        planned = [t["name"] if isinstance(t, dict) else str(t) for t in self.record["plan"].get("tasks") or []]
        return planned or sorted(self.scores) or [self.task]

    def protocol(self, task: str) -> str:
        """Return how a task is scored, by its score or else its plan; empty where neither says."""
        if task in self.scores:
            return self.scores[task].protocol
        planned = (t for t in self.record["plan"].get("tasks") or [] if isinstance(t, dict) and t["name"] == task)
        return str(next(planned, {}).get("protocol") or "")

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """Item draws of the main metric by task."""
        return {task: score.item_draws(self.record["id"]) for task, score in self.scores.items()}


_RECORD_FIELDS = frozenset({"id", "model", "task", "variant", "method", "regime", "seed", "status", "reason"})


class Suite:
    """All runs of a suite with the order and the titles of its axes.

    Args:
        runs: What was collected.
        document: The expanded suite file; its order of variants and tasks is kept. May be empty.
    """

    def __init__(self, runs: Iterable[Run], document: Mapping[str, Any] | None = None) -> None:
        self.document = dict(document or {})
        self.runs = sorted(runs, key=lambda r: (r.model, r.task, r.variant, r.regime, r.seed, r.id))
        self.name = str(self.document.get("name") or (self.runs[0].record["suite"] if self.runs else "empty"))
        self.title = str(self.document.get("title") or self.name)
        self.description = str(self.document.get("description") or "")
        self.question: Mapping[str, str] = self.document.get("question") or {}
        self._methods = {r.variant: r.method for r in self.runs}
        self._controls = self._all_controls()
        self._variant_rank = {name: i for i, name in enumerate(self._variant_order())}
        self._task_rank = {name: i for i, name in enumerate(self._task_order())}

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, document: Mapping[str, Any] | None = None) -> Suite:
        """Build the suite from the rows of `records.parquet`."""
        main = frame[frame["is_main"].fillna(False).astype(bool)]
        items = {
            (row.id, row.scored_task): _items_of(row)
            for row in main.itertuples(index=False)
            if np.ndim(row.item_correct) == 1  # None or NaN where there are no items
        }
        runs = []
        columns = frame.drop_duplicates("id")[["id", "record", "agreement"]]
        for record_id, text, agreed in columns.itertuples(index=False):
            record = json.loads(text)
            scores = {
                task: _score_of(task, score, items.get((record_id, task)))
                for task, score in sorted((record.get("scores") or {}).items())
            }
            runs.append(Run(record, scores, json.loads(agreed) if isinstance(agreed, str) else ()))
        return cls(runs, document)

    @cached_property
    def models(self) -> list[str]:
        """Models in the order of the suite."""
        order = [m for block in self.document.get("grid") or [] for m in block.get("models") or []]
        order = [m["name"] if isinstance(m, dict) else m for m in order]
        return sorted({r.model for r in self.runs}, key=lambda m: (order.index(m) if m in order else len(order), m))

    @cached_property
    def regimes(self) -> list[str]:
        """Regimes in the order of the suite."""
        order = list(self.document.get("regimes") or {}) or ["published", "tuned"]
        return sorted({r.regime for r in self.runs}, key=lambda g: (order.index(g) if g in order else len(order), g))

    @property
    def synthetic(self) -> bool:
        """Whether any task comes from a generator."""
        return any(s.synthetic for r in self.runs for s in r.scores.values())

    def variants(self, runs: Iterable[Run]) -> list[str]:
        """Return the variants of some runs in the order of the tables."""
        return sorted({r.variant for r in runs}, key=lambda v: (self._variant_rank.get(v, 10**6), v))

    def tasks(self, names: Iterable[str]) -> list[str]:
        """Return task names in the order of the suite."""
        return sorted(set(names), key=lambda t: (self._task_rank.get(t, 10**6), t))

    def model_title(self, model: str) -> str:
        """Return the model's title from its plan."""
        for run in self.runs:
            document = run.record["plan"].get("model")
            if run.model == model and isinstance(document, dict) and document.get("title"):
                return str(document["title"])
        return model

    def task_title(self, task: str) -> str:
        """Return the task's title from a plan that has it."""
        return self._task_titles.get(task, task)

    @cached_property
    def _task_titles(self) -> dict[str, str]:
        return {
            t["name"]: str(t.get("title") or t["name"])
            for r in self.runs
            for t in r.record["plan"].get("tasks") or []
            if isinstance(t, dict)
        }

    def placement(self, variant: str) -> Mapping[str, str | None] | None:
        """Return from which of a suite's placements a variant comes: `variant`, `strategy` and `budget`; or None."""
        expanded = (self.document.get("expanded") or {}).get("variants") or []
        return next((v.get("placement") for v in expanded if v["name"] == variant), None)

    def label(self, variant: str) -> str:
        """Return the variant's name in a table; a control is named for its mixture, a LoRA among them for its rank."""
        return self._labels[variant]

    @cached_property
    def _labels(self) -> dict[str, str]:
        labels = {}
        for variant, method in self._methods.items():
            labels[variant] = words.variant_label(variant, method)
            if (control := self.control(variant)) is not None:
                kind, mixture = control
                ranks = sorted(
                    {r.record["match"]["rank"] for r in self.runs if r.variant == variant and r.record.get("match")}
                )
                rank = f" (r {ranks[0]})" if len(ranks) == 1 else f" (r {ranks[0]} to {ranks[-1]})" if ranks else ""
                whose = words.variant_label(mixture, self._methods.get(mixture, mixture))
                labels[variant] = words.control_label(kind, whose) + rank
        return labels

    def method(self, variant: str) -> str:
        """Return the method a variant belongs to."""
        return self._methods[variant]

    def control(self, variant: str) -> tuple[str, str] | None:
        """Return the kind of a control and the mixture that it stands beside, or None."""
        return self._controls.get(variant) or equal_lora_of(variant)

    def matched_to(self, variant: str) -> str | None:
        """Return the mixture that a LoRA of equal parameters, trainable or active, stands beside, or None."""
        kind, mixture = self.control(variant) or (None, None)
        return mixture if kind in LORA_PREFIXES else None

    def _all_controls(self) -> dict[str, tuple[str, str]]:
        """Return the controls that the suite or the records name; a record alone names LoRA controls only."""
        kinds = {"trainable": "equal_trainable", "active": "equal_active"}
        found = {
            r.variant: (kinds[r.record["match"].get("count", "trainable")], r.record["match"]["variant"])
            for r in self.runs
            if r.record.get("match")
        }
        for variant in (self.document.get("expanded") or {}).get("variants") or []:
            if control := variant.get("control"):
                found[variant["name"]] = (control["kind"], control["of"])
        return found

    def _variant_order(self) -> list[str]:
        expanded = [v["name"] for v in (self.document.get("expanded") or {}).get("variants") or []]
        declared = [str(v) for v in expanded or self.document.get("variants") or []]
        present = {r.variant for r in self.runs}
        rest = sorted(present - set(declared))
        first = [v for v in ("majority", "base") if v in present or v in declared]
        last = [v for v in ("full",) if v in present or v in declared]
        order: list[str] = list(first)
        for variant in [*declared, *rest]:
            _, mixture = self.control(variant) or (None, None)
            if variant in order or variant in last or mixture in present:
                continue
            order.append(variant)
            order += [v for kind in CONTROLS if (v := control_name(kind, variant)) in present]
        return order + last

    def _task_order(self) -> list[str]:
        order: list[str] = []
        for block in self.document.get("grid") or []:
            order += [t["name"] if isinstance(t, dict) else t for t in block.get("tasks") or []]
            for members in (block.get("mixtures") or {}).values():
                order += [t["name"] if isinstance(t, dict) else t for t in members]
            order += [layout.transfer(entry) for entry in block.get("transfer") or []]
        return list(dict.fromkeys(order))


def _score_of(task: str, score: Mapping[str, Any], items: stats.Items | None) -> Score:
    interval = score.get("interval")
    return Score(
        task=task,
        metrics=score["metrics"],
        main_metric=score["main_metric"],
        n_items=score["n_items"],
        chance=score.get("chance"),
        majority=score.get("majority") or {},
        within_chance=bool(score.get("within_chance")),
        interval=tuple(interval) if interval else None,
        synthetic=bool(score.get("synthetic")),
        items=items,
        protocol=str(score.get("protocol") or ""),
    )


def _items_of(row: Any) -> stats.Items:
    return stats.Items(
        *(np.asarray(column, dtype=np.float64) for column in (row.item_labels, row.item_predictions, row.item_correct))
    )
