"""Several allocations of one variant side by side, and what a suite may say of an allocation."""

import shutil
from pathlib import Path

import pytest

from moelora.config import load_yaml
from moelora.errors import ConfigError
from moelora.plans import expand

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "workflow" / "config"


@pytest.fixture
def suite():
    return load_yaml(REPOSITORY / "tests" / "grid.yaml") | {
        "grid": [{"models": ["minilm"], "tasks": ["mrpc", "rte"], "mixtures": {"both": ["mrpc", "rte"]}}],
        "variants": ["lora", "lora_smoe"],
        "match": ["lora_smoe"],
        "regimes": {"published": {"seeds": [0]}},
    }


def message(suite) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(suite, CONFIG, source="my-suite.yaml")
    return str(caught.value)


def place(suite, strategies, budgets=None, **changes):
    suite["placements"] = {"lora_smoe": {"strategies": strategies, **({"budgets": budgets} if budgets else {})}}
    return suite | changes


def test_a_variant_becomes_one_for_each_strategy_and_budget(suite):
    strategies = {
        "votes": {},
        "greedy": {"strategy": "greedy", "decay": 0.7},
        "mola": {"strategy": "mola", "budget": None},
    }
    budgets = {"low": {"experts": 32}, "high": {"parameters": 90000}}
    expansion = expand(place(suite, strategies, budgets, match=["lora_smoe-greedy-low"]), CONFIG)
    assert [v.name for v in expansion.variants] == [
        "lora", "lora_smoe-votes", "lora_smoe-greedy-low", "lora-match-lora_smoe-greedy-low", "lora_smoe-greedy-high",
        "lora_smoe-mola",
    ]  # fmt: skip
    by_name = {v.name: v for v in expansion.variants}
    high = by_name["lora_smoe-greedy-high"]
    assert high.method == "lora_smoe" and high.settings["r"] == 8
    assert high.allocation == {
        "strategy": "greedy", "decay": 0.7, "budget": {"parameters": 90000}, "minimum": 0, "maximum": None,
        "percentile": 40, "pool": "per_type", "shape": "inverted_triangle", "seed": 0, "score": "sum", "tasks": "all",
    }  # fmt: skip
    assert high.placement == {"variant": "lora_smoe", "strategy": "greedy", "budget": "high"}
    assert by_name["lora_smoe-mola"].allocation["budget"] is None
    run = next(run for run in expansion.runs if run.variant is high and run.task == "rte")
    assert run.plan["pending"]["allocation"] == "minilm/allocation/lora_smoe-greedy-high.json"
    assert run.plan["pending"]["allocation_settings"] == high.allocation
    documented = {v["name"]: v for v in expansion.suite_document()["expanded"]["variants"]}
    assert documented[high.name]["placement"] == high.placement and documented["lora"]["allocation"] is None


def test_every_placement_has_its_control_where_the_variant_is_matched(suite):
    names = [v.name for v in expand(place(suite, {"a": {}, "b": {"percentile": 60}}), CONFIG).variants]
    assert names[1:] == ["lora_smoe-a", "lora-match-lora_smoe-a", "lora_smoe-b", "lora-match-lora_smoe-b"]


def test_layers_of_settings_go_from_the_suite_to_the_variant(suite):
    suite |= {"allocation": {"percentile": 30, "pool": "all", "seed": 3}}
    suite |= {"allocation_by_variant": {"lora_smoe-a": {"percentile": 50}}}
    variants = {v.name: v for v in expand(place(suite, {"a": {"pool": "part"}, "b": {}}), CONFIG).variants}
    a, b = variants["lora_smoe-a"].allocation, variants["lora_smoe-b"].allocation
    assert (a["percentile"], a["pool"], a["seed"]) == (50, "part", 3)
    assert (b["percentile"], b["pool"], b["seed"]) == (30, "all", 3)


def test_allocations_from_own_tasks_are_files_of_each_task(suite):
    suite |= {"allocation": {"tasks": "own", "score": "fisher"}}
    expansion = expand(suite, CONFIG)
    assert {path: a.sensitivities for path, a in expansion.allocations.items()} == {
        "minilm/allocation/mrpc/lora_smoe.json": ["minilm/sensitivity/fisher/mrpc.json"],
        "minilm/allocation/rte/lora_smoe.json": ["minilm/sensitivity/fisher/rte.json"],
        "minilm/allocation/both/lora_smoe.json": [
            "minilm/sensitivity/fisher/mrpc.json", "minilm/sensitivity/fisher/rte.json",
        ],
    }  # fmt: skip
    matched = next(r for r in expansion.runs if r.variant.match and r.task == "rte")
    assert matched.plan["pending"]["match"]["allocation"] == "minilm/allocation/rte/lora_smoe.json"


def test_a_transferred_adapter_keeps_the_allocation_of_its_first_task(suite):
    suite["grid"] = [{"models": ["minilm"], "tasks": ["mrpc"], "transfer": [{"from": "mrpc", "to": "rte"}]}]
    runs = {(run.variant.name, run.task): run for run in expand(suite | {"allocation": {"tasks": "own"}}, CONFIG).runs}
    assert runs["lora_smoe", "mrpc-to-rte"].plan["pending"]["allocation"] == "minilm/allocation/mrpc/lora_smoe.json"
    match = runs["lora-match-lora_smoe", "mrpc-to-rte"].plan["pending"]["match"]
    assert match["allocation"] == "minilm/allocation/mrpc/lora_smoe.json"


def test_scores_of_one_model_are_measured_once_each(suite):
    strategies = {"a": {"score": "taylor"}, "b": {}, "c": {"score": "taylor", "percentile": 60}}
    assert expand(place(suite, strategies), CONFIG).model_scores("minilm") == ["sum", "taylor"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"allocation": {"strategy": "gredy"}}, "'allocation.strategy' is 'gredy'; did you mean 'greedy'?"),
        ({"allocation": {"bugdet": None}}, "unknown key 'bugdet' in 'allocation'; did you mean 'budget'?"),
        (
            {"allocation": {"strategy": "greedy"}},
            "allocation of variant 'lora_smoe': strategy 'greedy' spends a budget and has none",
        ),
        (
            {"allocation": {"strategy": "greedy", "budget": {"experts": 2, "parameters": 9}}},
            "a budget has one unit, found ['experts', 'parameters']",
        ),
        ({"allocation": {"budget": {"experts": 3}}}, "take 'smoe_budget'"),
        ({"allocation_by_variant": {"lora": {}}}, "'allocation_by_variant' names 'lora', whose method 'lora' takes no"),
        (
            {"allocation_by_variant": {"lora_smo": {}}},
            "unknown variant 'lora_smo' in 'allocation_by_variant'; did you mean 'lora_smoe'?",
        ),
        ({"placements": {"lora": {"strategies": {"a": {}}}}}, "'placements' names 'lora', whose method"),
        (
            {"placements": {"lora_smoe": {"strategies": {"a": {}}}}, "match": ["lora_smoe-b"]},
            "'lora_smoe-b' in 'match'",
        ),
        (
            {"placements": {"lora_smoe": {"strategies": {"greedy": {"strategy": "greedy"}}}}},
            "allocation of variant 'lora_smoe-greedy': strategy 'greedy' spends a budget and has none",
        ),
    ],
)
def test_allocations_that_cannot_be_meant_are_refused_before_the_graph(suite, changes, said):
    found = message(suite | changes)
    assert found.startswith("my-suite.yaml: ") and said in found


def test_a_placement_may_not_take_the_name_of_another_variant(suite, tmp_path):
    shutil.copytree(CONFIG, tmp_path / "workflow" / "config")
    shutil.copytree(CONFIG.parent / "schemas", tmp_path / "workflow" / "schemas")
    page = tmp_path / "workflow" / "config" / "methods" / "lora_smoe.yaml"
    page.write_text(page.read_text().replace("variants:\n", "variants:\n  lora_smoe-x: {r: 4}\n", 1))
    suite["variants"] = ["lora_smoe", "lora_smoe-x"]
    with pytest.raises(ConfigError, match="makes a variant 'lora_smoe-x', a name that is taken"):
        expand(place(suite, {"x": {}}), tmp_path / "workflow" / "config")


@pytest.mark.parametrize("name", ["expert-placement", "expert-placement-multitask"])
def test_placement_suites_give_every_strategy_every_budget_with_equal_parameters(name):
    expansion = expand(CONFIG / "suites" / f"{name}.yaml", CONFIG)
    placed = [variant for variant in expansion.variants if variant.placement]
    strategies = {variant.allocation["strategy"] for variant in placed}
    assert strategies == {
        "smoe_percentile", "smoe_budget", "proportional", "greedy", "mola", "uniform", "reverse", "random",
    }  # fmt: skip
    by_strategy = {}
    for variant in placed:
        by_strategy.setdefault(variant.placement["strategy"], []).append(variant.allocation["budget"])
    assert by_strategy.pop("percentile") == [None]
    assert all(budgets == [{"uniform": 1}, {"uniform": 2}, {"uniform": 4}] for budgets in by_strategy.values())
    assert all(run.seed in (0, 1, 2) for run in expansion.runs)
    assert {v.settings["r"] for v in placed} == {8}
