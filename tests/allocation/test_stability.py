"""Agreement between samples; no torch."""

import random

import pytest

from moelora.allocation.stability import agreement_rows, chosen_overlap, compare_scores

POOLS = {f"{kind}{layer}": kind for kind in "qkv" for layer in range(10)}


def test_the_same_scores_agree_wholly_and_opposite_ones_do_not():
    scores = {module: float(place) for place, module in enumerate(sorted(POOLS))}
    same = compare_scores(scores, {m: 3 * s + 1 for m, s in scores.items()}, POOLS, 40)
    assert same["spearman"] == pytest.approx(1) and same["spearman_in_pools"] == pytest.approx(1)
    assert same["overlap"] == same["corrected"] == 1
    assert same["chance"] == pytest.approx(0.6)  # 6 of 10 in each pool
    opposite = compare_scores(scores, {m: -s for m, s in scores.items()}, POOLS, 40)
    assert opposite["spearman"] == pytest.approx(-1)
    assert opposite["overlap"] == pytest.approx(2 / 6)  # of two top sixes of ten, turned round, two coincide
    assert opposite["corrected"] == pytest.approx((2 / 6 - 0.6) / 0.4)


def test_order_within_pools_is_told_from_order_between_them():
    first = {module: {"q": 0, "k": 100, "v": 200}[pool] + int(module[1:]) for module, pool in POOLS.items()}
    second = {module: {"q": 0, "k": 100, "v": 200}[pool] - int(module[1:]) for module, pool in POOLS.items()}
    found = compare_scores(first, second, POOLS, 40)
    assert found["spearman"] > 0.75
    assert found["spearman_in_pools"] == pytest.approx(-1)


def test_blind_choices_are_corrected_to_nothing():
    generator = random.Random(0)
    corrected = []
    for _ in range(400):
        first, second = ({m: generator.random() for m in POOLS} for _ in range(2))
        found = compare_scores(first, second, POOLS, 40)
        corrected.append(found["corrected"])
    assert abs(sum(corrected) / len(corrected)) < 0.03


def test_public_stability_numbers_are_weak_evidence():
    """201 of 252 modules kept: two blind choices overlap by about 0.80, and 0.8657 is a third of the way from there."""
    by_pool = {"all": [f"m{index}" for index in range(252)]}
    first = set(by_pool["all"][:201])
    second = set(by_pool["all"][27 : 27 + 201])
    overlap, chance = chosen_overlap(first, second, by_pool)
    assert overlap == pytest.approx(174 / 201) and chance == pytest.approx(201 / 252)
    assert (overlap - chance) / (1 - chance) == pytest.approx(0.336, abs=0.001)


def test_nothing_to_say_is_none():
    flat = dict.fromkeys(POOLS, 1.0)
    found = compare_scores(flat, flat, POOLS, 40)
    assert found["spearman"] is None and found["overlap"] is None and found["corrected"] is None
    scores = {module: float(place) for place, module in enumerate(sorted(POOLS))}
    assert compare_scores(scores, scores, dict.fromkeys(POOLS), 40)["overlap"] is None  # no module may be chosen


def test_no_sample_is_compared_with_one_that_holds_it():
    scores = {m: float(i) for i, m in enumerate(sorted(POOLS))}
    samples = {seed: dict.fromkeys((8, 16, 32), scores) for seed in (0, 1, 2)}
    rows = agreement_rows(samples, POOLS, 40)
    assert all(row["seeds"][0] != row["seeds"][1] for row in rows)
    same = [row for row in rows if row["against"] == "same_size"]
    largest = [row for row in rows if row["against"] == "largest"]
    assert len(same) == 3 * 3 and len(largest) == 2 * 6
    assert {row["examples"] for row in largest} == {8, 16}
