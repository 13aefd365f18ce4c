"""How mixtures are sampled and what is measured of forgetting, as plans say it; and what is refused."""

import copy

import pytest
from plan_cases import CONFIG, message

from moelora.config import load_yaml
from moelora.plans import expand, plan_hash

MIXTURE = "glue-mixture"


@pytest.fixture
def mixed(suite):
    suite["grid"][0]["mixtures"] = {MIXTURE: ["mrpc", "rte", "stsb"]}
    return suite


@pytest.fixture
def tiny():
    return load_yaml(CONFIG / "suites" / "tiny.yaml")


def hashes(suite):
    return {run.folder: plan_hash(run.plan) for run in expand(suite, CONFIG).runs}


def set_sampling(suite, value):
    return copy.deepcopy(suite) | {"training": {**suite["training"], "sampling": value}}


def test_the_default_leaves_every_plan_as_it_is(mixed):
    before = {run.folder: run.plan for run in expand(mixed, CONFIG).runs}
    for default in ("proportional", {"temperature": 1}, {"temperature": 1.0}):
        assert {run.folder: run.plan for run in expand(set_sampling(mixed, default), CONFIG).runs} == before
    assert not any("sampling" in plan["training"] or "forgetting" in plan for plan in before.values())


def test_no_suite_of_the_tree_gets_another_identity_from_these_keys():
    for path in sorted((CONFIG / "suites").glob("*.yaml")):
        for run in expand(path, CONFIG).runs:
            assert "sampling" not in run.plan["training"]
            plain = {key: value for key, value in run.plan.items() if key not in ("forgetting", "diagnostics")}
            assert plan_hash(run.plan) == plan_hash(plain)


@pytest.mark.parametrize("sampling", ["equal", {"temperature": 2.5}])
def test_sampling_is_in_the_plans_of_mixtures_alone_and_the_same_for_every_variant(mixed, sampling):
    before = hashes(mixed)
    expansion = expand(set_sampling(mixed, sampling), CONFIG)
    for run in expansion.runs:
        assert run.plan["training"].get("sampling") == (sampling if run.task == MIXTURE else None)
        assert (plan_hash(run.plan) == before[run.folder]) == (run.task != MIXTURE)


def test_two_mixtures_of_one_suite_may_differ(mixed):
    mixed["grid"][0]["mixtures"]["glue-equal"] = ["mrpc", "rte", "stsb"]
    for regime in mixed["regimes"].values():
        regime["training_by_task"] = {"glue-equal": {"sampling": "equal"}}
    found = {run.task: run.plan["training"].get("sampling") for run in expand(mixed, CONFIG).runs}
    assert found["glue-equal"] == "equal" and found[MIXTURE] is None


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ("eqal", "'training.sampling' is 'eqal'; did you mean 'equal'?"),
        ({"temperature": 0}, "'training.sampling.temperature': 0 is less than or equal to the minimum of 0"),
        ({"temperature": -2}, "'training.sampling.temperature': -2 is less than or equal to the minimum of 0"),
        ({"temprature": 2}, "unknown key 'temprature' in 'training.sampling'; did you mean 'temperature'?"),
        (2, "'training.sampling' must be proportional, equal or {temperature: a number above 0}, found 2"),
    ],
)
def test_nonsense_is_refused(mixed, sampling, said):
    assert message(set_sampling(mixed, sampling)) == f"my-suite.yaml: {said}"


def test_sampling_without_a_mixture_is_refused(suite, mixed):
    del suite["grid"][0]["mixtures"]
    assert "'training.sampling' has nothing to mix" in message(set_sampling(suite, "equal"))
    suite["regimes"]["tuned"]["training_by_task"] = {"mrpc": {"sampling": "equal"}}
    assert "'regimes.tuned.training_by_task.mrpc.sampling' has nothing to mix" in message(suite)


def test_a_variant_gets_no_data_of_its_own(mixed):
    mixed["training_by_variant"] = {"lora": {"sampling": "equal"}}
    assert "'training_by_variant.lora.sampling' would show a variant other data" in message(mixed)


def test_forgetting_is_no_part_of_a_plans_identity(tiny):
    asked = {"text": {"builtin": "corpus"}, "probes": {"tasks": "others", "examples": 32, "items": 32}}
    found = [hashes({**tiny, "forgetting": value}) for value in (None, asked)]
    assert found[0] == found[1]


def test_decoders_read_text_and_encoders_are_probed_for_what_they_were_not_trained_on(tiny):
    asked = {"text": {"builtin": "corpus", "limit": 9}, "probes": {"examples": 32}}
    suite = {**tiny, "forgetting": asked}
    probed, trained = 0, {"majority", "base"}
    for run in expand(suite, CONFIG).runs:
        found = run.plan.get("forgetting")
        if run.variant.name == "majority" or (run.variant.name == "base" and run.model == "tiny-decoder"):
            assert found is None  # nothing is trained
        elif run.model == "tiny-decoder":
            assert found == {"text": {"builtin": "corpus", "limit": 9}}
        elif run.task == "tiny-encoder-mixture":
            assert found is None  # it is trained on every task that there is
        else:
            names = [task["name"] for task in found["probes"]["tasks"]]
            assert len(names) == 5 and run.task not in names and names == sorted(names)
            assert (found["probes"]["examples"], found["probes"]["items"]) == (32, 512)
            probed += 1
            trained.add(run.variant.name)
    assert probed == 6 * (len(trained) - 1)


def test_named_probes_are_never_of_a_runs_own_tasks(mixed):
    mixed["grid"][0]["transfer"] = [{"from": "sst2", "to": "mrpc"}]
    mixed["forgetting"] = {"probes": {"tasks": ["sst2", "cola", "mrpc"]}}
    found = {}
    for run in expand(mixed, CONFIG).runs:
        if run.variant.name == "lora":
            found[run.task] = [task["name"] for task in run.plan["forgetting"]["probes"]["tasks"]]
    assert found["mrpc"] == ["sst2", "cola"] and found["rte"] == ["sst2", "cola", "mrpc"]
    assert found[MIXTURE] == ["sst2", "cola"] and found["sst2-to-mrpc"] == ["cola"]


def test_text_of_the_hub_is_filled_in():
    suite = load_yaml(CONFIG / "suites" / "stories.yaml")
    suite["forgetting"] = {"text": {"hub": "Salesforce/wikitext", "config": "wikitext-2-raw-v1"}}
    plans = [run.plan for run in expand(suite, CONFIG).runs if "forgetting" in run.plan]
    assert plans[0]["forgetting"]["text"] == {
        "hub": "Salesforce/wikitext", "config": "wikitext-2-raw-v1", "revision": None, "split": "test", "field": "text",
        "limit": 256,
    }  # fmt: skip
    suite["forgetting"] = {"text": {"builtin": "corpus"}}
    assert "'forgetting.text' is held out of the corpus of the built-in models, but 'stories260k'" in message(suite)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"text": {"builtin": "corpus", "hub": "a/b"}}, "must name either builtin: corpus or the hub id"),
        ({"text": {"limit": 3}}, "must name either builtin: corpus or the hub id"),
        ({"text": {"builtin": "corpus", "split": "test"}}, "'forgetting.text.split' is for data sets of the hub"),
        ({"text": {"builtin": "corpse"}}, "'forgetting.text.builtin': 'corpus' was expected"),
        ({"probes": {"tasks": ["tiny-colour"]}}, "names 'tiny-colour', which is multiple choice"),
        ({"probes": {"tasks": ["tiny-sentimen"]}}, "unknown task 'tiny-sentimen'; did you mean 'tiny-sentiment'?"),
        ({"probes": {"items": 2}}, "'forgetting.probes.items': 2 is less than the minimum of 16"),
        ({"prob": {}}, "unknown key 'prob' in 'forgetting'; did you mean 'probes'?"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny, asked, said):
    assert said in message({**tiny, "forgetting": asked})


def test_a_part_without_a_model_for_it_measures_nothing(mixed):
    mixed["forgetting"] = {"text": {"hub": "a/b"}}
    assert not any("forgetting" in run.plan for run in expand(mixed, CONFIG).runs)
