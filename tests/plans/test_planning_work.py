"""How much is done to plan many runs, counted: what does not depend on a seed is not done for each."""

from collections import Counter

import pytest
from plan_cases import CONFIG

from moelora import config
from moelora.files import pretty_json
from moelora.plans import expand, layout, printing

SUITES = sorted(path.stem for path in (CONFIG / "suites").glob("*.yaml"))


def with_seeds(suite, seeds):
    """Return the suite with so many seeds in each regime."""
    regimes = {name: {**rules, "seeds": list(range(seeds))} for name, rules in suite["regimes"].items()}
    return {**suite, "regimes": regimes}


def count_calls(monkeypatch, counts, owner, name):
    """Count the calls of a function of a module."""
    function = getattr(owner, name)

    def counted(*arguments, **keywords):
        counts[name] += 1
        return function(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)


def test_files_are_read_and_checked_once_whatever_the_number_of_runs(suite, monkeypatch):
    found = {}
    for seeds in (2, 40):
        counts = Counter()
        with monkeypatch.context() as patch:
            for name in ("load_yaml", "check", "fill_defaults"):
                count_calls(patch, counts, config, name)
            runs = len(expand(with_seeds(suite, seeds), CONFIG).runs)
        found[runs] = counts
    few, many = found
    assert many > 10 * few
    assert found[few] == found[many]
    assert found[few]["load_yaml"] > 5


def test_what_runs_share_is_printed_once(suite, monkeypatch):
    counts = {}
    for seeds in (2, 40):
        calls = Counter()
        with monkeypatch.context() as patch:
            count_calls(patch, calls, printing, "pretty_json")
            expand(with_seeds(suite, seeds), CONFIG).documents()
        counts[seeds] = calls["pretty_json"]
    assert counts[2] < counts[40] <= counts[2] + 38  # the new seeds themselves


@pytest.mark.parametrize("name", SUITES)
def test_plans_are_printed_as_any_document(name):
    expansion = expand(CONFIG / "suites" / f"{name}.yaml", CONFIG)
    printed = expansion.documents()
    for run in expansion.planned:
        assert printed[run.plan_path] == pretty_json(run.plan)


def test_parts_that_come_and_go_are_not_taken_for_each_other():
    plans = ((str(number), {"a": {"number": number}, "b": [number]}) for number in range(1000))
    for number, (path, text) in enumerate(printing.print_plans(plans)):
        assert (path, text) == (str(number), pretty_json({"a": {"number": number}, "b": [number]}))


def test_every_job_finds_its_parents_without_a_search_through_all(suite, monkeypatch):
    suite["grid"] = [{"models": ["minilm"], "tasks": ["mrpc"], "transfer": [{"from": "mrpc", "to": "rte"}]}]
    suite["variants"], suite["match"] = ["lora"], []
    for carry in ([], ["seed"]):
        expansion = expand({**with_seeds(suite, 30), "jobs": {"carry": carry}}, CONFIG)
        calls = Counter()
        with monkeypatch.context() as patch:
            count_calls(patch, calls, layout, "manifest")
            parents = {job.name: expansion.parent_manifests(job) for job in expansion.jobs}
        transfers = [name for name in parents if "mrpc-to-rte" in name]
        assert transfers and all(parents[name] == [f"jobs/{name.replace('mrpc-to-rte', 'mrpc')}.json"]
                                 for name in transfers)  # fmt: skip
        assert calls["manifest"] <= len(expansion.runs)


def test_a_job_of_a_mixture_counts_twice_and_one_without_training_nothing():
    expansion = expand(CONFIG / "suites" / "tiny.yaml", CONFIG)
    work = {name: expansion.work(job) for name, job in expansion.job_by_name.items()}
    assert work["tiny-decoder--mixlora"] == work["tiny-encoder--lora_smoe"] == 14
    assert work["tiny-decoder--lora"] == work["tiny-decoder--lora-match-mixlora"] == work["tiny-encoder--base"] == 7
    assert work["tiny-decoder--base"] == work["tiny-decoder--majority"] == 0
