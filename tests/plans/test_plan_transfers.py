"""Transfers, and regimes for some models and tasks."""

from plan_cases import CONFIG, message

from moelora.plans import expand


def with_transfer(suite, *entries):
    suite["grid"][0] |= {"tasks": ["sst2", "mrpc", "stsb"], "transfer": list(entries)}
    return suite


def test_transfer_is_a_run_that_waits_for_another(suite):
    expansion = expand(with_transfer(suite, {"from": "sst2", "to": "mrpc"}), CONFIG)
    label, folder = "lora@tuned", "minilm/sst2-to-mrpc/lora@tuned/seed2"
    run = next(r for r in expansion.runs if r.folder == folder)
    assert run.parent == "minilm/sst2/lora@tuned/seed2" and run.parent in {r.folder for r in expansion.runs}
    assert set(run.plan["pending"]) == {"parent"}  # it is not trained, so no learning rate is tuned for it
    (task,) = run.plan["tasks"]
    assert (run.plan["task"], task["name"], task["data"]) == ("sst2-to-mrpc", "sst2-to-mrpc", "mrpc")
    assert task["title"] == "SST-2 → MRPC" and task["fields"] == ["sentence1", "sentence2"]
    job = next(j for j in expansion.jobs if run in j.runs)
    assert job.name == f"minilm--{label}--sst2-to-mrpc" and {r.seed for r in job.runs} == {0, 1, 2}
    assert expansion.parent_manifests(job) == [f"jobs/minilm--{label}--sst2.json"]
    # it takes no part in what is measured on tasks of the grid
    assert expansion.model_tasks("minilm") == ["mrpc", "sst2", "stsb"]
    assert not any(r.transfer for r in expansion.costs_runs("minilm"))


def test_transfer_never_shares_a_job_with_its_parent(suite):
    suite["jobs"]["carry"] = ["seed", "task"]
    for job in expand(with_transfer(suite, {"from": "sst2", "to": "mrpc"}), CONFIG).jobs:
        folders = {run.folder for run in job.runs}
        assert not folders & {run.parent for run in job.runs}


def test_transfer_that_trains_on(suite):
    suite = with_transfer(suite, {"from": "sst2", "to": "mrpc", "continue": True}, {"from": "sst2", "to": "mrpc"})
    runs = {r.folder: r for r in expand(suite, CONFIG).runs}
    run = runs["minilm/sst2-then-mrpc/lora@tuned/seed0"]
    assert run.plan["pending"]["learning_rate"] == "minilm/mrpc/lora@tuned/tuning.json"
    assert run.plan["pending"]["parent"]["continue"] is True
    assert run.plan["tasks"][0]["title"] == "SST-2, then MRPC"
    assert "minilm/sst2-to-mrpc/lora@tuned/seed0" in runs


def test_transfer_of_what_trains_nothing_is_the_floor_of_its_target(suite):
    runs = expand(with_transfer(suite, {"from": "sst2", "to": "mrpc"}), CONFIG).runs
    run = next(r for r in runs if r.task == "sst2-to-mrpc" and r.variant.name == "majority")
    assert run.plan["pending"] == {} and run.parent is None


def test_transfer_leaves_other_plans_as_they_are(suite):
    before = {r.folder: r.plan for r in expand(with_transfer(suite), CONFIG).runs}
    after = {r.folder: r.plan for r in expand(with_transfer(suite, {"from": "sst2", "to": "mrpc"}), CONFIG).runs}
    assert before.items() <= after.items() and len(after) > len(before)


def test_filter_keeps_the_parents_of_a_transfer(suite):
    suite["tasks"] = ["sst2-to-mrpc"]
    expansion = expand(with_transfer(suite, {"from": "sst2", "to": "mrpc"}), CONFIG)
    assert {run.task for run in expansion.runs} == {"sst2", "sst2-to-mrpc"}
    assert all(expansion.parent_manifests(job) for job in expansion.jobs if any(run.parent for run in job.runs))


def test_transfers_that_cannot_be_meant(suite):
    found = message(with_transfer(suite, {"from": "sst3", "to": "mrpc"}))
    assert found.startswith("my-suite.yaml: 'transfer' is from 'sst3', which is not among the cell's 'tasks'; did you")
    assert "'sst2' (2 labels) cannot be transferred to 'stsb' (grades)" in message(
        with_transfer(suite, {"from": "sst2", "to": "stsb"})
    )
    assert "unknown task 'mrcp'; did you mean 'mrpc'?" in message(with_transfer(suite, {"from": "sst2", "to": "mrcp"}))
    assert "learning rate tuned for 'rte', which is not among" in message(
        with_transfer(suite, {"from": "sst2", "to": "rte", "continue": True})
    )


def test_regime_for_some_models_and_tasks(suite):
    suite["grid"][0] |= {"models": ["minilm", "roberta-base"], "tasks": ["sst2", "mrpc"]}
    suite["regimes"]["published"] |= {"models": ["roberta-base"], "training_by_task": {"mrpc": {"epochs": 10}}}
    runs = [r for r in expand(suite, CONFIG).runs if r.regime == "published"]
    assert {r.model for r in runs} == {"roberta-base"}
    assert {(r.task, r.plan["training"]["epochs"]) for r in runs} == {("sst2", 3), ("mrpc", 10)}
    suite["regimes"]["published"]["training_by_task"] = {"mrcp": {}}
    assert "'regimes.published.training_by_task' names 'mrcp', which 'grid' does not have; did you" in message(suite)
