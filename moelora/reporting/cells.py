"""The cells of a table: runs of one variant on one task, and whether their score can be told from others.

A *panel* is one model trained in one way (each task by itself, or a named mixture of tasks). Its columns
are tasks × regimes, its rows variants. Tables and figures both look at panels. Scores of two protocols are
two quantities: they stand in columns of their own, and no average is over both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from moelora import stats
from moelora.reporting import words
from moelora.reporting.runs import Run, Suite

AVERAGE = "average"
"""Name of the column that averages over a panel's tasks."""


@dataclass(frozen=True)
class Cell:
    """One variant on one task in one regime.

    Attributes:
        runs: The finished runs behind it.
        lost: The runs that ended otherwise.
        scores: Score and item draws by seed; None where nothing finished.
        estimate: Mean over seeds and its interval.
        within_chance: Whether the mean can't be told from a constant answer.
        below_chance: Whether it lies below what any constant answer would score, as where a model says nothing.
        best: Whether the cell is the best of its column or can't be told from it.
        borrowed: Whether it stands in from single-task runs, which are the same without training.
    """

    runs: Sequence[Run] = ()
    lost: Sequence[Run] = ()
    scores: stats.SeedScores | None = None
    estimate: stats.Estimate | None = None
    within_chance: bool = False
    below_chance: bool = False
    best: bool = False
    borrowed: bool = False

    @property
    def reason(self) -> str:
        """Why there is no score, in two words; empty where there is one or nothing was run."""
        if self.estimate or not self.lost:
            return ""
        return words.listing(sorted({words.status_label(r.status) for r in self.lost}))


@dataclass(frozen=True)
class Column:
    """One task in one regime under one protocol.

    Attributes:
        task: The task, or `average`.
        regime: The regime.
        metric: The metric that is shown.
        synthetic: Whether the task comes from a generator.
        n_items: Items of the test set.
        protocol: How it was scored; empty for results without a record of it.
        chance: What the constant answer scores.
        bounds: The interval of chance; None where the metric has none that is known.
    """

    task: str
    regime: str
    metric: str
    synthetic: bool
    n_items: int | None
    protocol: str = ""
    chance: float | None = None
    bounds: tuple[float, float] | None = None


@dataclass
class Panel:
    """One model trained in one way.

    Attributes:
        model: The model's name.
        mixture: The mixture's name, or None for one adapter a task.
        columns: Tasks × regimes, by regime and protocol; the average closes each protocol of several tasks.
        variants: Rows in order.
        cells: Cell by (variant, column index).
    """

    suite: Suite
    model: str
    mixture: str | None
    columns: list[Column]
    variants: list[str]
    cells: dict[tuple[str, int], Cell]
    runs: list[Run] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Model and way of training in words."""
        way = f"one adapter for the mixture “{self.mixture}”" if self.mixture else "one adapter per task"
        return f"{self.suite.model_title(self.model)}, {way}"

    @property
    def name(self) -> str:
        """A name that file names can carry."""
        return f"{self.model}--{self.mixture}" if self.mixture else self.model

    @cached_property
    def regimes(self) -> list[tuple[str, list[int]]]:
        """Regimes with the indexes of their columns."""
        return [
            (regime, [i for i, c in enumerate(self.columns) if c.regime == regime])
            for regime in dict.fromkeys(c.regime for c in self.columns)
        ]

    def parameters(self, variant: str, which: str = "trainable") -> tuple[int, int] | None:
        """Return the smallest and largest count of parameters over the panel's runs of a variant."""
        mine = [r for r in self.runs if r.variant == variant]
        lent = [r for (v, _), cell in self.cells.items() if v == variant for r in cell.runs]
        counts = [
            r.record["parameters"][which]
            for r in mine or lent
            if (r.record.get("parameters") or {}).get(which) is not None
        ]
        return (min(counts), max(counts)) if counts else None

    def summary_column(self, regime: str) -> int | None:
        """Return the column that stands for a regime: its average, or its only task."""
        indexes = dict(self.regimes).get(regime) or []
        return indexes[-1] if indexes else None

    def label(self, variant: str) -> str:
        """Return the variant's name in this panel: a classifier's base model is one with a trained head."""
        label = self.suite.label(variant)
        counts = self.parameters(variant)
        return f"{label}, head only" if self.suite.method(variant) == "base" and counts and counts[1] else label

    @property
    def contenders(self) -> list[str]:
        """Variants that can win: all but the baselines and the bound."""
        return [v for v in self.variants if self.suite.method(v) not in words.REFERENCES]


def panels(suite: Suite) -> list[Panel]:
    """Return the panels of a suite: for each model the single-task one, then its mixtures."""
    found = []
    for model in suite.models:
        of_model = [r for r in suite.runs if r.model == model]
        ways = [None, *sorted({r.task for r in of_model if r.is_mixture})]
        for mixture in ways:
            chosen = [r for r in of_model if (r.task == mixture if mixture else not r.is_mixture)]
            if chosen:
                found.append(_panel(suite, model, mixture, chosen, of_model))
    return found


def _panel(suite: Suite, model: str, mixture: str | None, runs: list[Run], of_model: list[Run]) -> Panel:
    # Without training a single-task and a multi-task run are the same run, so the baselines of one table
    # stand in the other rather than being computed twice.
    borrowed = [
        r for r in of_model if mixture and not r.is_mixture and r.method in ("majority", "base") and not _trained(r)
    ]
    tasks = suite.tasks(t for r in runs for t in (r.tasks if not r.finished else r.scores))
    variants = suite.variants([*runs, *(r for r in borrowed if set(r.scores) & set(tasks))])
    panel = Panel(suite, model, mixture, [], variants, {}, runs=[*runs])
    for regime in [g for g in suite.regimes if any(r.regime == g for r in runs)]:
        of_regime = [r for r in runs if r.regime == regime]
        known = {r.protocol(task) for r in of_regime for task in r.scores or r.tasks} - {""}
        for protocol in sorted(known) or [""]:
            _add_columns(panel, regime, protocol, tasks, of_regime, [r for r in borrowed if r.regime == regime])
    return panel


def _add_columns(
    panel: Panel, regime: str, protocol: str, tasks: Sequence[str], runs: Sequence[Run], borrowed: Sequence[Run]
) -> None:
    """Add the columns of one regime under one protocol."""

    def has(run: Run, task: str) -> bool:
        # what ended before it was scored, and does not say how it would have been, is missing under every protocol
        return task in (run.scores or run.tasks) and run.protocol(task) in ("", protocol)

    start = len(panel.columns)
    for task in tasks:
        of_task = [r for r in runs if has(r, task)]
        if not of_task:
            continue
        known = [r.scores[task] for r in of_task if r.finished and task in r.scores]
        metric = known[0].main_metric if known else ""
        index = len(panel.columns)
        first = known[0] if known else None
        shown = (first.n_items, protocol, first.chance, first.chance_bounds) if first else (None, protocol)
        panel.columns.append(Column(task, regime, metric, any(s.synthetic for s in known), *shown))
        for variant in panel.variants:
            mine = [r for r in of_task if r.variant == variant]
            lent = [r for r in borrowed if r.variant == variant and task in r.scores and has(r, task)]
            cell = _cell(mine or lent, task)
            panel.cells[variant, index] = replace(cell, borrowed=not mine and bool(lent))
    if len(panel.columns) - start > 1:
        _add_average(panel, regime, start)
    for index in range(start, len(panel.columns)):
        _share_spread(panel, index)
    for index in range(start, len(panel.columns)):
        _mark_best(panel, index)


def _cell(runs: Sequence[Run], task: str) -> Cell:
    done = sorted((r for r in runs if r.finished and task in r.scores), key=lambda r: r.seed)
    lost = [r for r in runs if not (r.finished and task in r.scores)]
    if not done:
        return Cell(lost=lost)
    first = done[0].scores[task]
    scores = stats.SeedScores(
        values={r.seed: r.scores[task].value for r in done},
        draws={r.seed: r.draws[task] for r in done},
        bounds=words.metric_bounds(first.main_metric),
    )
    estimate = scores.estimate()
    bounds = done[0].scores[task].chance_bounds
    return Cell(
        done,
        lost,
        scores,
        estimate,
        within_chance=_is_chance(done, task, estimate.mean),
        below_chance=bounds is not None and estimate.mean < bounds[0],
    )


def _share_spread(panel: Panel, index: int) -> None:
    """Let the variants of a column tell each other how much seeds scatter there, and estimate anew."""
    cells = {v: panel.cells[v, index] for v in panel.variants if panel.cells[v, index].scores}
    # What trains nothing scatters not at all and would make the others look steadier than they are.
    spread = stats.pooled_spread(
        [c.scores.values[s] for s in c.scores.seeds] for c in cells.values() if any(_trained(r) for r in c.runs)
    )
    for variant, cell in cells.items():
        if spread and any(_trained(r) for r in cell.runs):
            scores = replace(cell.scores, spread=spread)
            panel.cells[variant, index] = replace(cell, scores=scores, estimate=scores.estimate())


def _is_chance(runs: Sequence[Run], task: str, mean: float) -> bool:
    """Return whether a score can't be told from the constant answer's."""
    bounds = runs[0].scores[task].chance_bounds
    if bounds is not None:
        return stats.lies_within(mean, bounds)
    # Where no interval of chance is known the record compared the score's own with the constant answer.
    flags = [r.scores[task].within_chance for r in runs]
    return 2 * sum(flags) > len(flags)


def _add_average(panel: Panel, regime: str, start: int) -> None:
    indexes = range(start, len(panel.columns))
    synthetic = any(panel.columns[i].synthetic for i in indexes)
    average = len(panel.columns)
    panel.columns.append(Column(AVERAGE, regime, "", synthetic, None, panel.columns[start].protocol))
    for variant in panel.variants:
        parts = [panel.cells[variant, i] for i in indexes]
        lost = [r for p in parts for r in p.lost]
        # An average over the tasks that happened to finish would compare different tasks.
        complete = all(p.scores for p in parts)
        scores = stats.average_scores([p.scores for p in parts if p.scores]) if complete else None
        runs = [r for p in parts for r in p.runs] if scores else []
        panel.cells[variant, average] = Cell(
            runs=runs,
            lost=lost,
            scores=scores,
            estimate=scores.estimate() if scores else None,
            within_chance=bool(scores) and all(p.within_chance for p in parts),
            below_chance=bool(scores) and all(p.below_chance for p in parts),
            borrowed=any(p.borrowed for p in parts),
        )


def _mark_best(panel: Panel, index: int) -> None:
    """Mark the best cell of a column and all that can't be told from it; none where it is not above chance."""
    cells = {v: panel.cells[v, index] for v in panel.contenders if panel.cells[v, index].scores}
    if len(cells) < 2:
        return
    top = max(cells, key=lambda v: (cells[v].estimate.mean, v))
    if cells[top].within_chance or cells[top].below_chance:
        return
    for variant, cell in cells.items():
        same = variant == top or not difference(cells[top], cell).distinguishable
        if same and not (cell.within_chance or cell.below_chance):
            panel.cells[variant, index] = replace(cell, best=True)


def difference(first: Cell, second: Cell) -> stats.Difference:
    """Return the first cell minus the second, paired over seeds and items where they share them."""
    if first.scores is None or second.scores is None:
        raise ValueError("found a cell without a score, expected two to compare")
    return stats.paired_difference(first.scores, second.scores)


@dataclass(frozen=True)
class Interference:
    """Multi-task minus single-task score of one variant on one task.

    Attributes:
        single: The single-task score over the seeds that both have; over its own where they share none.
        multi: The multi-task score over the same seeds.
        difference: The second minus the first.
    """

    model: str
    mixture: str
    regime: str
    task: str
    variant: str
    single: stats.Estimate
    multi: stats.Estimate
    difference: stats.Difference


def interference(found: Iterable[Panel]) -> list[Interference]:
    """Return the interference of every trained variant that ran both ways."""
    found = list(found)
    result = []
    for multi in (p for p in found if p.mixture):
        single = next((p for p in found if p.model == multi.model and not p.mixture), None)
        if single is None:
            continue
        where = {(c.task, c.regime, c.protocol): i for i, c in enumerate(single.columns)}
        for index, column in enumerate(multi.columns):
            other = where.get((column.task, column.regime, column.protocol))
            if other is None or column.task == AVERAGE:
                continue
            for variant in multi.variants:
                a, b = multi.cells[variant, index], single.cells.get((variant, other), Cell())
                if a.scores and b.scores and not a.borrowed and any(_trained(r) for r in a.runs):
                    place = (multi.model, str(multi.mixture), column.regime, column.task, variant)
                    shared = set(a.scores.values) & set(b.scores.values)
                    mine, alone = (s.only(shared) if shared else s for s in (a.scores, b.scores))
                    result.append(Interference(*place, alone.estimate(), mine.estimate(), difference(a, b)))
    return result


def _trained(run: Run) -> bool:
    return bool((run.record.get("parameters") or {}).get("trainable")) and bool(run.record.get("training"))
