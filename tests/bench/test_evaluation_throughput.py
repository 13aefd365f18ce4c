"""The comparison of scoring with lm-eval by hand: turns and ratios."""

import pytest

from bench.evaluation_throughput import OURS, THEIRS, make_parser, summarise, take_turns


def test_turns_alternate_and_each_is_timed():
    order, now = [], [0.0]

    def step(name, seconds):
        def act():
            order.append(name)
            now[0] += seconds

        return act

    seconds = take_turns({OURS: step(OURS, 2.0), THEIRS: step(THEIRS, 3.0)}, 3, lambda: now[0])
    assert order == [OURS, THEIRS, THEIRS, OURS, OURS, THEIRS]
    assert seconds == {OURS: [2.0, 2.0, 2.0], THEIRS: [3.0, 3.0, 3.0]}


def test_ratios_are_of_rounds():
    found = summarise({OURS: [1.0, 2.0, 4.0], THEIRS: [0.9, 2.0, 3.9]}, 40)
    assert found["ratio"] == pytest.approx(0.975) and found["ratio_range"] == pytest.approx([0.9, 1.0])
    assert found["items_per_second"] == {OURS: 20.0, THEIRS: 20.0}
    assert found["enough"]
    assert not summarise({OURS: [1.0], THEIRS: [0.94]}, 1)["enough"]


def test_defaults_are_a_small_limit_of_two_tasks():
    options = make_parser().parse_args(["local/stories260K"])
    assert (options.tasks, options.limit) == (["arc_easy", "piqa"], 100)
