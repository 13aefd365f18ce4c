"""Two methods across tasks: average ranks, and the probability that one beats the other by more than nothing.

Neither makes a few tasks into a sample of all tasks; with fewer than ten, say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from moelora.stats.bootstrap import DRAWS

FEW_TASKS = 10
"""Below this many tasks average ranks and the Friedman test say little."""

_SEED = 20240608


@dataclass(frozen=True)
class Ranks:
    """Average ranks of variants over tasks.

    Attributes:
        average: Average rank by variant; 1 is best.
        p: Friedman's p that all rank alike; NaN with fewer than three variants or two tasks.
        n_tasks: Tasks that every variant has a score on.
        warning: What a reader must know; empty with enough tasks.
    """

    average: dict[str, float]
    p: float
    n_tasks: int
    warning: str


def average_ranks(scores: Mapping[str, Mapping[str, float]]) -> Ranks:
    """Return average ranks over the tasks that every variant has; ties share a rank.

    Args:
        scores: Mean score by variant and task; higher is better.

    Raises:
        ValueError: There is no variant, or no task that all share.
    """
    shared = sorted(set.intersection(*(set(by_task) for by_task in scores.values()))) if scores else []
    if not shared:
        raise ValueError(
            f"found {len(scores)} variants without a common task, expected at least one task scored by all"
        )
    table = np.array([[by_task[task] for task in shared] for by_task in scores.values()])
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    p = float("nan")
    if len(table) >= 3 and len(shared) >= 2 and np.ptp(table, axis=0).any():
        p = float(stats.friedmanchisquare(*table).pvalue)
    warning = ""
    if len(shared) < FEW_TASKS:
        warning = (
            f"{len(shared)} of at least {FEW_TASKS} tasks: average ranks over so few hardly order methods, "
            "and say nothing of other tasks."
        )
    return Ranks(dict(zip(scores, map(float, ranks), strict=True)), p, len(shared), warning)


@dataclass(frozen=True)
class Verdict:
    """Probabilities that the first method is better, practically equal or worse.

    Attributes:
        better: Probability that it leads by more than the region of practical equivalence.
        equal: Probability that the two lie within it.
        worse: Probability that it trails by more.
        n_tasks: Tasks behind it.
    """

    better: float
    equal: float
    worse: float
    n_tasks: int


def practical_verdict(draws: Sequence[np.ndarray], region: float = 0.01, *, other_tasks: bool = False) -> Verdict:
    """Return how likely the first method leads by more than `region` on average over tasks.

    Every draw takes one plausible difference a task (seeds and items as uncertain as they are) and averages them. For
    other tasks like these the average is taken with Dirichlet weights, the Bayesian bootstrap over tasks.

    Args:
        draws: For each task B draws of the difference, as the intervals are made from, shape (B,) each.
        region: Half the region of practical equivalence, on the scale of the metric: 0.01 is one point.
        other_tasks: Whether to speak of other tasks like these instead of these.

    Source:
        Benavoli, Corani, Demšar and Zaffalon, Time for a change (2017), for the region of practical equivalence; Rubin,
        The Bayesian bootstrap (1981), for the weights.

    Raises:
        ValueError: There is no task, or a negative region.
    """
    if not len(draws) or region < 0:
        raise ValueError(
            f"found {len(draws)} tasks and a region of {region}, expected at least one task and region ≥ 0"
        )
    table = np.stack([np.asarray(d, dtype=np.float64) for d in draws])
    generator = np.random.Generator(np.random.PCG64([_SEED, len(table)]))
    # The draws of different tasks come from shuffles of the same quantiles: each task gets an order of its own.
    table = np.stack([row[generator.permutation(len(row))] for row in table])
    if other_tasks:
        weights = generator.dirichlet(np.ones(len(table)), size=table.shape[1]).T
        averages = (weights * table).sum(axis=0)
    else:
        averages = table.mean(axis=0)
    better, worse = float((averages > region).mean()), float((averages < -region).mean())
    return Verdict(better, 1.0 - better - worse, worse, len(table))


def difference_draws(difference: float, error: float, degrees: float, draws: int = DRAWS) -> np.ndarray:
    """Return B draws of a difference of two methods as its test sees it: t around the mean, shape (B,).

    Args:
        difference: The mean difference.
        error: Its standard error.
        degrees: Degrees of freedom of the error.
        draws: B.
    """
    return difference + error * stats.t.ppf((np.arange(draws) + 0.5) / draws, degrees)
