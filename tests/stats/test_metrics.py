import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from moelora import stats


def binary(seed=0, n_items=60):
    generator = np.random.default_rng(seed)
    labels = (generator.random(n_items) < 0.6).astype(float)
    predictions = np.where(generator.random(n_items) < 0.75, labels, 1 - labels)
    return stats.Items(labels, predictions, (labels == predictions).astype(float))


def graded(seed=0, n_items=60):
    generator = np.random.default_rng(seed)
    labels = generator.random(n_items) * 5
    predictions = labels + generator.standard_normal(n_items)
    return stats.Items(labels, predictions, np.full(n_items, np.nan))


REFERENCES = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": sklearn_metrics.f1_score,
    "macro_f1": lambda y, p: sklearn_metrics.f1_score(y, p, average="macro"),
    "matthews": sklearn_metrics.matthews_corrcoef,
}
GRADED = {
    "pearson": lambda y, p: scipy_stats.pearsonr(y, p)[0],
    "spearman": lambda y, p: scipy_stats.spearmanr(y, p)[0],
}


@pytest.mark.parametrize("metric", sorted(REFERENCES))
def test_metrics_agree_with_scikit_learn_on_the_set_and_on_resamples(metric):
    items = binary()
    assert stats.item_metric(metric, items) == pytest.approx(REFERENCES[metric](items.labels, items.predictions))
    counts = stats.resampling_counts(len(items))
    found = stats.resampled_metric(metric, items, counts)
    for b in range(3):
        picked = np.repeat(np.arange(len(items)), counts[b].astype(int))
        expected = REFERENCES[metric](items.labels[picked], items.predictions[picked])
        assert found[b] == pytest.approx(expected)


@pytest.mark.parametrize("metric", sorted(GRADED))
def test_correlations_agree_with_scipy(metric):
    items = graded()
    assert stats.item_metric(metric, items) == pytest.approx(GRADED[metric](items.labels, items.predictions))


def test_matthews_of_three_classes_agrees_with_scikit_learn():
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 80).astype(float)
    predictions = np.where(generator.random(80) < 0.6, labels, generator.integers(0, 3, 80))
    items = stats.Items(labels, predictions, (labels == predictions).astype(float))
    expected = sklearn_metrics.matthews_corrcoef(labels, predictions)
    assert stats.item_metric("matthews", items) == pytest.approx(expected)


def test_a_constant_prediction_has_no_correlation_and_no_error():
    labels = np.array([0.0, 1.0, 1.0])
    items = stats.Items(labels, np.zeros(3), (labels == 0).astype(float))
    assert stats.item_metric("matthews", items) == 0.0
    assert stats.item_metric("pearson", items) == 0.0
    assert stats.item_metric("f1", items) == 0.0


def test_what_the_main_metric_calls_right_decides_on_multiple_choice():
    items = stats.Items(np.full(4, np.nan), np.full(4, np.nan), np.array([1.0, 0.0, 1.0, 1.0]))
    assert stats.item_metric("acc_norm", items) == 0.75


def test_an_unknown_metric_or_missing_numbers_are_not_guessed():
    assert stats.item_metric("perplexity", binary()) is None
    nothing = stats.Items(np.full(4, np.nan), np.full(4, np.nan), np.full(4, np.nan))
    assert stats.item_metric("accuracy", nothing) is None
    assert stats.item_metric("f1", nothing) is None
