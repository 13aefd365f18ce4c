import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml

from moelora.config import ConfigDir, load_yaml
from moelora.errors import ConfigError, RecordError
from moelora.plans import expand, plan_hash, resolve

REPOSITORY = Path(__file__).parents[1]
CONFIG = REPOSITORY / "workflow" / "config"
GRID = Path(__file__).with_name("grid.yaml")


@pytest.fixture
def suite():
    return load_yaml(GRID)


@pytest.fixture
def config_dir(tmp_path):
    """A copy of the configuration that a test may edit."""
    shutil.copytree(CONFIG, tmp_path / "workflow" / "config")
    shutil.copytree(REPOSITORY / "workflow" / "schemas", tmp_path / "workflow" / "schemas")
    return tmp_path / "workflow" / "config"


def edit(path: Path, **changes) -> Path:
    document = yaml.safe_load(path.read_text())
    document.update(changes)
    path.write_text(yaml.safe_dump(document))
    return path


def message(suite, config_dir=CONFIG) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(suite, config_dir, source="my-suite.yaml")
    return str(caught.value)


# Bad input: the message names the file, the key and the nearest valid spelling.


def test_unknown_key_of_a_suite(suite):
    suite["regime"] = suite.pop("regimes")
    assert message(suite) == "my-suite.yaml: unknown key 'regime'; did you mean 'regimes'?"


def test_unknown_nested_key(suite):
    suite["training"]["bath_size"] = 8
    assert message(suite) == "my-suite.yaml: unknown key 'bath_size' in 'training'; did you mean 'batch_size'?"


def test_unknown_key_in_a_cell_of_the_grid(suite):
    suite["grid"][0]["task"] = suite["grid"][0].pop("tasks")
    assert message(suite) == "my-suite.yaml: unknown key 'task' in 'grid.0'; did you mean 'tasks'?"


def test_unknown_key_of_a_file_that_the_suite_names(config_dir, suite):
    edit(config_dir / "tasks" / "mrpc.yaml", main_metrik="accuracy")
    path = config_dir / "tasks" / "mrpc.yaml"
    assert message(suite, config_dir) == f"{path}: unknown key 'main_metrik'; did you mean 'main_metric'?"


def test_unknown_key_of_a_source(config_dir, suite):
    edit(config_dir / "models" / "minilm.yaml", source={"hub": "some/model", "revison": None})
    assert "unknown key 'revison' in 'source'; did you mean 'revision'?" in message(suite, config_dir)


def test_unknown_method(suite):
    suite["variants"][3] = "lorra"
    assert message(suite) == "my-suite.yaml: unknown method or variant 'lorra' in 'variants'; did you mean 'lora'?"


def test_unknown_task(suite):
    suite["grid"][0]["tasks"][0] = "mrcp"
    assert message(suite).startswith("my-suite.yaml: unknown task 'mrcp'; did you mean 'mrpc'? (looked for ")


def test_unknown_model(suite):
    suite["grid"][0]["models"] = ["minilmm"]
    assert message(suite).startswith("my-suite.yaml: unknown model 'minilmm'; did you mean 'minilm'?")


def test_unknown_setting_of_a_variant(config_dir, suite):
    path = edit(config_dir / "methods" / "dora.yaml", variants={"dora": {"alhpa": 8}})
    assert message(suite, config_dir) == (
        f"{path}: variant 'dora': method 'dora' has no setting 'alhpa'; did you mean 'alpha'?"
    )


def test_method_file_without_a_page(config_dir, suite):
    (config_dir / "methods" / "mixlorra.yaml").write_text("method: mixlorra\nvariants: {mixlorra: {}}\n")
    assert "mixlorra.yaml: unknown method 'mixlorra'; did you mean 'mixlora'?" in message(suite, config_dir)


def test_unknown_variant_in_training_by_variant(suite):
    suite["training_by_variant"] = {"ful": {"learning_rate": 1e-4}}
    assert message(suite) == "my-suite.yaml: unknown variant 'ful' in 'training_by_variant'; did you mean 'full'?"


def test_filter_of_a_task_that_the_grid_does_not_have(suite):
    suite["tasks"] = ["mrpc", "colla"]
    assert message(suite) == "my-suite.yaml: 'tasks' names 'colla', which 'grid' does not have; did you mean 'cola'?"


def test_text_where_a_number_is_meant(suite):
    suite["training"]["learning_rate"] = "2e-5"
    assert message(suite) == (
        "my-suite.yaml: 'training.learning_rate' must be number, found '2e-5'; "
        "YAML reads this spelling as text, write it with a point, as in 2.0e-5"
    )


def test_missing_key(suite):
    del suite["variants"]
    assert message(suite) == "my-suite.yaml: key 'variants' is missing; add it"


def test_wrong_word(suite):
    suite["training"]["scheduler"] = "liner"
    assert message(suite) == "my-suite.yaml: 'training.scheduler' is 'liner'; did you mean 'linear'?"


def test_run_length_given_twice(suite):
    suite["training"]["max_steps"] = 10
    assert message(suite) == ("my-suite.yaml: 'training' gives epochs and max_steps; a run has one length, remove one")


def test_task_that_a_model_cannot_be_scored_on(suite):
    suite["grid"][0]["tasks"].append("piqa")
    assert "task 'piqa' (multiple_choice) needs a model with architecture 'decoder', found 'minilm'" in message(suite)


def test_variant_that_cannot_be_attached_to_a_model(suite):
    suite["grid"] = [{"models": ["stories260k"], "tasks": ["piqa"]}]
    suite |= {"variants": ["lora", "dense_moe_lora-as-coded"], "match": []}
    found = message(suite)
    assert found.startswith(
        "my-suite.yaml: variant 'dense_moe_lora-as-coded' can be attached to models of architecture 'encoder' only, "
        "found 'stories260k' (decoder): "
    )
    assert "residual stream bypasses the attention block" in found
    suite["grid"] = [{"models": ["minilm"], "tasks": ["mrpc"]}]
    assert {run.variant.name for run in expand(suite, CONFIG).runs} == {"lora", "dense_moe_lora-as-coded"}


def test_variant_that_does_not_fit_a_models_feed_forward_blocks(suite):
    suite["variants"].append("mixdora")
    assert message(suite).startswith(
        "my-suite.yaml: variant 'mixdora' fits feed-forward blocks of the layout 'gated' or 'two_matrix_block' only, "
        "found 'minilm' (two_matrix); take it out of 'variants'"
    )


def test_mixture_called_like_a_task(suite):
    suite["grid"][0]["mixtures"] = {"rte": ["mrpc", "cola"]}
    assert message(suite) == "my-suite.yaml: mixture 'rte' has the name of a task; choose another"


def test_key_given_twice(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\ntitle: b\nname: c\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: key 'name' stands on line 1 and again on line 3"):
        load_yaml(path)


def test_suite_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"glue-minilmm\.yaml does not exist; did you mean 'glue-minilm'\?"):
        load_yaml(CONFIG / "suites" / "glue-minilmm.yaml")


def test_file_that_is_no_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: [a\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml cannot be read as YAML"):
        load_yaml(path)


def test_file_with_another_name(config_dir, suite):
    edit(config_dir / "models" / "minilm.yaml", name="other")
    assert "its name is 'other', expected 'minilm' as the file is called" in message(suite, config_dir)


# What a suite expands to.


def test_every_suite_in_the_tree_expands():
    for path in sorted((CONFIG / "suites").glob("*.yaml")):
        expansion = expand(path, CONFIG)
        assert expansion.suite["name"] == path.stem
        assert expansion.runs and expansion.jobs


def test_counts_of_a_thousand_runs(suite):
    suite["match"] = []
    suite["variants"] = ["lora", "lora-r16", "dora", "dense_moe_lora", "mixlora"]
    suite["regimes"] = {"published": {"seeds": list(range(40))}}
    suite["jobs"]["carry"] = []
    expansion = expand(suite, CONFIG)
    assert len(expansion.runs) == len(expansion.jobs) == 5 * 5 * 40
    assert len({run.folder for run in expansion.runs}) == 1000
    assert len({plan_hash(run.plan) for run in expansion.runs}) == 1000
    suite["jobs"]["carry"] = ["seed"]
    assert [len(job.runs) for job in expand(suite, CONFIG).jobs] == [40] * 25
    suite["jobs"]["carry"] = ["seed", "task"]
    assert [len(job.runs) for job in expand(suite, CONFIG).jobs] == [200] * 5


def test_methods_without_chance_run_once_and_are_not_tuned(suite):
    expansion = expand(suite, CONFIG)
    majority = [run for run in expansion.runs if run.variant.name == "majority" and run.regime == "tuned"]
    assert {run.seed for run in majority} == {0}
    assert all(not run.plan["pending"] for run in majority)
    lora = [run for run in expansion.runs if run.variant.name == "lora" and run.regime == "tuned"]
    assert {run.seed for run in lora} == {0, 1, 2}
    assert lora[0].plan["pending"]["learning_rate"] == "minilm/mrpc/lora@tuned/tuning.json"
    assert lora[0].plan["training"]["learning_rate"] is None


def test_base_on_a_decoder_is_not_trained_and_runs_once():
    suite = load_yaml(CONFIG / "suites" / "stories.yaml")
    suite["regimes"]["published"]["seeds"] = [0, 1]
    runs = [run for run in expand(suite, CONFIG).runs if run.variant.name == "base"]
    assert {run.seed for run in runs} == {0}


def test_regime_is_in_the_folder_only_where_there_are_several(suite):
    assert any(run.folder == "minilm/mrpc/lora@published/seed0" for run in expand(suite, CONFIG).runs)
    del suite["regimes"]["tuned"]
    assert any(run.folder == "minilm/mrpc/lora/seed0" for run in expand(suite, CONFIG).runs)


def test_plan_states_everything_and_nothing_volatile(suite):
    plan = expand(suite, CONFIG).runs[0].plan
    assert plan["settings"] == {}
    assert plan["training"]["micro_batch_size"] == plan["training"]["batch_size"] == 16
    assert plan["training"]["optimizer"] == "adamw"
    assert plan["evaluation"] == {"batch_size": 64, "limit": None}
    text = json.dumps(plan)
    assert not any(word in text for word in ("threads", "card_share", "separate_job", '"results"', '"carry"'))


def test_order_of_training_layers(suite):
    suite["training"]["learning_rate"] = 1.0
    suite["training_by_variant"] = {"full": {"learning_rate": 3.0}}
    rates = {
        run.variant.name: run.plan["training"]["learning_rate"]
        for run in expand(suite, CONFIG).runs
        if run.regime == "published"
    }
    assert rates["lora"] == 2e-5  # the regime says so
    assert rates["full"] == 3.0  # the variant's own settings win


def test_max_steps_of_a_later_layer_replaces_epochs(suite):
    suite["regimes"]["published"]["training"]["max_steps"] = 7
    training = next(r for r in expand(suite, CONFIG).runs if r.regime == "published").plan["training"]
    assert (training["max_steps"], training["epochs"]) == (7, None)


def test_hash_does_not_depend_on_key_order_and_moves_with_content(suite):
    plan = dict(expand(suite, CONFIG).runs[0].plan)
    assert plan_hash(plan) == plan_hash(dict(reversed(plan.items())))
    changed = copy.deepcopy(plan)
    changed["seed"] = 1
    assert plan_hash(plan) != plan_hash(changed)
    assert len(plan_hash(plan)) == 16


def test_hash_of_a_known_document_is_stable():
    # SHA-256 of '{"a":[1,2.5,null],"b":"é"}', computed with sha256sum.
    assert plan_hash({"b": "é", "a": [1, 2.5, None]}) == "41a039b5a690a0e4"


def test_adding_a_seed_leaves_other_plans_as_they_are(suite):
    before = {run.folder: plan_hash(run.plan) for run in expand(suite, CONFIG).runs}
    suite["regimes"]["tuned"]["seeds"] = [0, 1, 2, 3]
    after = {run.folder: plan_hash(run.plan) for run in expand(suite, CONFIG).runs}
    assert before.items() < after.items()
    assert {folder.rsplit("/", 1)[1] for folder in after.keys() - before.keys()} == {"seed3"}


def test_filter_leaves_plans_as_they_are(suite):
    before = {run.folder: plan_hash(run.plan) for run in expand(suite, CONFIG).runs}
    suite["tasks"] = ["mrpc"]
    expansion = expand(suite, CONFIG)
    after = {run.folder: plan_hash(run.plan) for run in expansion.runs}
    assert after.items() < before.items()
    assert {folder.split("/")[1] for folder in after} == {"mrpc"}
    # An allocation still counts the votes of every task of the grid.
    assert expansion.model_tasks("minilm") == ["cola", "mrpc", "rte", "sst2", "stsb"]
    assert expansion.sensitivity_run("minilm", "rte").task == "rte"


def test_matched_lora(suite):
    run = next(r for r in expand(suite, CONFIG).runs if r.variant.name == "lora-match-lora_smoe")
    assert run.plan["method"] == "lora"
    assert run.plan["settings"]["r"] is None
    assert run.plan["settings"]["scaling"] == 2.0
    assert run.plan["pending"]["match"]["allocation"] == "minilm/allocation/lora_smoe.json"
    assert run.plan["pending"]["match"]["settings"]["experts_per_token"] == 2
    dense = next(r for r in expand(suite, CONFIG).runs if r.variant.name == "lora-match-dense_moe_lora")
    assert dense.plan["settings"]["modules"] == "feed_forward"
    assert dense.plan["pending"]["match"]["allocation"] is None


def test_enrolment_adds_variants_and_their_matched_lora(config_dir, suite):
    suite["variants"] = ["lora", "mixlora"]
    suite["match"] = ["mixlora"]
    edit(config_dir / "methods" / "dense_moe_lora.yaml", enrol=["grid"])
    edit(config_dir / "methods" / "dora.yaml", enrol=["grid", "tiny"])
    names = [variant.name for variant in expand(suite, config_dir).variants]
    assert names == ["lora", "mixlora", "lora-match-mixlora", "dense_moe_lora", "lora-match-dense_moe_lora", "dora"]


def test_mixture_is_one_run_on_several_tasks(suite):
    suite["grid"][0]["mixtures"] = {"pairs": ["mrpc", "rte"]}
    run = next(r for r in expand(suite, CONFIG).runs if r.task == "pairs")
    assert [task["name"] for task in run.plan["tasks"]] == ["mrpc", "rte"]
    assert run.folder == "minilm/pairs/majority@published/seed0"


def test_one_mixture_name_for_two_sets_of_tasks_is_refused(suite):
    cell = copy.deepcopy(suite["grid"][0])
    cell["tasks"] = []
    suite["grid"] = [cell | {"mixtures": {"pairs": ["mrpc", "rte"]}}, cell | {"mixtures": {"pairs": ["mrpc", "cola"]}}]
    assert "'pairs' on 'minilm' stands in 'grid' twice with other tasks" in message(suite)


# Transfers, and regimes for some models and tasks.


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


def test_dense_moe_lora_as_its_authors_ran_it():
    runs = expand(CONFIG / "suites" / "dense-moe-lora.yaml", CONFIG).runs
    found = {
        (r.model, r.regime, r.task, r.plan["training"]["epochs"], r.plan["training"]["batch_size"])
        for r in runs
        if not r.transfer
    }
    assert found == {
        ("bert-base-uncased", "readme", "sst2", 3, 16),
        ("bert-base-uncased", "readme", "mrpc", 3, 16),
        ("roberta-base", "notebook", "sst2", 2, 96),
        ("roberta-base", "notebook", "mrpc", 10, 48),
    }
    notebook = next(r.plan["training"] for r in runs if r.regime == "notebook")
    assert (notebook["scheduler"], notebook["warmup_steps"], notebook["weight_decay"]) == ("cosine", 500, 0.0)
    assert {r.task for r in runs if r.transfer} == {"sst2-to-mrpc"}


# Writing and resolving.


def test_writing_compares_content(suite, tmp_path):
    suite["grid"][0]["tasks"] = ["mrpc"]
    expansion = expand(suite, CONFIG)
    assert len(expansion.write(tmp_path)) == len(expansion.runs) + 1
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert expansion.write(tmp_path) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == stamps
    suite["regimes"]["tuned"]["seeds"] = [0, 1, 2, 3]
    written = expand(suite, CONFIG).write(tmp_path)
    assert {Path(path).parent.name for path in written} == {"seed3", ""}  # new plans, and suite.json
    assert not list(tmp_path.rglob("*.tmp"))


def test_truncated_plan_is_written_again(suite, tmp_path):
    expansion = expand(suite, CONFIG)
    expansion.write(tmp_path)
    path = tmp_path / expansion.runs[0].plan_path
    path.write_text(path.read_text()[:40])
    assert expansion.write(tmp_path) == [expansion.runs[0].plan_path]


def test_suite_document_says_the_same_wherever_results_lie(suite):
    here = expand(suite, CONFIG).documents()["suite.json"]
    suite["results"] = "/somewhere/else"
    assert expand(suite, CONFIG).documents()["suite.json"] == here


def test_resolve_fills_what_is_pending(suite, tmp_path):
    runs = {(r.variant.name, r.regime, r.task): r for r in expand(suite, CONFIG).runs if r.seed == 0}
    allocation = tmp_path / "minilm" / "allocation" / "lora_smoe.json"
    allocation.parent.mkdir(parents=True)
    allocation.write_text(json.dumps({"experts": {"encoder.layer.0.attention.self.query": 3}}))
    for name in ("lora_smoe", "lora-match-lora_smoe"):
        tuning = tmp_path / "minilm" / "mrpc" / f"{name}@tuned" / "tuning.json"
        tuning.parent.mkdir(parents=True)
        tuning.write_text(json.dumps({"chosen": 1e-3}))
    plan = runs["lora_smoe", "tuned", "mrpc"].plan
    resolved = resolve(plan, tmp_path)
    assert resolved["pending"] == {}
    assert resolved["allocation"] == {"encoder.layer.0.attention.self.query": 3}
    assert resolved["training"]["learning_rate"] == 1e-3
    assert plan["training"]["learning_rate"] is None  # the plan itself is left as it was
    matched = resolve(runs["lora-match-lora_smoe", "tuned", "mrpc"].plan, tmp_path)
    assert matched["match"]["variant"] == "lora_smoe"
    assert matched["match"]["allocation"] == {"encoder.layer.0.attention.self.query": 3}


@pytest.mark.parametrize("text", ["", '{"experts": {"a": 1', '{"experts": [1]}', '{"counts": {}}'])
def test_resolve_refuses_a_broken_allocation(suite, tmp_path, text):
    run = next(r for r in expand(suite, CONFIG).runs if r.variant.name == "lora_smoe")
    path = tmp_path / "minilm" / "allocation" / "lora_smoe.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(RecordError, match=r"allocation .*lora_smoe\.json"):
        resolve(run.plan, tmp_path)


def test_every_key_is_commented_in_some_file_of_its_kind():
    for kind, folder in (("model", "models"), ("task", "tasks"), ("method", "methods"), ("suite", "suites")):
        commented = set()
        for path in (CONFIG / folder).glob("*.yaml"):
            before = ""
            for line in path.read_text().splitlines():
                key = line.strip().lstrip("# ").split(":")[0]
                if ":" in line and ("#" in line or before.lstrip().startswith("#")):
                    commented.add(key)
                before = line
        schema = ConfigDir(CONFIG).schema(kind)
        keys = set(schema["properties"])
        for definition in schema.get("$defs", {}).values():
            keys |= set(definition["properties"])
        assert keys - commented - {"title", "description"} == set(), kind
