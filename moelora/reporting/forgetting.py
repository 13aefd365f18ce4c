"""What runs unlearned, over seeds and tasks: the numbers behind the tables and figures of forgetting, and the tables.

Everything is told so that above zero is worse: the rise of the loss on general text, the drop of a probe's score.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from moelora import stats
from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.runs import Run, Suite
from moelora.reporting.table import Entry, Row, Table, number, plain

TEXT = "text"
"""The measure of decoders; every other measure is the task of a probe."""


@dataclass(frozen=True)
class Change:
    """What one variant, trained in one way, lost by one measure.

    Attributes:
        model: The model.
        trained_on: The task or mixture that its runs were trained on; empty for the mean over single tasks.
        regime: Of the runs.
        variant: The variant.
        measure: `text`, the task of a probe, or `probes` for the mean over probes.
        base: Loss or score of the base alone.
        tuned: The same of the tuned model, the mean over seeds.
        scores: The change by seed with draws over documents or items.
        weak: Whether the base's probe can't be told from a constant answer, so that no drop could show.
        parts: How many measures by training tasks it is the mean of.
    """

    model: str
    trained_on: str
    regime: str
    variant: str
    measure: str
    base: float
    tuned: float
    scores: stats.SeedScores
    weak: bool = False
    parts: int = 1

    @cached_property
    def estimate(self) -> stats.Estimate:
        """The change, the mean over seeds, and its interval."""
        return self.scores.estimate()

    @property
    def is_text(self) -> bool:
        """Whether it is a loss, in nats a token; otherwise it is a score."""
        return self.measure == TEXT

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the change leaves out zero."""
        return self.estimate.low > 0.0 or self.estimate.high < 0.0


def changes(panels: Sequence[Panel]) -> list[Change]:
    """Return every change: one a variant, training task or mixture, and measure, in the order of the tables."""
    found = []
    for panel, regime, variant, runs in _blocks(panels):
        for trained_on in panel.suite.tasks({r.task for r in runs}):
            mine = sorted((r for r in runs if r.task == trained_on), key=lambda r: r.seed)
            measures = list(dict.fromkeys(name for run in mine for name in _entries(run)))
            for measure in [m for m in (TEXT,) if m in measures] + panel.suite.tasks(set(measures) - {TEXT}):
                entries = {run.seed: _entries(run)[measure] for run in mine if measure in _entries(run)}
                found.append(_change(panel.model, trained_on, regime, variant, measure, entries))
    return found


def summaries(panels: Sequence[Panel]) -> list[Change]:
    """Return one change a variant, way of training and kind of measure: the mean over single tasks and over probes.

    Probes whose base can't be told from a constant answer are left out: they can't show a drop, and would make every
    method look as if it forgot less. Runs that start from another task's adapter are left out too. A variant that
    lacks a part which another has gets no mean, which would be over other tasks; a mean is over the seeds that all
    its parts have.
    """
    every = changes(panels)
    found = []
    for panel, regime, variant, _runs in _blocks(panels):
        trained = {r.task for r in panel.runs if r.regime == regime and not r.record.get("parent")}
        mine = [c for c in every if (c.model, c.regime) == (panel.model, regime) and c.trained_on in trained]
        for is_text in (True, False):
            strong = [c for c in mine if c.is_text == is_text and not c.weak]
            parts = [c for c in strong if c.variant == variant]
            wanted = {(c.trained_on, c.measure) for c in strong}
            scores = stats.average_scores([c.scores for c in parts])
            if scores is None or {(c.trained_on, c.measure) for c in parts} != wanted:
                continue
            base, lost = float(np.mean([c.base for c in parts])), float(np.mean(list(scores.values.values())))
            found.append(
                Change(
                    model=panel.model,
                    trained_on=panel.mixture or "",
                    regime=regime,
                    variant=variant,
                    measure=TEXT if is_text else "probes",
                    base=base,
                    tuned=base + lost if is_text else base - lost,
                    scores=scores,
                    parts=len(parts),
                )
            )
    return found


def _blocks(panels: Sequence[Panel]) -> Iterator[tuple[Panel, str, str, list[Run]]]:
    for panel in panels:
        for regime, _indexes in panel.regimes:
            for variant in panel.variants:
                runs = [
                    r for r in panel.runs if (r.variant, r.regime) == (variant, regime) and r.finished and _entries(r)
                ]
                if runs:
                    yield panel, regime, variant, runs


def _entries(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return what a record says of forgetting, by measure."""
    said = run.record.get("forgetting") or {}
    text = {TEXT: said["text"]} if said.get("text") else {}
    return text | dict(said.get("probes") or {})


def _change(
    model: str, trained_on: str, regime: str, variant: str, measure: str, entries: Mapping[int, Mapping[str, Any]]
) -> Change:
    which = "rise" if measure == TEXT else "drop"
    scores = stats.SeedScores(
        values={seed: entry[which] for seed, entry in entries.items()},
        draws={seed: entry[which] + _draws(measure, *entry["interval"]) for seed, entry in entries.items()},
        bounds=None,
    )
    said = list(entries.values())
    return Change(
        model=model,
        trained_on=trained_on,
        regime=regime,
        variant=variant,
        measure=measure,
        base=float(np.mean([entry["base"] for entry in said])),
        tuned=float(np.mean([entry["tuned"] for entry in said])),
        scores=scores,
        weak=measure != TEXT and is_weak(said[0]),
    )


def _draws(measure: str, low: float, high: float) -> np.ndarray:
    # Every run reads the same documents or items, so all of them are drawn alike; only the width differs.
    return (high - low) / 2 * _unit_draws(measure)


@lru_cache(maxsize=256)
def _unit_draws(measure: str) -> np.ndarray:
    return stats.normal_draws(-1.0, 1.0, key=zlib.crc32(measure.encode()))


def is_weak(probe: Mapping[str, Any]) -> bool:
    """Return whether what a probe scores on the base can't be told from what a constant answer scores by luck."""
    if stats.is_proportion(probe["metric"]):
        return probe["base"] <= stats.chance_interval(probe["constant"], probe["items"])[1]
    return probe["base"] <= math.tanh(1.96 / math.sqrt(max(probe["items"] - 3, 1)))  # Fisher's interval around zero


def forgetting_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return what each variant lost, over its training tasks and measures."""
    body = []
    for change in summaries(panels):
        tasks = "one task each" if not change.trained_on else change.trained_on
        what = "held-out text, nats a token" if change.is_text else "probes of other tasks, points"
        body.append(
            Row([*_place(suite, change), Entry(tasks), Entry(what), *_numbers(change), number(str(change.parts))])
        )
    columns = ["Variant", "Model", "Settings", "Trained on", "Measured on", "Base", "Tuned", "Lost", "Seeds", "Mean of"]
    return replace(plain("forgetting", "What was forgotten", columns, body, NOTE), synthetic=suite.synthetic)


NOTE = (
    "Lost: the rise of the loss on text that is nobody's task, or the drop of a linear probe that was fitted for "
    "another task on the base's hidden states and is applied as it is; above zero is worse. 95 % intervals over seeds "
    "and documents or items; bold: it leaves out zero; italic with †: one seed, over documents or items only. Means "
    "are over training tasks and probes, without probes that do no better on the base than a constant answer; a "
    "variant of which one is missing has no mean. A drop says that what the probe read moved or went: it is an upper "
    "bound of what was lost."
)


def forgetting_details(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return every loss and every probe, by what the run was trained on."""
    body = []
    for change in changes(panels):
        what = "held-out text, nats a token" if change.is_text else suite.task_title(change.measure)
        row = [*_place(suite, change), Entry(suite.task_title(change.trained_on)), Entry(what), *_numbers(change)]
        body.append(Row(row))
    note = "Probes × 100 (accuracy, or Pearson for grades). °: no better on the base than a constant answer."
    columns = ["Variant", "Model", "Settings", "Trained on", "Measured on", "Base", "Tuned", "Lost", "Seeds"]
    table = plain("forgetting-details", "Every loss and probe", columns, body, note)
    return replace(table, synthetic=suite.synthetic)


def _place(suite: Suite, change: Change) -> list[Entry]:
    return [
        Entry(suite.label(change.variant)),
        Entry(change.model),
        Entry(words.regime_label(change.regime)),
    ]


def _numbers(change: Change) -> list[Entry]:
    e = change.estimate
    shown, signed = (_nats, _signed_nats) if change.is_text else (words.points, words.signed)
    marks = {"number"} | ({"clear"} if change.distinguishable and not change.weak else set())
    marks |= {"single"} if e.n_seeds == 1 else set()
    marks |= {"chance"} if change.weak else set()
    return [
        number(shown(change.base)),
        number(shown(change.tuned)),
        Entry(signed(e.mean), f"[{signed(e.low)}, {signed(e.high)}]", frozenset(marks)),
        number(str(e.n_seeds)),
    ]


def _nats(value: float) -> str:
    return f"{value:.3f}"


def _signed_nats(value: float) -> str:
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")
