"""Strategies as pure functions: totals are exact, limits are kept, and each does what it says. No torch."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="property tests need hypothesis: pip install moelora[development]")
from hypothesis import assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from problems import KINDS, make_linears, make_problem

from moelora.allocation.apportionment import apportion
from moelora.allocation.budget import Budget
from moelora.allocation.documents import OVERFLOWED
from moelora.allocation.draws import draw
from moelora.allocation.greedy import greedy
from moelora.allocation.settings import BUDGETS, DEFAULTS, fill_settings
from moelora.allocation.strategies import STRATEGIES, Problem, allocate, mola
from moelora.allocation.votes import POOLS, smoe_percentile
from moelora.errors import AllocationError
from moelora.methods import Linear

SPENDING = sorted(name for name, use in BUDGETS.items() if use != "never")
PROBLEM = make_problem()
MODULES = PROBLEM.modules
weights_of = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1e6), min_size=1, max_size=12)


def parameters(counts, problem=PROBLEM):
    return sum(problem.price(module, count) for module, count in counts.items())


# Totals


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(SPENDING),
    seed=st.integers(0, 9),
    amount=st.integers(1, 90),
    minimum=st.integers(0, 2),
    room=st.none() | st.integers(0, 6),
)
def test_a_budget_of_experts_is_met_exactly_or_what_is_reachable_is_said(name, seed, amount, minimum, room):
    problem = make_problem(seed=seed)
    maximum = None if room is None else max(1, minimum + room)
    chosen = fill_settings(
        {"strategy": name, "budget": {"experts": amount}, "minimum": minimum, "maximum": maximum, "seed": seed}
    )
    try:
        counts = allocate(problem, chosen)
    except AllocationError as error:
        least = minimum * len(MODULES)
        assert "reachable" in str(error).lower() or "at least" in str(error)
        assert amount < least or maximum is not None
        return
    assert sum(counts.values()) == amount
    assert set(counts) == set(MODULES)
    assert min(counts.values()) >= minimum
    assert maximum is None or max(counts.values()) <= maximum


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(SPENDING), seed=st.integers(0, 9), amount=st.integers(400, 40000))
def test_a_budget_of_parameters_is_met_within_one_expert(name, seed, amount):
    problem = make_problem(seed=seed)
    counts = allocate(problem, fill_settings({"strategy": name, "budget": {"parameters": amount}, "seed": seed}))
    spent = parameters(counts, problem)
    # Every module that may have experts at all could have one more, and none can be paid.
    eligible = MODULES if name in ("uniform", "mola", "random") else [m for m, count in counts.items() if count]
    cheapest = min(problem.price(m, counts[m] + 1) - problem.price(m, counts[m]) for m in eligible)
    assert 0 <= amount - spent < cheapest
    assert cheapest <= max(problem.price(m, 2) - problem.price(m, 1) for m in MODULES)


@pytest.mark.parametrize("name", SPENDING)
def test_the_budget_uniform_makes_strategies_equal_in_parameters(name):
    counts = allocate(PROBLEM, fill_settings({"strategy": name, "budget": {"uniform": 3}}))
    target = sum(PROBLEM.price(module, 3) for module in MODULES)
    largest = max(PROBLEM.price(module, 2) - PROBLEM.price(module, 1) for module in MODULES)
    assert target - largest < parameters(counts) <= target
    if name == "uniform":
        assert set(counts.values()) == {3}


@pytest.mark.parametrize("name", SPENDING)
def test_unreachable_budgets_say_what_is_reachable(name):
    few = {"strategy": name, "budget": {"experts": 15}, "minimum": 1}
    with pytest.raises(AllocationError, match=r"raise the budget to 16 at least"):
        allocate(PROBLEM, fill_settings(few))
    many = {"strategy": name, "budget": {"experts": 65}, "maximum": 4, "percentile": 0, "pool": "all"}
    if name in ("uniform", "mola", "random", "proportional", "greedy"):
        with pytest.raises(AllocationError, match=r"16 modules .* cost 64 experts; .* Reachable: 0 to 64"):
            allocate(PROBLEM, fill_settings(many))
        assert set(allocate(PROBLEM, fill_settings(many | {"budget": {"experts": 64}})).values()) == {4}


def test_a_budget_below_one_expert_is_refused():
    with pytest.raises(AllocationError, match="gives no module an expert"):
        allocate(PROBLEM, fill_settings({"strategy": "greedy", "budget": {"parameters": 10}}))


def test_prices_are_those_of_the_methods_formula():
    linears = make_linears(1)
    query = linears[0].name
    assert PROBLEM.price(query, 0) == 0
    assert PROBLEM.price(query, 1) == 4 * (32 + 32)  # one expert has no router
    assert PROBLEM.price(query, 3) == 3 * 4 * (32 + 32) + 3 * 32


# Apportionment


@settings(max_examples=150, deadline=None)
@given(weights=weights_of, amount=st.integers(1, 300))
def test_shares_stay_within_one_expert_of_their_quota(weights, amount):
    total = math.fsum(weights.values())
    assume(total > 0 and all(weight == 0 or weight / total > 1e-9 for weight in weights.values()))
    counts = apportion(weights, Budget(amount))
    assert sum(counts.values()) == amount
    for module, weight in weights.items():
        quota = amount * weight / total
        assert math.floor(quota - 1e-6) <= counts[module] <= math.ceil(quota + 1e-6)


@settings(max_examples=100, deadline=None)
@given(weights=weights_of, amount=st.integers(1, 100), minimum=st.integers(0, 2), maximum=st.integers(2, 9))
def test_more_weight_never_means_fewer_experts(weights, amount, minimum, maximum):
    budget = Budget(amount, minimum=minimum, maximum=maximum)
    try:
        counts = apportion(weights, budget)
    except AllocationError:
        return
    for first, second in itertools.permutations(weights, 2):
        if weights[first] > weights[second] * (1 + 1e-6):
            assert counts[first] >= counts[second]


def test_largest_remainders_by_hand():
    # quotas 4.7, 3.3, 2.0 of 10; floors 4, 3, 2; the one left goes to the remainder 0.7
    assert apportion({"a": 47, "b": 33, "c": 20}, Budget(10)) == {"a": 5, "b": 3, "c": 2}
    # of equal remainders the heavier goes first: quotas 0.5 and 2.5
    assert apportion({"a": 1, "b": 5}, Budget(3)) == {"a": 0, "b": 3}
    # and of equal weights the first in the order
    assert apportion({"a": 1, "b": 1, "c": 1}, Budget(4), ["c", "b", "a"]) == {"a": 1, "b": 1, "c": 2}
    # what a full module cannot take goes to the others in proportion
    assert apportion({"a": 8, "b": 2, "c": 1}, Budget(9, maximum=3)) == {"a": 3, "b": 3, "c": 3}
    assert apportion({"a": 8, "b": 2, "c": 1}, Budget(6, maximum=3)) == {"a": 3, "b": 2, "c": 1}
    with pytest.raises(AllocationError, match="reachable: 0"):
        apportion({"a": 0.0}, Budget(3))


# Votes


def test_votes_with_the_budget_of_their_own_total_are_the_votes():
    """At the total that the percentile gives, sharing by votes changes nothing."""
    for pool, percentile in itertools.product(("per_type", "all", "part", "attention"), (20, 40, 60)):
        chosen = {"pool": pool, "percentile": percentile}
        votes = allocate(PROBLEM, fill_settings({"strategy": "smoe_percentile", **chosen}))
        again = allocate(
            PROBLEM, fill_settings({"strategy": "smoe_budget", "budget": {"experts": sum(votes.values())}, **chosen})
        )
        assert votes == again


def test_pools_are_cut_apart():
    scores = {"t": {"a1": 1.0, "a2": 2.0, "b1": 100.0, "b2": 200.0}}
    apart = smoe_percentile(scores, {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}, 50)
    together = smoe_percentile(scores, dict.fromkeys(scores["t"], "all"), 50)
    without = smoe_percentile(scores, {"a1": "a", "a2": "a", "b1": None, "b2": None}, 50)
    assert apart == {"a1": 0, "a2": 1, "b1": 0, "b2": 1}
    assert together == {"a1": 0, "a2": 0, "b1": 1, "b2": 1}
    assert without == {"a1": 0, "a2": 1, "b1": 0, "b2": 0}
    with pytest.raises(AllocationError, match="percentile"):
        smoe_percentile(scores, dict.fromkeys(scores["t"], "all"), 140)
    with pytest.raises(AllocationError, match="scores other modules"):
        smoe_percentile(scores, {"a1": "a"}, 40)


def test_the_three_pools_of_the_public_notebook():
    linears = make_linears(2)
    pools = {name: {POOLS[name](linear) for linear in linears} for name in POOLS}
    assert len(pools["per_type"]) == len(KINDS)  # variant a
    assert pools["all"] == {"all"}  # variant c
    assert pools["attention"] == {"attention", None}  # variant d
    assert pools["part"] == {"attention", "feed_forward"}  # d with the MLP counted


def test_the_two_outputs_of_an_encoder_are_two_types():
    attention = Linear("attention.output", "output", "attention", 0, 8, 8)
    linears = (attention, Linear("output", "output", "feed_forward", 0, 32, 8))
    assert len({POOLS["per_type"](linear) for linear in linears}) == 2


def test_strictly_above_with_linear_interpolation():
    # the 40th percentile of 0…10 is 4: five and more are above, four is not
    scores = {"t": {f"m{i:02}": float(i) for i in range(11)}}
    counts = smoe_percentile(scores, dict.fromkeys(scores["t"], "all"), 40)
    assert [module for module, count in counts.items() if count] == [f"m{i:02}" for i in range(5, 11)]
    ties = {"t": dict.fromkeys(scores["t"], 3.0)}
    assert not any(smoe_percentile(ties, dict.fromkeys(scores["t"], "all"), 40).values())


def test_reverse_is_the_same_vote_on_turned_scores():
    turned = {task: {m: 1 / s for m, s in by_module.items()} for task, by_module in PROBLEM.scores.items()}
    chosen = {"budget": {"experts": 37}, "pool": "part"}
    found = allocate(PROBLEM, fill_settings({"strategy": "reverse", **chosen}))
    mirror = Problem(PROBLEM.linears, turned, PROBLEM.price)
    assert found == allocate(mirror, fill_settings({"strategy": "smoe_budget", **chosen}))
    forward = allocate(PROBLEM, fill_settings({"strategy": "smoe_budget", **chosen}))
    strongest = max(MODULES, key=lambda m: sum(by_module[m] for by_module in PROBLEM.scores.values()))
    assert found[strongest] < forward[strongest]


def test_overflowed_scores_vote_but_have_no_size():
    scores = {task: {**by_module, MODULES[0]: OVERFLOWED} for task, by_module in PROBLEM.scores.items()}
    problem = Problem(PROBLEM.linears, scores, PROBLEM.price)
    votes = allocate(problem, fill_settings({"pool": "all"}))
    assert votes[MODULES[0]] == 3
    for name in ("smoe_budget", "reverse"):
        allocate(problem, fill_settings({"strategy": name, "budget": {"experts": 20}}))
    for name in ("proportional", "greedy"):
        with pytest.raises(AllocationError, match="only a rank"):
            allocate(problem, fill_settings({"strategy": name, "budget": {"experts": 20}}))


# Greedy, random, uniform, shapes


def test_greedy_is_optimal_in_experts():
    values = {"a": 5.0, "b": 3.0, "c": 1.1, "d": 0.0}
    for amount, decay in itertools.product((1, 3, 5, 7), (0.3, 0.5, 0.8)):
        found = greedy(values, Budget(amount, maximum=4), decay)

        def worth(counts, decay=decay):
            return sum(v * sum(decay**n for n in range(c)) for v, c in zip(values.values(), counts, strict=True))

        every = [c for c in itertools.product(range(5), range(5), range(5), [0]) if sum(c) == amount]
        assert worth(found.values()) == pytest.approx(max(map(worth, every)))
    assert greedy(values, Budget(5, minimum=1), 0.5) == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_greedy_buys_what_is_worth_most_for_its_price():
    price = {"dear": 10, "cheap": 1}
    budget = Budget(12, "parameters", lambda module, count: price[module] * count)
    assert greedy({"dear": 5.0, "cheap": 1.0}, budget, 0.5) == {"cheap": 2, "dear": 1}


def test_diminishing_returns_spread_more_the_less_they_diminish():
    values = {f"m{i}": 2.0**-i for i in range(8)}
    spread = [sum(map(bool, greedy(values, Budget(8), decay).values())) for decay in (0.1, 0.5, 0.9)]
    assert spread == sorted(spread, reverse=True) and spread[0] > spread[-1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100))
def test_random_depends_on_the_seed_alone(seed):
    budget = Budget(50)
    assert draw(MODULES, budget, seed) == draw(list(reversed(MODULES)), budget, seed)
    assert draw(MODULES, budget, seed) != draw(MODULES, budget, seed + 1)


def test_random_favours_no_module():
    totals = Counter()
    for seed in range(300):
        totals.update(draw(MODULES, Budget(16), seed))
    assert all(abs(totals[module] - 300) < 5 * 300**0.5 for module in MODULES)


def test_uniform_leaves_over_by_lot():
    counts = [
        allocate(PROBLEM, fill_settings({"strategy": "uniform", "budget": {"experts": 24}, "seed": seed}))
        for seed in range(5)
    ]
    assert all(Counter(c.values()) == {1: 8, 2: 8} for c in counts)
    assert len({tuple(c.values()) for c in counts}) > 1


def test_mola_shapes():
    linears = make_linears(8)
    of_layer = {}
    for linear in linears:
        of_layer.setdefault(linear.layer, set()).add(mola(linears, "inverted_triangle")[linear.name])
    assert [*of_layer.values()] == [{2}, {2}, {4}, {4}, {6}, {6}, {8}, {8}]
    assert set(mola(linears, "5-5-5-5").values()) == {5}
    problem = make_problem(layers=8)
    assert sum(allocate(problem, fill_settings({"strategy": "mola"})).values()) == 4 * 2 * 20
    half = allocate(problem, fill_settings({"strategy": "mola", "budget": {"experts": 80}}))
    assert {module: 2 * count for module, count in half.items()} == mola(linears, "inverted_triangle")
    with pytest.raises(AllocationError, match="shape must be one of"):
        mola(linears, "pyramid")


# Settings


def test_settings_that_cannot_be_meant():
    def refusal(**chosen) -> str:
        with pytest.raises(AllocationError) as caught:
            fill_settings(chosen)
        return str(caught.value)

    assert "did you mean 'greedy'?" in refusal(strategy="gredy", budget={"experts": 3})
    assert "did you mean 'strategy'?" in refusal(stratgy="greedy")
    assert "spends a budget and has none" in refusal(strategy="greedy")
    assert "take 'smoe_budget'" in refusal(strategy="smoe_percentile", budget={"experts": 3})
    assert "one unit" in refusal(strategy="greedy", budget={"experts": 3, "parameters": 4})
    assert "did you mean 'experts'?" in refusal(strategy="greedy", budget={"expert": 3})
    assert "whole number from 1, found experts: 2.5" in refusal(strategy="greedy", budget={"experts": 2.5})
    assert "minimum 3 exceeds maximum 2" in refusal(minimum=3, maximum=2)
    assert "[0, 100], found 101" in refusal(percentile=101)


def test_the_schema_and_the_code_know_the_same():
    import json

    root = Path(__file__).parents[2]
    schema = json.loads((root / "workflow/schemas/suite.schema.json").read_text())["$defs"]
    properties = schema["allocation"]["properties"]
    assert set(properties["strategy"]["enum"]) == set(BUDGETS) == set(STRATEGIES)
    assert set(properties["pool"]["enum"]) == set(POOLS)
    assert {key: rule["default"] for key, rule in properties.items()} == DEFAULTS


def test_strategies_need_no_torch():
    code = "import sys, moelora.allocation.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
