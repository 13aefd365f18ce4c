"""Metrics by name, from scikit-learn and scipy, and the interval over items.

GLUE's official F1 is binary (the second label is the positive one); macro F1 is another number and has its own name.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy
from scipy import stats
from sklearn import metrics as sk

from moelora.errors import ConfigError, nearest
from moelora.seeds import derive_seed
from moelora.tasks.protocols import POSED, metric_of


def _correlation(function: Callable) -> Callable:
    def score(labels, predictions) -> float:
        if numpy.ptp(predictions) == 0 or numpy.ptp(labels) == 0:
            return 0.0  # a constant has no correlation; zero is what GLUE's scorers end up with after NaN handling
        return float(function(labels, predictions)[0])

    return score


def _accuracy(labels, predictions) -> float:
    return float(numpy.mean(numpy.asarray(labels) == numpy.asarray(predictions)))


METRICS: dict[str, Callable] = {
    "accuracy": _accuracy,
    "acc": _accuracy,  # lm-eval's name: highest log-likelihood
    "acc_norm": _accuracy,  # the same with log-likelihoods divided by length
    "f1": lambda labels, predictions: float(sk.f1_score(labels, predictions, zero_division=0)),
    "macro_f1": lambda labels, predictions: float(sk.f1_score(labels, predictions, average="macro", zero_division=0)),
    "matthews": lambda labels, predictions: float(sk.matthews_corrcoef(labels, predictions)),
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
    **{metric_of(protocol): _accuracy for protocol in POSED},
}
CHANCE_ZERO = ("matthews", "pearson", "spearman")


def score(name: str, labels: Sequence, predictions: Sequence) -> float:
    """Return one metric as a fraction.

    Raises:
        ConfigError: there is no metric of this name.
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric '{name}'{nearest(name, set(METRICS))}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # single-class resamples: the value is defined above
        return METRICS[name](numpy.asarray(labels), numpy.asarray(predictions))


def item_interval(
    name: str, labels: Sequence, predictions: Sequence, *, purpose: str, level: float = 0.95
) -> list[float]:
    """Return a percentile bootstrap interval over items: what another draw of items could have given this model.

    Args:
        name: the metric.
        labels: (N,) gold values.
        predictions: (N,) predicted values.
        purpose: names the draw, so that it repeats.
        level: coverage.
    """
    labels, predictions = numpy.asarray(labels), numpy.asarray(predictions)
    generator = numpy.random.default_rng(derive_seed("item bootstrap", purpose, name))
    if METRICS.get(name) is _accuracy:
        hits = (labels == predictions).mean()
        draws = generator.binomial(len(labels), hits, size=2000) / len(labels)  # resampling 0/1 items is this draw
    else:
        chosen = generator.integers(0, len(labels), size=(300, len(labels)))
        draws = numpy.array([score(name, labels[rows], predictions[rows]) for rows in chosen])
    low, high = numpy.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
