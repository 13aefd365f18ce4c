import numpy as np
import pytest

from moelora import stats


def scores(correct_by_seed, spread=None):
    """Return the accuracy of each seed with its item draws."""
    values, draws = {}, {}
    for seed, correct in correct_by_seed.items():
        correct = np.asarray(correct, dtype=float)
        values[seed] = float(correct.mean())
        draws[seed] = stats.resampling_counts(len(correct)) @ correct / len(correct)
    return stats.SeedScores(values, draws, spread=spread)


def test_a_variant_does_not_differ_from_itself():
    generator = np.random.default_rng(0)
    one = scores({s: generator.random(100) < 0.7 for s in range(3)})
    found = stats.paired_difference(one, one)
    assert (found.mean, found.low, found.high, found.n_seeds) == (0.0, 0.0, 0.0, 3)
    assert not found.distinguishable


def test_pairing_over_items_sees_what_unpaired_scores_hide():
    # The second is right wherever the first is and on 8 of 200 items more: 4 points, while each alone
    # has an interval of six points to either side.
    first = np.repeat([1.0, 0.0], [140, 60])
    second = first.copy()
    second[140:148] = 1.0
    found = stats.paired_difference(scores({0: second}), scores({0: first}))
    assert found.mean == pytest.approx(0.04)
    assert found.distinguishable
    assert found.n_seeds == 1


def test_only_shared_seeds_are_compared():
    a = scores({0: np.ones(50), 1: np.ones(50)})
    b = scores({1: np.ones(50), 2: np.zeros(50)})
    assert stats.paired_difference(a, b).n_seeds == 1
    assert stats.paired_difference(a, b).mean == 0.0


def test_without_a_shared_seed_the_comparison_is_unpaired():
    a, b = scores({0: np.ones(50)}), scores({1: np.zeros(50)})
    found = stats.paired_difference(a, b)
    assert (found.n_seeds, found.mean) == (0, 1.0)


def test_an_average_over_tasks_pairs_the_seeds():
    easy, hard = scores({0: np.ones(50), 1: np.ones(50)}), scores({1: np.zeros(50)})
    found = stats.average_scores([easy, hard])
    assert found.values == {1: 0.5}
    assert stats.average_scores([scores({0: np.ones(9)}), scores({1: np.ones(9)})]) is None
    assert stats.average_scores([]) is None


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_methods_are_rarely_told_apart(seeds):
    # Two methods of equal mean whose seeds scatter by three points: 408 items, as MRPC has.
    generator = np.random.default_rng(seeds)
    alarms = []
    for _ in range(150):
        rates = 0.8 + 0.03 * generator.standard_normal((4, seeds))
        correct = (generator.random((4, seeds, 408)) < rates[:, :, None]).astype(float)
        prior = stats.pooled_spread(correct.mean(axis=2))
        table = [scores(dict(enumerate(c)), prior) for c in correct]
        alarms += [stats.paired_difference(table[0], other).distinguishable for other in table[1:]]
    assert np.mean(alarms) <= 0.07


def test_a_large_difference_is_found():
    generator = np.random.default_rng(1)
    found = []
    for _ in range(40):
        rates = np.array([0.90, 0.80])[:, None] + 0.015 * generator.standard_normal((2, 3))
        correct = (generator.random((2, 3, 408)) < rates[:, :, None]).astype(float)
        prior = stats.pooled_spread(correct.mean(axis=2))
        a, b = (scores(dict(enumerate(c)), prior) for c in correct)
        found.append(stats.paired_difference(a, b).distinguishable)
    assert np.mean(found) > 0.9


def test_scores_of_some_seeds_keep_their_draws_and_spread():
    spread = stats.SeedSpread(0.01, 4.0)
    whole = scores({0: np.ones(50), 1: np.zeros(50), 2: np.arange(50) % 2}, spread)
    some = whole.only([2, 0, 7])
    assert some.seeds == [0, 2] and some.spread is spread and some.values[2] == 0.5
    assert np.array_equal(some.draws[2], whole.draws[2])
    assert some.estimate().mean == pytest.approx(0.75)
