import numpy as np
import pytest

from moelora import stats


def simulate(generator, variants, seeds, n_items, seed_deviation, truth=0.8):
    """Return, for each variant, the score of each seed and its item draws; the truth is `truth`."""
    counts = stats.resampling_counts(n_items)
    found = []
    for _ in range(variants):
        rates = np.clip(truth + seed_deviation * generator.standard_normal(seeds), 0, 1)
        correct = (generator.random((seeds, n_items)) < rates[:, None]).astype(float)
        found.append((correct.mean(axis=1), correct @ counts.T / n_items))
    return found


def test_every_resample_has_as_many_items_as_the_test_set():
    counts = stats.resampling_counts(37)
    assert counts.shape == (stats.DRAWS, 37)
    assert (counts.sum(axis=1) == 37).all()


def test_resamples_are_the_same_each_time_and_differ_by_size():
    first = stats.resampling_counts(50).copy()
    stats.resampling_counts.cache_clear()
    assert (stats.resampling_counts(50) == first).all()


def test_two_test_sets_of_one_size_are_resampled_independently():
    assert (stats.resampling_counts(50, stream=1) != stats.resampling_counts(50, stream=2)).any()


def test_an_empty_test_set_is_refused():
    with pytest.raises(ValueError, match="0 items"):
        stats.resampling_counts(0)


def test_one_seed_has_the_interval_of_its_items():
    # 400 items at 0.8: the standard error is sqrt(0.8 * 0.2 / 400) = 0.02.
    correct = np.repeat([1.0, 0.0], [320, 80])
    draws = stats.resampling_counts(400) @ correct / 400
    found = stats.estimate(np.array([0.8]), draws[None, :])
    assert found.mean == 0.8
    assert found.low == pytest.approx(0.8 - 1.96 * 0.02, abs=0.005)
    assert found.high == pytest.approx(0.8 + 1.96 * 0.02, abs=0.005)


def test_without_item_noise_the_interval_is_that_of_the_t_test():
    values = np.array([0.80, 0.82, 0.87])
    found = stats.estimate(values, np.repeat(values[:, None], stats.DRAWS, axis=1))
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert found.low == pytest.approx(values.mean() - half, rel=0.01)
    assert found.high == pytest.approx(values.mean() + half, rel=0.01)


def test_an_interval_stays_within_the_range_of_its_metric():
    values = np.array([0.99, 0.80])
    found = stats.estimate(values, np.repeat(values[:, None], stats.DRAWS, axis=1), bounds=(0.0, 1.0))
    assert (found.low, found.high) == (0.0, 1.0)


def test_pooled_spread_is_the_variance_within_variants():
    spread = stats.pooled_spread([[1.0, 3.0], [10.0, 10.0], [5.0]])
    assert spread.variance == pytest.approx(1.0)  # squares 2 and 0, one degree of freedom each
    assert spread.degrees == 2
    assert stats.pooled_spread([[5.0], [6.0]]) is None


def test_other_variants_can_say_only_so_much():
    assert stats.pooled_spread([[0.0, 1.0]] * 30).degrees == 4


def test_what_others_say_can_be_told_without_some():
    spread = stats.pooled_spread([[1.0, 3.0], [10.0, 16.0], [5.0, 5.0, 5.0]])
    left = spread.without([[10.0, 16.0]])
    assert (left.variance, left.degrees) == (pytest.approx(2.0 / 3), 3)
    assert left.without([[1.0, 3.0], [5.0, 5.0, 5.0]]) is None
    elsewhere = stats.SeedSpread(2.0, 4.0)
    assert elsewhere.without([[1.0, 3.0]]) is elsewhere


def test_draws_from_an_interval_have_its_width():
    draws = stats.normal_draws(0.70, 0.80, key=3)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([-0.05, 0.05], abs=0.001)
    assert (draws != stats.normal_draws(0.70, 0.80, key=4)).any()


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("deviation", [0.015, 0.03])
def test_coverage_is_what_the_interval_promises(seeds, deviation):
    generator = np.random.default_rng(seeds)
    inside = []
    for _ in range(60):
        table = simulate(generator, 5, seeds, 408, deviation)
        prior = stats.pooled_spread([values for values, _ in table])
        for values, draws in table:
            found = stats.estimate(values, draws, bounds=(0.0, 1.0), prior=prior)
            inside.append(found.low <= 0.8 <= found.high)
    assert 0.92 <= np.mean(inside) <= 1.0


def test_resampling_three_seeds_would_not_cover():
    # Why seeds are not simply resampled: the naive hierarchical bootstrap promises 95 % and gives far less.
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        values = 0.8 + 0.03 * generator.standard_normal(3)
        means = values[generator.integers(0, 3, size=(500, 3))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        inside.append(low <= 0.8 <= high)
    assert np.mean(inside) < 0.85
