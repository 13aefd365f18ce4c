"""Order, ratios and the two measures of memory."""

import collections
import itertools

import pytest
import torch
from fake_clock import FakeStopwatch

from bench import measure


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12])
def test_orders_are_balanced_in_place_and_in_predecessor(count):
    names = [f"v{i}" for i in range(count)]
    cycles = 2 if count % 2 else 1
    orders = [measure.order(names, number) for number in range(cycles * count)]
    assert all(sorted(order) == sorted(names) for order in orders)
    for name in names:
        assert sorted(order.index(name) for order in orders) == sorted([*range(count)] * cycles)
    followed = collections.Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert followed == {(a, b): cycles for a in names for b in names if a != b}


def test_the_second_cycle_is_the_first_backwards():
    assert [measure.order("abcd", number + 4) for number in range(4)] == [
        measure.order("abcd", number)[::-1] for number in range(4)
    ]


def test_rounds_of_the_warmup_run_and_do_not_count():
    ran = []
    watch = FakeStopwatch(lambda call: float(call))
    steps = {name: lambda name=name: ran.append(name) for name in "ab"}
    seconds = measure.time_rounds(steps, rounds=3, warmup=2, stopwatch=watch)
    assert ran == [name for number in range(5) for name in measure.order("ab", number)]
    assert sorted(seconds["a"]["cpu"] + seconds["b"]["cpu"]) == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]


def test_a_ratio_belongs_to_a_round_and_its_spread_is_of_rounds():
    found = measure.ratios([2.0, 30.0, 4.0], [1.0, 10.0, 4.0])
    assert found == [2.0, 3.0, 1.0]
    assert measure.spread(found) == (1.5, 2.0, 2.5)
    assert measure.spread([1.25]) == (1.25, 1.25, 1.25)


def test_the_real_stopwatch_reads_both_clocks():
    taken = measure.Stopwatch("cpu").time(lambda: sum(range(10_000)))
    assert set(taken) == {"cpu", "wall"} and all(value >= 0 for value in taken.values())


def test_saved_bytes_are_those_of_what_autograd_keeps():
    x = torch.ones(16, 8, requires_grad=True)
    weight = torch.ones(4, 8, requires_grad=True)

    def step():
        (torch.nn.functional.linear(x, weight).relu() ** 2).sum().backward()

    # The input once, and the output of the relu once for the relu and the square.
    assert measure.saved_bytes(step, [weight]) == 4 * (16 * 8 + 16 * 4)
    assert measure.saved_bytes(step, [weight, x]) == 4 * 16 * 4


def test_peak_bytes_are_those_alive_together():
    def step():
        first = torch.empty(1 << 20)
        second = torch.empty(1 << 20)
        del first, second
        torch.empty(1 << 20)

    assert measure.peak_bytes(step, "cpu") == 2 * 4 * (1 << 20)
