"""Scores against learning rates: what was tried, what diverged, and how wide the good region is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from moelora.files import canonical_json
from moelora.reporting import words
from moelora.reporting.runs import Run, Suite
from moelora.reporting.table import Entry, Row, Table, number, plain

TOLERANCE = 0.01
"""How far below the best a score may lie and still be good: one point."""

VALIDATION, EVALUATION = "part of train", "evaluation split"
"""What scores are of: trials are scored on a validation part cut from train, runs on the official split."""

DEFINITION = (
    f"Good region: the learning rates around the best one whose mean score, drawn straight over the logarithm of the "
    f"rate between the rates tried, stays within {words.points(TOLERANCE)} point of the best. It ends before a rate at "
    "which any run diverged or was lost, at the last rate that was not. Width in decades (powers of ten); ≥ where the "
    "region reaches the smallest or the largest rate tried, so that it may be wider."
)


@dataclass(frozen=True)
class Point:
    """What was scored at one rate.

    Attributes:
        rate: The learning rate.
        scores: Main metric, mean over tasks, of each run that finished.
        diverged: Runs that diverged.
        lost: Runs that ended in another way without a score.
    """

    rate: float
    scores: tuple[float, ...]
    diverged: int = 0
    lost: int = 0

    @property
    def tried(self) -> int:
        """All runs."""
        return len(self.scores) + self.diverged + self.lost

    @property
    def mean(self) -> float | None:
        """The mean score; None where a run diverged or was lost, for then the rate is none that one could use."""
        return sum(self.scores) / len(self.scores) if self.scores and not (self.diverged or self.lost) else None


@dataclass(frozen=True)
class Region:
    """The rates around the best whose score is as good as the best.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        open_low: Whether it reaches the smallest rate tried.
        open_high: Whether it reaches the largest.
    """

    low: float
    high: float
    open_low: bool
    open_high: bool

    @property
    def decades(self) -> float:
        """Its width in powers of ten."""
        return log10(self.high / self.low)


@dataclass(frozen=True)
class Curve:
    """One variant on one task at several rates.

    Attributes:
        model: The model.
        task: The task or mixture that was trained on.
        variant: The variant.
        regime: The regime whose tuning it is; empty where regimes are the rates.
        split: What was scored, `VALIDATION` or `EVALUATION`.
        points: By rising rate.
    """

    model: str
    task: str
    variant: str
    regime: str
    split: str
    points: tuple[Point, ...]

    @property
    def best(self) -> Point | None:
        """The point of the best mean, the smallest rate of equals; None where every rate lost a run."""
        usable = [p for p in self.points if p.mean is not None]
        return max(usable, key=lambda p: (p.mean, -p.rate)) if usable else None


def good_region(points: Sequence[Point], tolerance: float = TOLERANCE) -> Region | None:
    """Return the region around the best point; None where every rate lost a run.

    Args:
        points: By rising rate.
        tolerance: How far below the best is still good.
    """
    usable = [i for i, p in enumerate(points) if p.mean is not None]
    if not usable:
        return None
    best = max(usable, key=lambda i: (points[i].mean, -points[i].rate))
    floor = points[best].mean - tolerance
    high, open_high = _walk(points, best, floor, 1)
    low, open_low = _walk(points, best, floor, -1)
    return Region(low, high, open_low, open_high)


def _walk(points: Sequence[Point], start: int, floor: float, step: int) -> tuple[float, bool]:
    """Return how far the score stays above a floor in one direction, and whether that is as far as was tried."""
    here = start
    while 0 <= here + step < len(points):
        now, following = points[here], points[here + step]
        if following.mean is None:
            return now.rate, False
        if following.mean < floor:
            part = (now.mean - floor) / (now.mean - following.mean)
            return now.rate * (following.rate / now.rate) ** part, False
        here += step
    return points[here].rate, True


def curves(suite: Suite) -> list[Curve]:
    """Return every variant that was trained at two rates or more, from the trials of tuning and from the runs.

    Runs are compared that differ in nothing of their training but the rate (and the seed).
    """
    trials: dict[tuple[str, str, str, str], list[Point]] = {}
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in suite.runs:
        tuning = run.record.get("tuning")
        if tuning:  # the seeds of a variant share one
            trials.setdefault((run.model, run.task, run.variant, run.regime), _of_trials(tuning["trials"]))
        elif (training := run.record["plan"].get("training") or {}).get("learning_rate") and _trains(run):
            rest = canonical_json({key: value for key, value in training.items() if key != "learning_rate"})
            groups.setdefault((run.model, run.task, run.variant, rest), []).append(run)
    found = [Curve(*key, VALIDATION, tuple(points)) for key, points in trials.items()]
    for (model, task, variant, _), runs in groups.items():
        found.append(Curve(model, task, variant, "", EVALUATION, tuple(_of_runs(runs))))
    place = {variant: i for i, variant in enumerate(suite.variants(suite.runs))}
    tasks = {task: i for i, task in enumerate(suite.tasks(c.task for c in found))}
    several = [c for c in found if len(c.points) > 1]
    return sorted(
        several,
        key=lambda c: (suite.models.index(c.model), c.split, c.regime, tasks[c.task], place[c.variant]),
    )


def rates_table(suite: Suite, found: Sequence[Curve]) -> Table:
    """Return a row a curve: its best rate, what diverged, and how wide the good region is."""
    body = []
    for curve in found:
        best, region = curve.best, good_region(curve.points)
        if region is None:
            width, span = "–", "every rate lost a run"
        else:
            width = f"{'≥ ' if region.open_low or region.open_high else ''}{region.decades:.2f}"
            low = f"{'≤ ' if region.open_low else ''}{rate_text(region.low)}"
            span = f"{low} to {'≥ ' if region.open_high else ''}{rate_text(region.high)}"
        tried, diverged = sum(p.tried for p in curve.points), sum(p.diverged for p in curve.points)
        lost = sum(p.lost for p in curve.points)
        body.append(
            Row(
                [
                    Entry(suite.label(curve.variant)),
                    Entry(curve.model),
                    Entry(_task(suite, curve.task)),
                    Entry(curve.split, words.regime_label(curve.regime) if curve.regime else ""),
                    number(str(len(curve.points))),
                    number(str(tried)),
                    Entry(str(diverged), f"{lost} lost" if lost else "", frozenset({"number"})),
                    number(rate_text(best.rate) if best else "–"),
                    number(words.points(best.mean) if best else "–"),
                    number(span),
                    number(width),
                ],
                "matched" if suite.control(curve.variant) else "",
            )
        )
    columns = ["Variant", "Model", "Trained on", "Scored on", "Rates", "Runs", "Diverged", "Best rate", "Best score"]
    return plain("rates", "Learning rates", [*columns, "Good region", "Width (decades)"], body, DEFINITION)


def rate_text(rate: float) -> str:
    """Return a rate as a person says it: 3e-4, 1.7e-3."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _task(suite: Suite, task: str) -> str:
    title = suite.task_title(task)
    return f"mixture “{task}”" if title == task and any(r.task == task and r.is_mixture for r in suite.runs) else title


def _trains(run: Run) -> bool:
    counts = run.record.get("parameters")  # a run that was lost before it began has none
    return not run.finished if counts is None else bool(counts["trainable"])


def _of_trials(trials: Sequence[dict]) -> list[Point]:
    by_rate: dict[float, list[dict]] = {}
    for trial in trials:
        by_rate.setdefault(trial["learning_rate"], []).append(trial)
    return [_point(rate, [(t["status"], t["score"]) for t in by_rate[rate]]) for rate in sorted(by_rate)]


def _of_runs(runs: Sequence[Run]) -> list[Point]:
    by_rate: dict[float, list[Run]] = {}
    for run in runs:
        by_rate.setdefault(run.record["plan"]["training"]["learning_rate"], []).append(run)
    points = []
    for rate in sorted(by_rate):
        ended = []
        for run in by_rate[rate]:
            values = [score.value for _, score in sorted(run.scores.items())]
            ended.append((run.status, sum(values) / len(values) if run.finished else None))
        points.append(_point(rate, ended))
    return points


def _point(rate: float, ended: Sequence[tuple[str, float | None]]) -> Point:
    scores = tuple(score for _, score in ended if score is not None)
    diverged = sum(status == "diverged" for status, _ in ended)
    return Point(rate, scores, diverged, len(ended) - len(scores) - diverged)
