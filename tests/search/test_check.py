"""Searches that are refused before anything runs, and what a suite's search expands to."""

import json
from pathlib import Path

import pytest
import yaml

from moelora.config import ConfigDir
from moelora.errors import ConfigError
from moelora.plans import expand, resolve
from moelora.search.storage import NETWORK, check_storage, file_system, refuse_parallel

CONFIG = ConfigDir(Path(__file__).parents[2] / "workflow" / "config")


def suite(**changes) -> dict:
    document = yaml.safe_load("""
name: search-test
title: A search
grid: [{models: [minilm], tasks: [mrpc, rte]}]
variants: [lora, lora_smoe]
regimes:
  tuned: {seeds: [0], tune: {learning_rates: [1.0e-3]}}
  published: {seeds: [0, 1]}
search:
  variant: lora_smoe
  model: minilm
  task: mrpc
  trials: 10
  space:
    rank: {set: settings.r, choices: [2, 4], tied: {settings.alpha: 2}}
    strategy: {set: allocation.strategy, choices: [smoe_percentile, greedy]}
    experts: {set: allocation.budget.experts, integers: [8, 64], when: {strategy: greedy}}
    rate: {set: training.learning_rate, numbers: [1.0e-4, 1.0e-2], log: true}
""")
    document["search"] |= changes
    return document


def test_the_winner_has_runs_of_its_own_that_wait_for_it():
    expansion = expand(suite(), CONFIG, source="suites/search-test.yaml")
    runs = [run for run in expansion.runs if run.variant.name == "lora_smoe-searched"]
    assert [(run.task, run.regime, run.seed) for run in runs] == [("mrpc", "published", 0), ("mrpc", "published", 1)]
    assert runs[0].folder == "minilm/mrpc/lora_smoe-searched@published/seed0"
    assert sorted(runs[0].pending_files) == ["search/allocation.json", "search/winner.json"]
    assert [job.name for job in expansion.jobs if "searched" in job.name] == [
        f"minilm--lora_smoe-searched@published--mrpc--seed{seed}" for seed in (0, 1)
    ]
    document = json.loads(expansion.documents()["search/search.json"])
    assert document["run_seeds"] == [0, 1] and document["allocation"]["strategy"] == "smoe_percentile"
    assert document["search"]["name"] == "lora_smoe-searched" and document["search"]["retries"] == 2
    assert expansion.variants[-1].name == "lora_smoe-searched"


def test_a_suite_without_a_search_is_as_before():
    document = suite()
    del document["search"]
    expansion = expand(document, CONFIG, source="s")
    assert expansion.search is None and "search/search.json" not in expansion.documents()


def test_a_winner_that_is_not_there_is_named(tmp_path):
    from moelora.errors import RecordError

    expansion = expand(suite(), CONFIG, source="s")
    run = next(run for run in expansion.runs if run.variant.name == "lora_smoe-searched")
    with pytest.raises(RecordError, match="does not exist"):
        resolve(run.plan, tmp_path)


def space(**changes) -> dict:
    return {"space": {**suite()["search"]["space"], **changes}}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"varient": "lora"}, "unknown key 'varient' in 'search'; did you mean 'variant'?"),
        ({"variant": "lora_smo"}, "'search.variant' names 'lora_smo', which is not among 'variants'; did you mean"),
        ({"model": "minilmm"}, "'search.model' names 'minilmm', which 'grid' does not have for"),
        ({"task": "mrp"}, "'search.task' names 'mrp', which 'grid' does not have for 'lora_smoe'; did you mean"),
        ({"name": "lora"}, "'search.name' is 'lora', the name of a variant"),
        ({"sampler": {"name": "tpee"}}, "'search.sampler.name' is 'tpee'; did you mean 'tpe'?"),
        ({"objectives": ["step_seconds"]}, "'search.objectives' must have 'score'"),
        (
            {"objectives": ["score", "step_seconds"], "pruner": {"name": "median", "every_steps": 5}},
            "'search.pruner' needs a single objective, found score, step_seconds: a trial that falls behind",
        ),
        ({"epochs": 1, "max_steps": 5}, "'search' gives epochs and max_steps"),
        ({"trials": None}, "'search.trials' is null, which only the grid sampler understands"),
        ({"sampler": {"name": "grid"}}, "a grid needs points of 'space.rate'"),
        ({"storage": "mysql://host/db"}, "'search.storage' must be 'journal'"),
        ({"storage": "postgresql://me:secret@host/db"}, "'search.storage' holds a password"),
        (space(x={"set": "settings.ranks", "choices": [1]}), "has no setting 'ranks'"),
        (space(x={"set": "setings.r", "choices": [1]}), "expected a key below settings, training, allocation"),
        (space(x={"set": "training.learning_rat", "choices": [1]}), "there is no key 'learning_rat' in it; did you"),
        (space(x={"set": "training.epochs", "choices": [1]}), "'search.epochs' or 'search.max_steps' is the length"),
        (space(x={"set": "allocation.budgets.experts", "choices": [1]}), "there is no key 'budgets' in it; did you"),
        (space(x={"set": "allocation.score", "choices": ["sum"]}), "measured once, before the trials"),
        (space(rank={"set": "settings.r", "choices": [0]}), "'search.space.rank.choices': 0 is refused"),
        (space(rate={"set": "training.learning_rate", "numbers": [-1.0, 1.0]}), "'search.space.rate.numbers': -1.0 is"),
        (space(x={"set": "allocation.pool", "choices": ["best"]}), "'search.space.x.choices': 'best' is refused"),
        (space(experts={"set": "allocation.decay", "choices": [0.5]}), "allows experts 0.5, strategy greedy, which no"),
        (space(x={"set": "settings.dropout", "number": [0, 1]}), "unknown key 'number' in 'search.space.x'"),
    ],
)  # fmt: skip
def test_a_bad_search_names_file_and_key(changes, message):
    with pytest.raises(ConfigError) as error:
        expand(suite(**changes), CONFIG, source="suites/search-test.yaml")
    assert str(error.value).startswith("suites/search-test.yaml: ") and message in str(error.value)


def test_a_grid_has_as_many_trials_as_points():
    grid = {"sampler": {"name": "grid"}, "trials": 7, **space()}
    grid["space"] = {key: value for key, value in grid["space"].items() if key in ("rank", "strategy", "experts")}
    grid["space"]["experts"] = {**grid["space"]["experts"], "points": 2}
    with pytest.raises(ConfigError, match=r"'search\.trials' is 7, but the grid has 6 points"):
        expand(suite(**grid), CONFIG, source="s")
    assert expand(suite(**{**grid, "trials": None}), CONFIG, source="s").search["search"]["trials"] is None


def test_a_search_needs_a_regime_that_does_not_tune():
    document = suite()
    del document["regimes"]["published"]
    with pytest.raises(ConfigError, match="a regime without 'tune'"):
        expand(document, CONFIG, source="s")


def test_a_decoder_is_searched_unless_it_trains_on_other_data_than_its_tasks():
    document = suite(model="stories260k", task="arc_easy")
    document["grid"] = [{"models": ["stories260k"], "tasks": ["arc_easy"]}]
    assert expand(document, CONFIG, source="s").search["search"]["task"] == "arc_easy"
    instructed = {**document, "training": {"data": {"recipe": "commonsense-15k"}}}
    with pytest.raises(ConfigError, match=r"regime 'tuned' tunes on a part of .* 'training\.data'"):
        expand(instructed, CONFIG, source="s")
    del instructed["regimes"]["tuned"]
    with pytest.raises(ConfigError, match=r"'search' scores its trials on .* 'training\.data'"):
        expand(instructed, CONFIG, source="s")


def test_network_file_systems_are_told_from_local_ones(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"root / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n")
    assert file_system(tmp_path / "study", mounts) == "nfs4"
    assert file_system(tmp_path.parent, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "none") == ""
    assert all(NETWORK.fullmatch(kind) for kind in ("nfs", "nfs4", "cifs", "lustre", "fuse.sshfs"))
    assert not any(NETWORK.fullmatch(kind) for kind in ("ext4", "xfs", "overlay", "tmpfs", ""))


def test_sqlite_is_refused_for_several_workers_only():
    for storage in ("journal", "sqlite:///a.db", "postgresql://me@host:5432/db", "postgresql+psycopg://host/db"):
        check_storage(storage, "s")
    refuse_parallel("journal", "s")
    with pytest.raises(ConfigError, match="network file systems"):
        refuse_parallel("sqlite:///a.db", "s")
