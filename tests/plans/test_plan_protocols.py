"""Protocols and training data in plans."""

import copy
import hashlib

import pytest
from plan_cases import CONFIG, edit, message

from moelora.config import ConfigDir
from moelora.plans import expand, plan_hash
from moelora.tasks.protocols import POSED

COMMONSENSE = [
    "arc_easy", "arc_challenge", "boolq", "openbookqa", "piqa", "siqa", "hellaswag", "winogrande",
    "winogrande_debiased",
]  # fmt: skip
HUB = {  # as lm-eval names them
    "arc_easy": ("arc_easy", "allenai/ai2_arc", "ARC-Easy"),
    "arc_challenge": ("arc_challenge", "allenai/ai2_arc", "ARC-Challenge"),
    "boolq": ("boolq", "aps/super_glue", "boolq"),
    "openbookqa": ("openbookqa", "allenai/openbookqa", "main"),
    "piqa": ("piqa", "baber/piqa", None),
    "siqa": ("social_iqa", "lighteval/siqa", None),
    "hellaswag": ("hellaswag", "Rowan/hellaswag", None),
    "winogrande": ("winogrande", "allenai/winogrande", "winogrande_xl"),
    "winogrande_debiased": ("winogrande", "allenai/winogrande", "winogrande_debiased"),
}
MIXLORA_MIXTURE = ["arc_easy", "arc_challenge", "boolq", "openbookqa", "piqa"]


@pytest.fixture
def stories():
    return {
        "name": "s", "title": "S", "variants": ["lora"], "regimes": {"published": {"seeds": [0]}},
        "grid": [{"models": ["stories260k"], "tasks": ["arc_easy"], "mixtures": {"five": MIXLORA_MIXTURE}}],
    }  # fmt: skip


def plans(suite, config_dir=CONFIG):
    return {(run.task, run.regime): run.plan for run in expand(suite, config_dir).runs}


# These suites have published runs: what is new to a suite must leave the plans of those that do not use it as they are.
# Of each: runs, and the first digits of the SHA-256 over folders and plan hashes.
STORED = {
    "stories": (12, "39bfa172377590bc"),
    "glue-minilm": (190, "21089be46d1aa198"),
    "family": (47, "522a022946cc3abe"),
}


@pytest.mark.parametrize("name", STORED)
def test_plans_of_suites_that_were_run_do_not_move(name):
    runs = sorted(expand(CONFIG / "suites" / f"{name}.yaml", CONFIG).planned, key=lambda run: run.folder)
    lines = "\n".join(f"{run.folder} {plan_hash(run.plan)}" for run in runs)
    assert (len(runs), hashlib.sha256(lines.encode()).hexdigest()[:16]) == STORED[name]


def test_saying_the_default_protocol_changes_no_plan(stories):
    before = plans(stories)
    stories["evaluation"] = {"protocol": "lm-eval"}
    assert plans(stories) == before
    document = before["arc_easy", "published"]["tasks"][0]
    assert document["source"] == {"lm_eval": "arc_easy"} and document["protocol"] == "lm-eval"
    assert not {"hub", "prompts"} & set(document)


@pytest.mark.parametrize("protocol", POSED)
def test_a_protocol_reaches_every_task_of_a_plan(stories, protocol):
    stories["evaluation"] = {"protocol": protocol}
    metric = "acc_" + protocol.replace("-", "_")
    found = plans(stories)
    for plan in found.values():
        assert "protocol" not in plan["evaluation"]  # it is said once
        for document in plan["tasks"]:
            assert document["protocol"] == protocol
            assert document["metrics"] == [metric] and document["main_metric"] == metric
    five = found["five", "published"]["tasks"]
    assert [document["name"] for document in five] == MIXLORA_MIXTURE
    assert five[0]["source"] == {"hub": "allenai/ai2_arc", "config": "ARC-Easy", "revision": None}
    assert five[0]["splits"] == {"train": "train", "evaluation": "test"} and five[0]["prompts"] == "arc"


def test_a_regime_may_have_a_protocol_of_its_own(stories):
    stories["evaluation"] = {"protocol": "generate-regex"}
    stories["regimes"] = {
        "generated": {"seeds": [0]},
        "ranked": {"seeds": [0], "evaluation": {"protocol": "label-logits"}},
        "likelihood": {"seeds": [0], "evaluation": {"protocol": "lm-eval"}},
    }
    found = {
        regime: plan["tasks"][0]["protocol"] for (task, regime), plan in plans(stories).items() if task == "arc_easy"
    }
    assert found == {"generated": "generate-regex", "ranked": "label-logits", "likelihood": "lm-eval"}


def test_a_task_without_prompts_is_refused(stories):
    stories["grid"] = [{"models": ["tiny-decoder"], "tasks": ["tiny-colour"]}]
    stories["evaluation"] = {"protocol": "label-logits"}
    assert "task 'tiny-colour' has no prompts for the protocol 'label-logits'" in message(stories)
    stories["evaluation"] = {"protocol": "label-logit"}
    assert "'evaluation.protocol'" in message(stories) and "label-logits" in message(stories)


def test_tasks_with_a_head_have_their_protocol_already(suite):
    before = {run.folder: run.plan for run in expand(suite, CONFIG).runs}
    suite["evaluation"] = {**suite.get("evaluation", {}), "protocol": "label-logits"}
    assert {run.folder: run.plan for run in expand(suite, CONFIG).runs} == before


def test_automatic_batch_size_is_a_setting(stories):
    stories["evaluation"] = {"batch_size": "auto"}
    assert plans(stories)["arc_easy", "published"]["evaluation"]["batch_size"] == "auto"
    stories["evaluation"] = {"batch_size": "large"}
    assert "'evaluation.batch_size': 'large' does not match '^auto$'" in message(stories)


@pytest.mark.parametrize("name", COMMONSENSE)
def test_commonsense_tasks_name_what_lm_eval_reads(name):

    from lm_eval.tasks import TaskManager

    from moelora.tasks.choice import shipped_folder

    document = ConfigDir(CONFIG).load("task", name)
    their_name, hub, config = HUB[name]
    assert document["source"]["lm_eval"] == their_name
    assert document["hub"] == {"id": hub, "config": config, "revision": None}
    folder = shipped_folder(their_name)
    entry = TaskManager(include_path=str(folder), include_defaults=False).task_index[their_name]
    assert entry.cfg["dataset_path"] == hub
    evaluated = "test" if entry.cfg.get("test_split") else "validation"
    assert document["splits"] == {"train": "train", "evaluation": evaluated}
    metrics = [metric["metric"] for metric in entry.cfg["metric_list"]]
    assert document["metrics"] == metrics
    assert entry.cfg["dataset_name"] == document["source"].get("config", config) or name == "winogrande_debiased"


def test_a_pinned_revision_pins_every_protocol(stories, config_dir):
    pinned = "0123456789abcdef0123456789abcdef01234567"
    hub = {"id": "allenai/ai2_arc", "config": "ARC-Easy", "revision": pinned}
    edit(config_dir / "tasks" / "arc_easy.yaml", hub=hub)
    for protocol in ("lm-eval", "label-logits"):
        stories["evaluation"] = {"protocol": protocol}
        assert plans(stories, config_dir)["arc_easy", "published"]["tasks"][0]["source"]["revision"] == pinned


def test_another_configuration_is_asked_of_lm_eval():
    from moelora.tasks.choice import lm_eval_request
    from moelora.tasks.protocols import put_under

    document = put_under(ConfigDir(CONFIG).load("task", "winogrande_debiased"), "lm-eval")
    assert lm_eval_request(document) == {
        "group": "moelora_winogrande_debiased",
        "task": [{"task": "winogrande", "dataset_name": "winogrande_debiased"}],
    }
    assert lm_eval_request(put_under(ConfigDir(CONFIG).load("task", "winogrande"), "lm-eval")) == "winogrande"


def test_glue_is_whole():
    config = ConfigDir(CONFIG)
    fields = {
        "cola": ["sentence"], "sst2": ["sentence"], "mrpc": ["sentence1", "sentence2"],
        "rte": ["sentence1", "sentence2"], "stsb": ["sentence1", "sentence2"], "wnli": ["sentence1", "sentence2"],
        "qnli": ["question", "sentence"], "qqp": ["question1", "question2"], "mnli": ["premise", "hypothesis"],
        "mnli_mismatched": ["premise", "hypothesis"],
    }  # fmt: skip
    for name, columns in fields.items():
        document = config.load("task", name)
        assert document["fields"] == columns and document["source"]["hub"] == "nyu-mll/glue"
        assert document["source"]["revision"] is None
    assert len(config.load("task", "mnli")["labels"]) == 3
    assert config.load("task", "mnli")["splits"]["evaluation"] == "validation_matched"
    assert config.load("task", "mnli_mismatched")["splits"]["evaluation"] == "validation_mismatched"


def test_one_adapter_is_scored_on_both_sets_of_mnli(suite):
    cell = {"models": ["minilm"], "tasks": ["mnli"], "transfer": [{"from": "mnli", "to": "mnli_mismatched"}]}
    suite |= {"grid": [cell], "variants": ["lora"], "match": [], "regimes": {"published": {"seeds": [0]}}}
    found = {run.task: run for run in expand(suite, CONFIG).runs}
    second = found["mnli-to-mnli_mismatched"]
    assert second.parent == found["mnli"].folder and not second.plan["pending"]["parent"]["continue"]
    assert second.plan["tasks"][0]["splits"]["evaluation"] == "validation_mismatched"


def test_a_recipe_is_written_out_in_the_plan(stories):
    stories["training"] = {"data": {"recipe": "commonsense-15k", "seed": 3}}
    data = plans(stories)["five", "published"]["training"]["data"]
    assert (data["recipe"], data["rows"], data["seed"], data["version"]) == ("commonsense-15k", 15_000, 3, 1)
    assert [part["task"] for part in data["parts"]] == [
        "boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa",
    ]  # fmt: skip
    assert data["parts"][4] == {
        "task": "winogrande", "hub": "allenai/winogrande", "config": "winogrande_xl", "revision": None,
        "split": "train", "prompts": "winogrande",
    }  # fmt: skip
    stories["training"] = {"data": {"recipe": "commonsense-170k"}}
    large = plans(stories)["five", "published"]["training"]["data"]
    assert "rows" not in large and len(large["parts"]) == 13
    assert [part["config"] for part in large["parts"] if part["task"] == "winogrande"] == [
        f"winogrande_{size}" for size in ("xs", "s", "m", "l", "xl", "debiased")
    ]


def test_training_data_may_differ_by_mixture(stories):
    stories["regimes"]["published"]["training_by_task"] = {"five": {"data": {"hub": "local/commonsense-mix-15k"}}}
    found = plans(stories)
    assert "data" not in found["arc_easy", "published"]["training"]
    assert found["five", "published"]["training"]["data"] == {"hub": "local/commonsense-mix-15k", "split": "train"}


def test_training_data_that_cannot_be_meant_are_refused(stories, suite):
    stories["training"] = {"data": {"file": "commonsense_15k.json"}}
    assert "key 'sha256' is missing in 'training.data'" in message(stories)
    stories["training"] = {"data": {"recipe": "commonsense-16k"}}
    assert "'training.data.recipe'" in message(stories) and "commonsense-15k" in message(stories)
    suite = copy.deepcopy(suite)
    suite["training"] = {**suite["training"], "data": {"recipe": "commonsense-15k"}}
    assert "'training.data' holds instructions for decoders" in message(suite)
