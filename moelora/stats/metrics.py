"""Metrics of a test set and of all its resamples at once.

A resample is a vector of counts, one an item, so each metric here is a function of weighted sums and a
thousand resamples cost a few matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from moelora.stats.chance import is_proportion


@dataclass(frozen=True)
class Items:
    """The scored items of one run and task, in a fixed order.

    Attributes:
        labels: What is right, shape (N,), NaN where it has no number.
        predictions: What the model said, shape (N,).
        correct: 1 where the main metric counts the answer as right, NaN where it does not say.
    """

    labels: np.ndarray
    predictions: np.ndarray
    correct: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def item_metric(metric: str, items: Items) -> float | None:
    """Return the metric of the test set itself, or None where it can't be computed from items."""
    value = resampled_metric(metric, items, np.ones((1, len(items))))
    return None if value is None else float(value[0])


def resampled_metric(metric: str, items: Items, counts: np.ndarray) -> np.ndarray | None:
    """Return the metric of each resample, shape (B,), or None where items do not tell.

    Args:
        metric: Name as in the records.
        items: N scored items.
        counts: How often each item occurs in each resample, shape (B, N).

    Note:
        Spearman's ranks are taken once from the whole test set and resampled with the items. Ranking
        every resample anew changes the third digit of an interval and costs a hundred times as much.
    """
    if not len(items):
        return None
    if is_proportion(metric) and not np.isnan(items.correct).any():
        return counts @ items.correct / counts.sum(axis=1)
    function = _FUNCTIONS.get(metric)
    if function is None or np.isnan(items.labels).any() or np.isnan(items.predictions).any():
        return None
    return function(items.labels, items.predictions, counts)


def _accuracy(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts @ (labels == predictions).astype(np.float64) / counts.sum(axis=1)


def _f1_of(positive: float, labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    actual, said = labels == positive, predictions == positive
    true_positives = counts @ (actual & said).astype(np.float64)
    either = counts @ actual.astype(np.float64) + counts @ said.astype(np.float64)
    return _ratio(2 * true_positives, either)


def _f1(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _f1_of(1.0, labels, predictions, counts)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    classes = np.union1d(labels, predictions)
    return np.mean([_f1_of(c, labels, predictions, counts) for c in classes], axis=0)


def _matthews(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # The form for any number of classes, which is the usual one for two.
    classes = np.union1d(labels, predictions)
    actual = np.stack([counts @ (labels == c).astype(np.float64) for c in classes])
    said = np.stack([counts @ (predictions == c).astype(np.float64) for c in classes])
    right, total = counts @ (labels == predictions).astype(np.float64), counts.sum(axis=1)
    covariance = right * total - (actual * said).sum(axis=0)
    spread = (total**2 - (said**2).sum(axis=0)) * (total**2 - (actual**2).sum(axis=0))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


def _pearson(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # Centred before squaring, or the variance of scores near 5 loses digits.
    x, y = labels - labels.mean(), predictions - predictions.mean()
    total = counts.sum(axis=1)
    mean_x, mean_y = counts @ x / total, counts @ y / total
    covariance = counts @ (x * y) / total - mean_x * mean_y
    spread = (counts @ (x * x) / total - mean_x**2) * (counts @ (y * y) / total - mean_y**2)
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


def _spearman(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _pearson(stats.rankdata(labels), stats.rankdata(predictions), counts)


def _pearson_spearman(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return (_pearson(labels, predictions, counts) + _spearman(labels, predictions, counts)) / 2


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    # 0/0 is 0, as scikit-learn has it: a constant prediction has no F1 and no correlation.
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 1e-15)


_FUNCTIONS = {
    "accuracy": _accuracy,
    "acc": _accuracy,
    "exact_match": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "matthews_correlation": _matthews,
    "mcc": _matthews,
    "pearson": _pearson,
    "pearsonr": _pearson,
    "spearman": _spearman,
    "spearmanr": _spearman,
    "pearson_spearman": _pearson_spearman,
}
