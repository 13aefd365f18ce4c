import numpy as np
import pytest

from moelora import stats


def test_ranks_are_averaged_over_shared_tasks_and_ties_share():
    scores = {
        "a": {"t1": 0.9, "t2": 0.8, "t3": 0.7},
        "b": {"t1": 0.8, "t2": 0.8, "t3": 0.6},
        "c": {"t1": 0.7, "t2": 0.6, "extra": 0.9},
    }
    found = stats.average_ranks(scores)
    assert found.average == {"a": 1.25, "b": 1.75, "c": 3.0}
    assert found.n_tasks == 2
    assert "2 of at least 10 tasks" in found.warning


def test_enough_tasks_need_no_warning_and_friedman_sees_the_order():
    scores = {
        v: {f"t{i}": 0.5 + shift + 0.001 * i for i in range(12)} for v, shift in zip("abc", (0, 0.1, 0.2), strict=True)
    }
    found = stats.average_ranks(scores)
    assert found.warning == ""
    assert found.p < 1e-4
    with pytest.raises(ValueError, match="common task"):
        stats.average_ranks({"a": {"t": 1.0}, "b": {"u": 1.0}})


def test_a_clear_lead_is_practical_and_a_small_one_is_not():
    clear = [stats.difference_draws(0.05, 0.005, 20) for _ in range(4)]
    small = [stats.difference_draws(0.002, 0.002, 20) for _ in range(4)]
    assert stats.practical_verdict(clear).better > 0.99
    found = stats.practical_verdict(small)
    assert found.equal > 0.99
    assert found.better + found.equal + found.worse == pytest.approx(1.0)


def test_averaging_independent_tasks_narrows_and_other_tasks_widen():
    draws = [stats.difference_draws(m, 0.02, 50) for m in (-0.03, 0.05, 0.02, 0.04)]
    alone = stats.practical_verdict(draws[3:])
    these = stats.practical_verdict(draws)
    others = stats.practical_verdict(draws, other_tasks=True)
    assert these.equal > 0 and alone.n_tasks == 1 and these.n_tasks == 4
    assert others.worse > these.worse
    with pytest.raises(ValueError, match="0 tasks"):
        stats.practical_verdict([])


def test_draws_of_a_difference_have_the_spread_of_its_test():
    draws = stats.difference_draws(0.1, 0.02, 4)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([0.1 - 2.776 * 0.02, 0.1 + 2.776 * 0.02], abs=1e-3)
