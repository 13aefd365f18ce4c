"""Spaces: conditions, grids, places in the plan, and what is refused."""

import json

import pytest
from studies import SPACE

from moelora.errors import ConfigError
from moelora.search.space import merge, read_space


class Scripted:
    """A trial that gives the last of the values it may choose from."""

    def suggest_categorical(self, name, choices):
        return choices[-1]

    def suggest_int(self, name, low, high, step=1, log=False):
        return high

    def suggest_float(self, name, low, high, step=None, log=False):
        return low


def test_a_parameter_counts_only_under_its_condition():
    space = read_space(SPACE, "suite.yaml")
    assert space.suggest(Scripted()) == {"rank": 8, "rate": 1e-4, "strategy": "uniform"}
    with_percentile = read_space({**SPACE, "strategy": {**SPACE["strategy"], "choices": ["smoe_percentile"]}}, "s")
    assert with_percentile.suggest(Scripted())["percentile"] == 20


def test_the_order_does_not_depend_on_the_order_of_keys():
    backwards = dict(reversed(SPACE.items()))
    stored = json.loads(json.dumps(SPACE, sort_keys=True))
    orders = [[p.name for p in read_space(space, "s").parameters] for space in (SPACE, backwards, stored)]
    assert orders == [["rank", "rate", "strategy", "percentile"]] * 3


def test_conditions_may_depend_on_conditions():
    space = {
        "c": {"set": "allocation.c", "choices": [5], "when": {"b": [True]}},
        "b": {"set": "allocation.b", "choices": [True, False], "when": {"a": ["x"]}},
        "a": {"set": "allocation.a", "choices": ["x", "y"]},
    }
    grid = read_space(space, "s").grid()
    assert grid == [{"a": "x", "b": True, "c": 5}, {"a": "x", "b": False}, {"a": "y"}]


def test_values_go_to_their_places_and_tied_keys_follow():
    changed = read_space(SPACE, "s").overrides({"rank": 4, "rate": 0.01, "strategy": "uniform"})
    assert changed == {
        "settings": {"r": 4, "alpha": 8},
        "training": {"learning_rate": 0.01},
        "allocation": {"strategy": "uniform"},
    }
    nested = read_space({"experts": {"set": "allocation.budget.experts", "integers": [8, 16]}}, "s")
    assert nested.overrides({"experts": 9})["allocation"] == {"budget": {"experts": 9}}


def test_merging_reaches_into_documents_and_leaves_them_alone():
    document = {"budget": {"experts": 3}, "seed": 1}
    assert merge(document, {"budget": {"experts": 5}}) == {"budget": {"experts": 5}, "seed": 1}
    assert merge({"budget": None}, {"budget": {"experts": 5}}) == {"budget": {"experts": 5}}
    assert document == {"budget": {"experts": 3}, "seed": 1}


@pytest.mark.parametrize(
    "entry, points",
    [
        ({"integers": [2, 6], "step": 2}, [2, 4, 6]),
        ({"integers": [1, 3]}, [1, 2, 3]),
        ({"integers": [1, 100], "points": 3, "log": True}, [1, 10, 100]),
        ({"numbers": [0.0, 1.0], "step": 0.5}, [0.0, 0.5, 1.0]),
        ({"numbers": [1e-4, 1e-2], "points": 3, "log": True}, [1e-4, pytest.approx(1e-3), 1e-2]),
        ({"numbers": [2, 4], "points": 2}, [2, 4]),
        ({"choices": ["b", None, 1]}, ["b", None, 1]),
    ],
)
def test_points_of_a_grid(entry, points):
    space = read_space({"x": {"set": "settings.x", **entry}}, "s")
    assert [values["x"] for values in space.grid()] == points


def test_a_shuffled_grid_is_the_grid_in_an_order_of_the_seed():
    space = read_space({name: {"set": f"settings.{name}", "integers": [0, 3]} for name in "ab"}, "s")
    one, again, other = space.shuffled_grid(1), space.shuffled_grid(1), space.shuffled_grid(2)
    assert one == again != other
    assert sorted(map(str, one)) == sorted(map(str, space.grid())) and len(one) == 16


NUMBERS = {"set": "settings.x", "numbers": [1.0, 2.0]}


@pytest.mark.parametrize(
    "space, message",
    [
        ({"x": {"set": "settings.x"}}, "'search.space.x' must have exactly one of choices, integers, numbers"),
        ({"x": {**NUMBERS, "choices": [1]}}, "found choices and numbers"),
        ({"x": {"set": "settings.x", "numbers": [2.0, 1.0]}}, "'search.space.x.numbers' must rise"),
        ({"x": {"set": "settings.x", "numbers": [0.0, 1.0], "log": True}}, "must be above 0, found 0.0"),
        ({"x": {"set": "settings.x", "integers": [1.5, 3]}}, "must be whole numbers, found 1.5"),
        ({"x": {**NUMBERS, "log": True, "step": 0.5}}, "'search.space.x.step' cannot be had together with 'log'"),
        ({"x": {"set": "settings.x", "choices": [1], "log": True}}, "'search.space.x.log' is for ranges"),
        ({"x": {"set": "settings.x", "choices": ["a"], "tied": {"settings.y": 2}}}, "'search.space.x.tied' multiplies"),
        ({"x": {**NUMBERS, "when": {"y": 1}}}, "'search.space.x.when' names 'y', which is no other parameter"),
        ({"x": NUMBERS, "y": {"set": "settings.y", "choices": [1], "when": {"x": 1.0}}}, "a range of numbers"),
        (
            {
                "x": {"set": "settings.x", "choices": ["alpha"]},
                "y": {"set": "settings.y", "choices": [1], "when": {"x": "alhpa"}},
            },
            "'search.space.y.when.x' waits for 'alhpa', which 'x' cannot be; did you mean 'alpha'?",
        ),
        (
            {
                "x": {"set": "settings.x", "choices": [1], "when": {"y": 1}},
                "y": {"set": "settings.y", "choices": [1], "when": {"x": 1}},
            },
            "the conditions of x and y wait for each other",
        ),
        ({"x": NUMBERS, "y": NUMBERS}, "'search.space.x' and 'search.space.y' both set 'settings.x'"),
    ],
)  # fmt: skip
def test_a_bad_space_names_file_and_key(space, message):
    with pytest.raises(ConfigError) as error:
        read_space(space, "suites/search-mine.yaml")
    assert str(error.value).startswith("suites/search-mine.yaml: 'search.space") and message in str(error.value)


def test_two_parameters_may_set_one_key_under_different_conditions():
    space = {
        "kind": {"set": "settings.kind", "choices": ["a", "b"]},
        "few": {"set": "settings.n", "integers": [1, 2], "when": {"kind": "a"}},
        "many": {"set": "settings.n", "integers": [8, 9], "when": {"kind": "b"}},
    }
    found = read_space(space, "s")
    assert {found.overrides(values)["settings"]["n"] for values in found.grid()} == {1, 2, 8, 9}


def test_a_grid_needs_points():
    with pytest.raises(ConfigError, match=r"space\.x.*give it 'points'"):
        read_space({"x": NUMBERS}, "s").grid()
