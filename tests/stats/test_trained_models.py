import numpy as np
import pytest
from scipy import stats as scipy_stats

from moelora import stats
from moelora.stats.trained_models import bootstrap_p


def items(correct, labels=None):
    correct = np.asarray(correct, dtype=float)
    labels = (np.arange(len(correct)) % 2).astype(float) if labels is None else labels
    return stats.Items(labels, np.where(correct == 1, labels, 1 - labels), correct)


def test_mcnemar_is_a_binomial_test_on_the_disagreements():
    assert stats.mcnemar_p(3, 12) == pytest.approx(scipy_stats.binomtest(3, 15).pvalue)
    assert stats.mcnemar_p(0, 0) == 1.0


def test_shares_of_right_answers_are_compared_by_mcnemar():
    first, second = np.ones(200), np.ones(200)
    first[:4], second[4:20] = 0, 0
    found = stats.compare_models("accuracy", items(first), items(second))
    assert (found.only_first, found.only_second, found.test) == (16, 4, "McNemar, exact")
    assert found.difference == pytest.approx(0.06)
    assert found.p == pytest.approx(scipy_stats.binomtest(4, 20).pvalue)
    assert found.low < 0.06 < found.high
    assert "two trained models" in found.scope


@pytest.mark.parametrize("metric", ["f1", "macro_f1", "matthews", "pearson", "pearson_spearman"])
def test_other_metrics_are_compared_by_a_paired_bootstrap(metric):
    generator = np.random.default_rng(0)
    good, bad = generator.random(300) < 0.9, generator.random(300) < 0.6
    found = stats.compare_models(metric, items(good), items(bad))
    assert (found.test, found.only_first) == ("paired bootstrap", None)
    assert found.low > 0
    assert found.p == pytest.approx(2 / (stats.DRAWS + 1))
    same = stats.compare_models(metric, items(good), items(good))
    assert (same.difference, same.p) == (0.0, 1.0)


def test_p_of_the_bootstrap_belongs_to_its_interval():
    draws = np.linspace(-0.24, 0.76, 1000)
    assert bootstrap_p(draws) == pytest.approx(2 * 0.24, abs=0.005)


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="same test set"):
        stats.compare_models("accuracy", items(np.ones(4)), items(np.ones(5)))
    with pytest.raises(ValueError, match="can't be computed"):
        stats.compare_models("bleu", items(np.ones(4)), items(np.ones(4)))
