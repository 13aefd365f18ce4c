"""`moelora compare A B`: two variants of a suite on the terminal, task by task and over tasks."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moelora import stats
from moelora.errors import ConfigError, nearest
from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Cell, Panel, panels
from moelora.reporting.collect import read_records
from moelora.reporting.runs import Run, Suite


def run(args: argparse.Namespace) -> None:
    """Carry out `moelora compare A B --records FILE [--model M] [--task T] [--regime R] [--region POINTS]`."""
    suite = Suite.from_frame(read_records(args.records))
    choice = Choice(args.model, args.task, args.regime, args.region / 100)
    print(compare_text(suite, args.first, args.second, choice), file=sys.stdout)


@dataclass(frozen=True)
class Choice:
    """What to look at.

    Attributes:
        model: A model, or None for all.
        task: A task, or None for all.
        regime: A regime, or None for all.
        region: Half the region of practical equivalence, on the scale of the metric.
    """

    model: str | None = None
    task: str | None = None
    regime: str | None = None
    region: float = 0.01


ALL = Choice()
"""Every model, task and regime, and a point as what counts as no difference."""


@dataclass(frozen=True)
class Pair:
    """Two variants in one cell of a panel.

    Attributes:
        panel: The panel.
        task: The task.
        regime: The regime.
        first: Cell of the first variant.
        second: Cell of the second.
        test: The test that treats seeds as random; None without a shared seed.
        models: For a single shared seed, the test over its items; None where items are not at hand.
    """

    panel: Panel
    task: str
    regime: str
    first: Cell
    second: Cell
    test: stats.Comparison | None
    models: stats.ModelComparison | None


def compare_pairs(suite: Suite, first: str, second: str, choice: Choice = ALL) -> list[Pair]:
    """Return the comparison of two variants on every task and regime that has scores of both.

    Raises:
        ConfigError: A variant is not in the records, or nothing is left to compare.
    """
    known = sorted({r.variant for r in suite.runs})
    for name in (first, second):
        if name not in known:
            raise ConfigError(f"no variant '{name}' in these records{nearest(name, known)}")
    found = []
    for panel in panels(suite):
        if choice.model not in (None, panel.model):
            continue
        for index, column in enumerate(panel.columns):
            if column.task == AVERAGE or choice.task not in (None, column.task):
                continue
            cells = [panel.cells.get((name, index)) for name in (first, second)]
            if choice.regime in (None, column.regime) and all(c is not None and c.scores for c in cells):
                found.append(_pair(panel, column.task, column.regime, cells[0], cells[1]))
    if not found:
        raise ConfigError(
            f"found no task on which both '{first}' and '{second}' have a score under this choice; "
            "leave out --model, --task or --regime, or run what is missing"
        )
    return found


def compare_text(suite: Suite, first: str, second: str, choice: Choice = ALL) -> str:
    """Return the comparison of two variants as text for a terminal."""
    found = compare_pairs(suite, first, second, choice)
    lines = [f"{suite.label(first)} minus {suite.label(second)}, in points; suite {suite.name}", ""]
    adjusted = stats.holm({i: pair.test.p for i, pair in enumerate(found) if pair.test})
    head = (
        "task",
        "settings",
        "seeds",
        "items",
        first,
        second,
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
        "effect",
        "finds",
    )
    rows = [head]
    for i, pair in enumerate(found):
        rows.append(_row(suite, pair, adjusted.get(i, float("nan")), len(adjusted)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    for sentence in _conclusions(found, choice):
        lines += ["", *textwrap.wrap(sentence, 100, subsequent_indent="  ")]
    return "\n".join(lines)


def _pair(panel: Panel, task: str, regime: str, first: Cell, second: Cell) -> Pair:
    shared = sorted(set(first.scores.values) & set(second.scores.values))
    test = stats.crossed_test(first.scores, second.scores) if shared else None
    models = None
    if len(shared) == 1:
        runs = [next(r for r in cell.runs if r.seed == shared[0]) for cell in (first, second)]
        models = _compare_runs(task, runs)
    return Pair(panel, task, regime, first, second, test, models)


def _compare_runs(task: str, runs: Sequence[Run]) -> stats.ModelComparison | None:
    scores = [r.scores[task] for r in runs]
    if any(s.items is None for s in scores):
        return None
    try:
        return stats.compare_models(scores[0].main_metric, scores[0].items, scores[1].items, key=task)
    except ValueError:  # a metric that items do not tell, or another test set
        return None


def _row(suite: Suite, pair: Pair, adjusted: float, family: int) -> tuple[str, ...]:
    column = next(c for c in pair.panel.columns if (c.task, c.regime) == (pair.task, pair.regime))
    n_seeds = pair.test.n_seeds if pair.test else 0
    difference = pair.test.difference if pair.test else pair.first.estimate.mean - pair.second.estimate.mean
    low, high = (pair.test.low, pair.test.high) if n_seeds > 1 else (float("nan"), float("nan"))
    if pair.models:
        low, high = pair.models.low, pair.models.high
    return (
        _place(suite, pair),
        words.regime_label(pair.regime),
        str(n_seeds),
        str(column.n_items or "–"),
        words.points(pair.first.estimate.mean),
        words.points(pair.second.estimate.mean),
        words.signed(difference),
        "–" if np.isnan(low) else f"[{words.signed(low)}, {words.signed(high)}]",
        f"{_p(pair.models.p)} †" if pair.models else _p(pair.test.p if n_seeds > 1 else float("nan")),
        _p(adjusted),
        _effect(pair),
        _smallest(pair, family),
    )


def _conclusions(found: Sequence[Pair], choice: Choice) -> list[str]:
    lines = []
    several = [p for p in found if p.test and p.test.n_seeds > 1]
    if several:
        lines.append(
            "p: t test with seeds and items as samples, the other variants of a column speaking of the scatter between "
            "seeds; Holm over the rows. effect: in units of the scatter between seeds. finds: the smallest true "
            "difference that such a table finds in four of five tries."
        )
        lines.append(stats.few_seeds_note(min(p.test.n_seeds for p in several)))
    tests = sorted({p.models.test for p in found if p.models})
    if tests:
        lines.append(
            f"†: one shared seed ({words.listing(tests)} over its items). It speaks of {stats.TRAINED_MODELS}, not of "
            "the methods, and is left out of Holm's correction."
        )
    if any(p.test and p.test.n_seeds == 1 and not p.models for p in found):
        lines.append("Rows with one shared seed and no items at hand can't be tested at all.")
    if any(p.test is None for p in found):
        lines.append("Rows without a shared seed are shown and not tested.")
    return lines + _over_tasks(several, choice)


def _over_tasks(pairs: Sequence[Pair], choice: Choice) -> list[str]:
    """Return a sentence a panel and regime on how likely the lead is practical."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.panel.title, pair.regime), []).append(pair)
    lines = []
    for (title, regime), mine in groups.items():
        draws = [
            stats.difference_draws(p.test.difference, p.test.error, p.test.degrees) for p in mine if p.test.degrees
        ]
        verdict = stats.practical_verdict(draws, choice.region)
        where = f"{title}, {words.regime_label(regime).lower()}"
        over = "" if len(mine) == 1 else f" on average over {words.plural(len(mine), 'task')}"
        lines.append(
            f"{where}: ahead by more than {words.points(choice.region)} points{over} with probability "
            f"{verdict.better:.2f}, within them {verdict.equal:.2f}, behind by more {verdict.worse:.2f}."
        )
        if 1 < len(mine) < stats.FEW_TASKS:
            other = stats.practical_verdict(draws, choice.region, other_tasks=True)
            lines.append(
                f"For other tasks like these {other.better:.2f}, {other.equal:.2f} and {other.worse:.2f}; "
                f"{len(mine)} tasks are few to say so."
            )
    return lines


def _effect(pair: Pair) -> str:
    seeds = sorted(set(pair.first.scores.values) & set(pair.second.scores.values))
    effect = stats.standardised_effect([pair.first.scores.values[s] - pair.second.scores.values[s] for s in seeds])
    if effect is None or not np.isfinite(effect.size):
        return "–"
    return f"{effect.size:+.1f} [{effect.low:+.1f}, {effect.high:+.1f}]".replace("-", "−")


def _smallest(pair: Pair, family: int) -> str:
    if not pair.test or pair.test.n_seeds < 2:
        return "–"
    return words.points(stats.detectable_difference(pair.test.error, pair.test.degrees, comparisons=max(family, 1)))


def _place(suite: Suite, pair: Pair) -> str:
    title = suite.task_title(pair.task)
    parts = [title]
    if len(suite.models) > 1:
        parts.append(pair.panel.model)
    if pair.panel.mixture:
        parts.append(f"in {pair.panel.mixture}")
    return ", ".join(parts)


def _p(value: float) -> str:
    return "–" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
