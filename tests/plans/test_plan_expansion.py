"""What a suite expands to."""

import copy
import json

from plan_cases import CONFIG, edit, message

from moelora.config import ConfigDir, load_yaml
from moelora.plans import expand, plan_hash


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
        *(
            (model, "tuned", task, 3, 16)
            for model in ("bert-base-uncased", "roberta-base")
            for task in ("sst2", "mrpc")
        ),
    }
    tuned = {r.variant.name for r in runs if r.regime == "tuned"}
    assert tuned == {"lora", "dense_moe_lora", "lora-match-dense_moe_lora"}
    assert all(("learning_rate" in r.plan["pending"]) == (r.regime == "tuned") for r in runs if not r.transfer)
    notebook = next(r.plan["training"] for r in runs if r.regime == "notebook")
    assert (notebook["scheduler"], notebook["warmup_steps"], notebook["weight_decay"]) == ("cosine", 500, 0.0)
    assert {r.task for r in runs if r.transfer} == {"sst2-to-mrpc"}


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
            keys |= set(definition.get("properties", ()))
        assert keys - commented - {"title", "description"} == set(), kind
