import math

import numpy as np
import pytest

from moelora import stats


def test_with_a_known_error_it_is_the_textbook_figure():
    # (1.96 + 0.84) standard errors
    assert stats.detectable_difference(0.01, math.inf) == pytest.approx(0.02802, abs=1e-4)


def test_it_agrees_with_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power")
    known = power.TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8)
    assert stats.detectable_difference(1 / math.sqrt(5), 4) == pytest.approx(known, rel=1e-3)


def test_a_test_finds_what_it_is_said_to_find():
    error = stats.error_of_difference(408, 5, 0.015, 0.15)
    effect = stats.detectable_difference(error, 4)
    draws = effect + error * math.sqrt(5) * np.random.default_rng(0).standard_normal((4000, 5))
    t = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(5)
    assert np.mean(np.abs(t) > 2.776) == pytest.approx(0.8, abs=0.025)
    assert stats.power_of(effect, error, 4) == pytest.approx(0.8, abs=1e-4)


def test_more_comparisons_fewer_seeds_and_fewer_items_hide_more():
    def smallest(n_items=408, n_seeds=5, **options):
        return stats.detectable_difference(
            stats.error_of_difference(n_items, n_seeds, 0.015, 0.15), n_seeds - 1, **options
        )

    assert smallest() < smallest(comparisons=10)
    assert smallest() < smallest(n_seeds=3)
    assert smallest() < smallest(n_items=100)
    assert smallest() < smallest(power=0.95)


def test_edges():
    assert stats.detectable_difference(0.0, 4) == 0.0
    assert stats.power_of(0.01, 0.0, 4) == 1.0
    assert stats.power_of(0.0, 0.01, 4) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="power"):
        stats.detectable_difference(0.01, 4, power=0.01)
    with pytest.raises(ValueError, match="0 items"):
        stats.error_of_difference(0, 3, 0.01, 0.1)
