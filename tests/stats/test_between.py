import numpy as np
import pytest
from scipy import stats as scipy_stats

from moelora import stats
from moelora.stats.between import item_variance


def seeds(values, deviation=0.0, spread=None, key=0):
    """Return scores whose item draws scatter alike for all seeds (one set of items)."""
    common = deviation * np.random.default_rng(key).standard_normal(stats.DRAWS)
    return stats.SeedScores(dict(enumerate(values)), {s: v + common for s, v in enumerate(values)}, spread=spread)


A, B = [0.83, 0.86, 0.84, 0.88], [0.80, 0.82, 0.83, 0.83]


def test_over_seeds_it_is_scipys_paired_t_test():
    found = stats.seed_test(seeds(A), seeds(B))
    known = scipy_stats.ttest_rel(A, B)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.n_seeds, found.degrees) == (4, 3)
    assert "on these items" in found.scope


def test_interval_and_p_agree():
    for level in (0.5, 0.9, 0.99):
        found = stats.crossed_test(seeds(A, 0.01), seeds(B, 0.01, key=1), level)
        assert (found.low > 0) == (found.p < 1 - level)


def test_items_make_the_crossed_test_more_careful():
    over_seeds = stats.seed_test(seeds(A), seeds(B))
    crossed = stats.crossed_test(seeds(A, 0.02), seeds(B, 0.02, key=1))
    assert crossed.p > over_seeds.p
    assert crossed.difference == over_seeds.difference
    assert "other items" in crossed.scope


def test_what_the_items_contribute_is_counted_once():
    # d_si = item_i + rest_si, 400 items, deviations 0.3 and 0.4: the variance of the mean that is not in the seeds'
    # scatter is that of the items alone, 0.09 / 400.
    generator = np.random.default_rng(0)
    found = []
    for _ in range(30):
        answers = 0.3 * generator.standard_normal(400) + 0.4 * generator.standard_normal((3, 400))
        found.append(item_variance(answers @ stats.resampling_counts(400).T / 400))
    assert np.mean(found) == pytest.approx(0.09 / 400, rel=0.1)


def test_other_variants_make_few_seeds_surer():
    spread = stats.SeedSpread(1e-4, 4.0)
    plain = stats.crossed_test(seeds(A[:2], spread=spread), seeds(B[:2], spread=spread), moderated=False)
    moderated = stats.crossed_test(seeds(A[:2], spread=spread), seeds(B[:2], spread=spread))
    assert (plain.degrees, moderated.degrees) == (1, 5)
    assert moderated.high - moderated.low < plain.high - plain.low


def test_the_two_compared_do_not_speak_twice():
    # A table of just these two knows nothing beyond their difference.
    spread = stats.pooled_spread([A, B])
    plain, moderated = (
        stats.crossed_test(seeds(A, spread=spread), seeds(B, spread=spread), moderated=m) for m in (False, True)
    )
    assert moderated == plain
    third = [0.90, 0.70, 0.80, 0.85]
    spread = stats.pooled_spread([A, B, third])
    moderated = stats.crossed_test(seeds(A, spread=spread), seeds(B, spread=spread))
    assert moderated.degrees == 3 + 3
    assert moderated.error > plain.error  # the third scatters more than they do


def test_a_quiet_rest_of_the_table_makes_nobody_look_steady():
    restless = ([0.86, 0.78, 0.83], [0.80, 0.84, 0.79])
    own = sum(np.var(v, ddof=1) for v in restless)
    quiet = stats.pooled_spread([*restless, [0.8, 0.8, 0.8]])
    found = stats.crossed_test(seeds(restless[0], spread=quiet), seeds(restless[1], spread=quiet))
    paired = np.var(np.subtract(*restless), ddof=1)
    assert found.error == pytest.approx(np.sqrt((2 * paired + 2 * own) / 4 / 3))


def test_one_seed_says_nothing_of_methods():
    found = stats.seed_test(seeds(A[:1]), seeds(B[:1]))
    assert np.isnan([found.p, found.low, found.high]).all()
    assert found.difference == pytest.approx(0.03)


def test_no_shared_seed_is_refused():
    with pytest.raises(ValueError, match="in common"):
        stats.seed_test(seeds(A), stats.SeedScores({9: 0.5}, {9: np.zeros(stats.DRAWS)}))


def test_equal_seeds_do_not_differ():
    assert stats.seed_test(seeds(A), seeds(A)).p == 1.0


def test_flipping_signs_has_a_floor():
    assert stats.sign_flip_p([0.03, 0.05, 0.02]) == pytest.approx(0.25) == stats.smallest_p(3)
    assert stats.sign_flip_p([0.01] * 6) == pytest.approx(stats.smallest_p(6))
    assert stats.sign_flip_p([0.01, -0.01]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no difference"):
        stats.sign_flip_p([])


def test_few_seeds_are_told_what_they_can_show():
    assert "two trained models" in stats.few_seeds_note(1)
    assert "p = 0.25" in stats.few_seeds_note(3)
    assert "2.2 times" in stats.few_seeds_note(3)
    assert "sign-flip" not in stats.few_seeds_note(10)
