import pytest
from scipy import stats as scipy_stats

from moelora import stats


def test_the_majority_rate_of_mrpc_reaches_this_far():
    # 279 of 408 validation pairs are paraphrases.
    low, high = stats.chance_interval(279 / 408, 408)
    assert (low, high) == pytest.approx((0.6373, 0.7279), abs=0.003)


def test_the_interval_holds_the_promised_share_of_guesses():
    low, high = stats.chance_interval(0.25, 100)
    inside = scipy_stats.binom.cdf(round(high * 100), 100, 0.25) - scipy_stats.binom.cdf(
        round(low * 100) - 1, 100, 0.25
    )
    assert inside >= 0.95


@pytest.mark.parametrize(("score", "expected"), [(0.6217, True), (0.64, False), (0.60, False)])
def test_boolq_at_its_majority_rate_is_within_chance(score, expected):
    assert stats.within_chance(score, 2033 / 3270, 3270) is expected


@pytest.mark.parametrize(("rate", "n_items"), [(1.2, 10), (-0.1, 10), (0.5, 0)])
def test_impossible_rates_are_refused(rate, n_items):
    with pytest.raises(ValueError, match="expected a rate"):
        stats.chance_interval(rate, n_items)


def test_only_metrics_that_count_answers_have_a_binomial():
    assert stats.is_proportion("accuracy")
    assert not stats.is_proportion("f1")
    assert not stats.is_proportion("matthews")
