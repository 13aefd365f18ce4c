import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from moelora import stats


def test_holm_multiplies_the_smallest_by_all_and_never_reorders():
    found = stats.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan")})
    assert found["a"] == pytest.approx(0.03)
    assert found["c"] == pytest.approx(0.06)
    assert found["b"] == pytest.approx(0.06)
    assert math.isnan(found["d"])
    assert stats.holm({}) == {}


def test_an_effect_is_in_units_of_the_seeds_scatter():
    differences = [0.01, 0.03, 0.02, 0.04, 0.05]
    found = stats.standardised_effect(differences)
    d = np.mean(differences) / np.std(differences, ddof=1)
    assert found.size == pytest.approx(d * (1 - 3 / 15))
    assert found.low < found.size < found.high


def test_the_effects_interval_inverts_the_noncentral_t():
    differences = [0.01, 0.03, 0.02, 0.04, 0.05]
    found = stats.standardised_effect(differences)
    t = scipy_stats.ttest_1samp(differences, 0).statistic
    for end, tail in ((found.low, 0.975), (found.high, 0.025)):
        assert scipy_stats.nct.cdf(t, 4, end / 0.8 * math.sqrt(5)) == pytest.approx(tail, abs=1e-3)


def test_effects_of_seeds_without_scatter():
    assert stats.standardised_effect([0.02]) is None
    assert stats.standardised_effect([0.02, 0.03]) is None
    assert stats.standardised_effect([0.02] * 3).size == math.inf
    assert stats.standardised_effect([0.0] * 3).size == 0.0
    assert stats.standardised_effect([0.1 + 0.2, 0.3, 0.3]).size == math.inf
    assert stats.standardised_effect([0.3, 0.3001, 0.3]).low > 0


def test_the_interval_of_an_effect_covers():
    generator = np.random.default_rng(3)
    inside = []
    for _ in range(200):
        found = stats.standardised_effect(1.0 + generator.standard_normal(5))
        correction = 1 - 3 / 15
        inside.append(found.low <= correction * 1.0 <= found.high)
    assert 0.91 <= np.mean(inside) <= 0.99
