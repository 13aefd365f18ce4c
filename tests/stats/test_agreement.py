import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score

from moelora.stats.agreement import agreement, best_match, best_matches, contingency

NONE = 255


def choices(seed, experts=4, tokens=2000, shares=None):
    return np.random.default_rng(seed).choice(experts, tokens, p=shares).astype(np.uint8)


def test_permuted_experts_agree_fully():
    first = choices(0)
    second = np.array([2, 0, 3, 1], dtype=np.uint8)[first]
    found = agreement(first, second, none=NONE)
    assert (found.tokens, found.matched, found.ami) == (2000, 1.0, pytest.approx(1.0))
    assert found.chance < 0.35


def test_independent_routers_agree_as_their_loads_say():
    shares = [0.7, 0.1, 0.1, 0.1]
    found = agreement(choices(1, shares=shares), choices(2, shares=shares), none=NONE)
    assert found.chance == pytest.approx(0.7**2 + 3 * 0.1**2, abs=0.03)
    assert found.matched == pytest.approx(found.chance, abs=0.03)
    assert found.ami == pytest.approx(0, abs=0.01)


def test_chance_is_the_mean_over_shuffled_tokens():
    first, second = choices(3, tokens=60), choices(4, tokens=60)
    generator = np.random.default_rng(5)
    shuffled = [best_match(contingency(first, generator.permutation(second))) / 60 for _ in range(2000)]
    found = np.mean([agreement(first, second, none=NONE, seed=seed).chance for seed in range(100)])
    assert found == pytest.approx(np.mean(shuffled), abs=0.005)


@pytest.mark.parametrize("experts", [2, 5, 9])
def test_adjusted_mutual_information_equals_scikit_learn(experts):
    first = choices(experts, experts, 400)
    second = np.where(np.random.default_rng(6).random(400) < 0.4, first, choices(7, experts, 400)).astype(np.uint8)
    found = agreement(first, second, none=NONE)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(first, second))


def test_two_collapsed_routers_agree_and_there_is_nothing_to_agree_on():
    found = agreement(np.zeros(50, dtype=np.uint8), np.full(50, 3, dtype=np.uint8), none=NONE)
    assert (found.matched, found.chance, found.ami) == (1.0, 1.0, None)


def test_one_collapsed_router_says_nothing_about_the_other():
    first = choices(8)
    found = agreement(first, np.zeros_like(first), none=NONE)
    assert found.matched == found.chance == np.bincount(first).max() / 2000
    assert found.ami == 0.0


def test_tokens_without_an_expert_are_left_out():
    first = choices(9)
    second = first.copy()
    second[:500] = NONE
    assert agreement(first, second, none=NONE).tokens == 1500
    assert agreement(first, np.full_like(first, NONE), none=NONE) is None
    with pytest.raises(ValueError, match="1999 and 2000 tokens"):
        agreement(first[:-1], first, none=NONE)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("columns", [1, 2, 4, 6])
def test_matching_many_tables_is_matching_each(rows, columns):
    tables = np.random.default_rng(rows * 10 + columns).integers(0, 6, (50, rows, columns))  # small: many ties
    expected = [table[linear_sum_assignment(table, maximize=True)].sum() for table in tables]
    assert best_matches(tables).tolist() == expected
    assert [best_match(table) for table in tables] == expected


@pytest.mark.parametrize("experts", [2, 4, 7])
def test_chance_is_that_of_the_tables_drawn_one_by_one(experts):
    from scipy.stats import random_table

    first, second = choices(10, experts, 300), choices(11, experts, 300)
    table = contingency(first, second)
    stream = np.random.default_rng(12)
    drawn = random_table.rvs(table.sum(1), table.sum(0), size=20, random_state=stream)
    expected = float(np.mean([one[linear_sum_assignment(one, maximize=True)].sum() for one in drawn])) / 300
    assert agreement(first, second, none=NONE, seed=12).chance == expected
