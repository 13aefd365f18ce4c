"""Coverage, false alarms and power on benchmarks whose truth is known and whose seeds scatter."""

import re
from pathlib import Path

import numpy as np
import pytest

from moelora.stats import page
from moelora.stats.simulation import Setting, simulate, study

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
HONEST = ("crossed", "crossed, moderated", "interval in a table", "sign-flip over seeds")
COVERING = ("score in a table", "difference in a table", "crossed", "crossed, moderated")
REPETITIONS = 200
# Three standard errors of a rate of 5 % over the repetitions.
SLACK = 3 * (0.05 * 0.95 / REPETITIONS) ** 0.5


@pytest.fixture(scope="module", params=[(3, 0.015), (3, 0.03), (5, 0.015), (5, 0.03)], ids=str)
def null(request):
    return study(Setting(*request.param), REPETITIONS)


def test_intervals_cover(null):
    for name in COVERING:
        assert null.coverage[name] >= 0.95 - SLACK, name


def test_tests_that_treat_seeds_as_random_hold_their_level(null):
    for name in HONEST:
        assert null.rejections[name] <= 0.05 + SLACK, name


def test_the_level_holds_where_the_other_variants_scatter_less():
    found = study(Setting(3, 0.03, others_deviation=0.01), REPETITIONS)
    for name in HONEST:
        assert found.rejections[name] <= 0.05 + SLACK, name


def test_pooling_the_items_of_several_seeds_does_not(null):
    assert null.rejections["McNemar, seeds pooled"] > 0.05 + SLACK


def test_a_difference_is_found_and_found_oftener_with_more_seeds():
    three, five = (study(Setting(n, 0.015, effect=0.05), REPETITIONS).rejections for n in (3, 5))
    assert three["crossed, moderated"] > 1.3 * three["crossed"]
    assert five["crossed, moderated"] > 0.6
    assert five["crossed, moderated"] > three["crossed, moderated"]
    assert five["sign-flip over seeds"] == 0.0


def test_what_is_simulated_has_the_rates_and_the_scatter_asked_for():
    setting = Setting(4, 0.03, effect=0.05, n_items=2000, others_deviation=0.0)
    found = simulate(setting, 60, np.random.default_rng(0)).mean(axis=3)
    assert found.shape == (60, 5, 4)
    assert found.mean(axis=(0, 2)) == pytest.approx([0.85, 0.8, 0.8, 0.8, 0.8], abs=0.01)
    scatter = found.var(axis=2, ddof=1).mean(axis=0)
    assert scatter[1] - scatter[2] == pytest.approx(0.03**2, rel=0.25)


def test_the_page_has_every_study_and_what_can_be_detected():
    small = {name: [study(Setting(3, 0.015), 4)] for name in ("one", "two")}
    text = page.page(small)
    assert text.count("| one | 3 | 1.5 |") == 2
    assert "| 408 | 3 |" in text
    assert page.main([]) == 2


@pytest.mark.slow
def test_the_tracked_page_says_what_the_simulation_gives():
    found = page.studies(page.REPETITIONS)
    for one in [*found["nothing to find"], *found["other variants scatter a third as much"]]:
        slack = 3 * (0.05 * 0.95 / one.repetitions) ** 0.5
        assert all(one.rejections[name] <= 0.05 + slack for name in HONEST)
        assert all(one.coverage[name] >= 0.95 - slack for name in COVERING)
    # Sums of floats differ between processors, so a figure may move by a benchmark or two, and no more.
    fresh, tracked = (_figures(text) for text in (page.page(found), PAGE.read_text(encoding="utf-8")))
    assert fresh.keys() == tracked.keys()
    for row, figures in fresh.items():
        assert figures == pytest.approx(tracked[row], abs=0.5), row


def _figures(text: str) -> dict[str, list[float]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if re.match(r"\| .*\d \|$", line)]
    return {f"{i} {' '.join(c[:3])}": [float(x) for x in c[3:]] for i, c in enumerate(rows)}
