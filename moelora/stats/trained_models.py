"""Tests over the items of one seed. They speak of two trained models, never of two methods.

Another seed would give two other models. Pooling the items of several seeds does not help: the items of one seed share
its luck, so a pooled McNemar test finds differences between a method and itself in 15 to 34 % of all tries
(`docs/statistics.md`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from moelora.stats.bootstrap import DRAWS, resampling_counts
from moelora.stats.chance import is_proportion
from moelora.stats.metrics import Items, item_metric, resampled_metric

TRAINED_MODELS = "these two trained models, on other items of this kind"
"""What these tests speak of."""


@dataclass(frozen=True)
class ModelComparison:
    """The first trained model minus the second.

    Attributes:
        difference: Difference of the metric on the test set.
        low: Lower end of the paired bootstrap's interval.
        high: Upper end.
        p: Two-sided p.
        only_first: Items that the first alone answers rightly; None where the metric counts no right answers.
        only_second: Items that the second alone answers rightly; None likewise.
        test: `McNemar, exact` or `paired bootstrap`.
        scope: What the test speaks of.
    """

    difference: float
    low: float
    high: float
    p: float
    only_first: int | None
    only_second: int | None
    test: str
    scope: str = TRAINED_MODELS


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test from the two counts of disagreement."""
    from statsmodels.stats.contingency_tables import mcnemar  # a second to load, and few verbs need it

    if only_first + only_second == 0:
        return 1.0
    return float(min(1.0, mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue))


def compare_models(metric: str, first: Items, second: Items, key: str = "", level: float = 0.95) -> ModelComparison:
    """Compare two trained models item by item: McNemar for shares of right answers, else a paired bootstrap.

    Args:
        metric: Name as in the records.
        first: Items of the first model.
        second: Items of the second, in the same order.
        key: Names the test set, so that two of one size are resampled independently.
        level: Coverage of the interval.

    Raises:
        ValueError: The items are not the same, or the metric can't be computed from them.
    """
    same = len(first) == len(second) and np.array_equal(first.labels, second.labels, equal_nan=True)
    if not same:
        raise ValueError(
            f"found {len(first)} and {len(second)} items or other labels, expected the same test set in the same order"
        )
    counts = resampling_counts(len(first), DRAWS, zlib.crc32(key.encode()))
    drawn = [resampled_metric(metric, items, counts) for items in (first, second)]
    points = [item_metric(metric, items) for items in (first, second)]
    if drawn[0] is None or drawn[1] is None or points[0] is None or points[1] is None:
        raise ValueError(
            f"the metric {metric!r} can't be computed from these items, expected one of the records' metrics"
        )
    draws = drawn[0] - drawn[1]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    difference = float(points[0] - points[1])
    right = [_right_answers(metric, items) for items in (first, second)]
    if right[0] is not None and right[1] is not None:
        only_first = int((right[0] & ~right[1]).sum())
        only_second = int((right[1] & ~right[0]).sum())
        p = mcnemar_p(only_first, only_second)
        return ModelComparison(difference, float(low), float(high), p, only_first, only_second, "McNemar, exact")
    return ModelComparison(difference, float(low), float(high), bootstrap_p(draws), None, None, "paired bootstrap")


def bootstrap_p(draws: np.ndarray) -> float:
    """Return the two-sided p whose interval just leaves out zero; never below 2/(B + 1).

    Half of the draws that are exactly zero count on either side: with few items many are.
    """
    ties = 0.5 * np.count_nonzero(draws == 0.0)
    tail = min(np.count_nonzero(draws < 0.0), np.count_nonzero(draws > 0.0)) + ties
    return float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def _right_answers(metric: str, items: Items) -> np.ndarray | None:
    if not is_proportion(metric):
        return None
    if not np.isnan(items.correct).any():
        return items.correct == 1.0
    return items.labels == items.predictions
