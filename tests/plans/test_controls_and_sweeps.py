"""Controls beside mixtures, variants that a suite makes itself, and what training may vary for decoders."""

import pytest
from plan_cases import CONFIG, message

from moelora.plans import expand
from moelora.plans.controls import CONTROLS, control_name, equal_lora_of


def only(suite, *variants, **changes):
    """Return the suite with few variants on one task."""
    suite["grid"] = [{"models": ["minilm"], "tasks": ["mrpc"]}]
    return suite | {"variants": list(variants), "match": [], "regimes": {"published": {"seeds": [0]}}} | changes


def variants(suite) -> dict:
    return {variant.name: variant for variant in expand(suite, CONFIG).variants}


def test_a_mixture_gets_the_controls_that_are_asked_for_in_one_order(suite):
    found = variants(only(suite, "lora", "mixlora", controls={"mixlora": list(reversed(CONTROLS))}))
    assert list(found) == [
        "lora", "mixlora", "lora-match-mixlora", "lora-active-mixlora", "mixlora-one-expert", "mixlora-frozen-router",
        "mixlora-no-balance",
    ]  # fmt: skip
    usual = dict(found["mixlora"].settings)
    assert found["mixlora-frozen-router"].settings == {**usual, "train_router": False}
    assert found["mixlora-no-balance"].settings == {**usual, "balance_coefficient": 0.0}
    assert found["mixlora-one-expert"].settings == {**usual, "experts": 1, "experts_per_token": 1}
    assert found["mixlora-no-balance"].control == {"of": "mixlora", "kind": "no_balance"}
    assert found["lora-active-mixlora"].method == "lora" and found["lora-active-mixlora"].match is found["mixlora"]
    assert found["mixlora"].control is None


def test_names_of_controls_say_what_they_are():
    for kind in CONTROLS:
        name = control_name(kind, "mixlora-e4")
        assert equal_lora_of(name) == ((kind, "mixlora-e4") if name.startswith("lora-") else None)


@pytest.mark.parametrize("name", ["mixlora", "mixlora-switch", "mola", "mixlora-top1", "lora_smoe"])
def test_sparse_mixtures_have_a_lora_of_equal_active_parameters(suite, name):
    assert f"lora-active-{name}" in variants(only(suite, name, controls={name: ["equal_active"]}))


def test_match_and_controls_together_make_one_control(suite):
    found = variants(only(suite, "mixlora", match=["mixlora"], controls={"mixlora": ["equal_trainable"]}))
    assert list(found) == ["mixlora", "lora-match-mixlora"]


def test_only_the_plan_of_equal_active_parameters_says_what_is_counted(suite):
    runs = expand(only(suite, "mixlora", controls={"mixlora": ["equal_trainable", "equal_active"]}), CONFIG).runs
    match = {run.variant.name: run.plan["pending"].get("match") for run in runs}
    assert match["lora-active-mixlora"]["count"] == "active"
    assert "count" not in match["lora-match-mixlora"], "plans from before there was another count keep their hash"
    assert match["lora-active-mixlora"]["variant"] == "mixlora"


def test_a_changed_form_of_an_allocated_mixture_has_the_mixtures_experts(suite):
    expansion = expand(only(suite, "lora_smoe", controls={"lora_smoe": ["one_expert", "frozen_router"]}), CONFIG)
    files = {run.variant.name: run.plan["pending"]["allocation"] for run in expansion.runs}
    assert set(files) == {"lora_smoe", "lora_smoe-one-expert", "lora_smoe-frozen-router"}
    assert set(files.values()) == {"minilm/allocation/lora_smoe.json"}
    assert [a.variant.name for a in expansion.allocations.values()] == ["lora_smoe"]


def test_a_changed_form_is_trained_as_its_mixture_is(suite):
    rates = {"mixlora": {"learning_rate": 0.5}, "mixlora-no-balance": {"learning_rate": 0.25}}
    controls = {"mixlora": ["equal_trainable", "frozen_router", "no_balance"]}
    runs = expand(only(suite, "mixlora", training_by_variant=rates, controls=controls), CONFIG).runs
    found = {run.variant.name: run.plan["training"]["learning_rate"] for run in runs}
    assert found["mixlora"] == found["mixlora-frozen-router"] == 0.5
    assert found["mixlora-no-balance"] == 0.25
    assert found["lora-match-mixlora"] == 3e-4, "a LoRA of equal size is trained as LoRA is"


@pytest.mark.parametrize(
    ("names", "controls", "expected"),
    [
        (["lora"], {"lora": ["frozen_router"]}, "asks for 'frozen_router', but method 'lora' is no mixture"),
        (["hydralora"], {"hydralora": ["no_balance"]}, "but method 'hydralora' has no balance loss; remove it"),
        (
            ["dense_moe_lora-unbalanced"],
            {"dense_moe_lora-unbalanced": ["no_balance"]},
            "'dense_moe_lora-unbalanced' has its balance loss off already, so both would be the same run",
        ),
        (["mola-as-coded"], {"mola-as-coded": ["no_balance"]}, "has its balance loss off already"),
        (["mixlora"], {"mixlroa": ["no_balance"]}, "unknown method or variant 'mixlroa' in 'controls'; did you mean"),
        (["lora"], {"mixlora": ["no_balance"]}, "'controls' names 'mixlora', which is not among 'variants'; add it"),
        (["mixlora"], {"mixlora": ["frozen"]}, "'controls.mixlora.0' is 'frozen'; did you mean 'frozen_router'?"),
        (["mixlora"], {"mixlora": []}, "'controls.mixlora'"),
        (
            ["dense_moe_lora"],
            {"dense_moe_lora": ["equal_trainable", "equal_active"]},
            "any token may use all that 'dense_moe_lora' trains, so it would be the LoRA of 'equal_trainable'",
        ),
    ],
)
def test_controls_that_cannot_be_meant(suite, names, controls, expected):
    assert expected in message(only(suite, *names, controls=controls))


def test_a_control_of_a_control_is_refused(suite):
    sweeps = [{"variant": "mixlora", "axes": {"router": {"still": {"train_router": False}, "single": {
        "experts": 1, "experts_per_token": 1}}}}]  # fmt: skip
    frozen = only(suite, "mixlora", sweeps=sweeps, controls={"mixlora-still": ["frozen_router"]})
    assert "has a frozen router already" in message(frozen)
    assert "has one expert and no router already" in message(
        frozen | {"controls": {"mixlora-single": ["frozen_router"]}}
    )


def balance_sweep():
    return {
        "variant": "mixlora",
        "axes": {
            "form": {"slots": {}, "cv": {"balance_loss": "cv_squared"}},
            "coefficient": {"low": {"balance_coefficient": 1e-4}, "high": {"balance_coefficient": 1e-1}},
        },
    }


def test_a_sweep_makes_a_variant_for_each_combination_of_levels(suite):
    suite = only(suite, "lora", "mixlora", "dora", sweeps=[balance_sweep()], controls={"mixlora": ["no_balance"]})
    suite["training_by_variant"] = {"mixlora": {"learning_rate": 0.5}, "mixlora-cv-low": {"learning_rate": 0.25}}
    expansion = expand(suite, CONFIG)
    found = {variant.name: variant for variant in expansion.variants}
    assert [name for name in found if not name.endswith("no-balance")] == [
        "lora", "mixlora-slots-low", "mixlora-slots-high", "mixlora-cv-low", "mixlora-cv-high", "dora",
    ]  # fmt: skip
    one = found["mixlora-cv-high"]
    assert (one.settings["balance_loss"], one.settings["balance_coefficient"]) == ("cv_squared", 0.1)
    assert "balance_loss" not in found["mixlora-slots-low"].settings, "a later setting at its default"
    assert one.sweep == {"variant": "mixlora", "levels": {"form": "cv", "coefficient": "high"}}
    assert found["mixlora-cv-high-no-balance"].control["of"] == "mixlora-cv-high"
    rates = {run.variant.name: run.plan["training"]["learning_rate"] for run in expansion.runs}
    assert rates["mixlora-cv-high"] == 0.5 and rates["mixlora-cv-low"] == rates["mixlora-cv-low-no-balance"] == 0.25
    documented = {v["name"]: v for v in expansion.suite_document()["expanded"]["variants"]}
    assert documented["mixlora-cv-low"]["sweep"]["levels"]["form"] == "cv"
    assert documented["mixlora-cv-low-no-balance"]["control"]["kind"] == "no_balance"


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ({"variant": "dora", "axes": {"a": {"b": {}}}}, "'sweeps.0.variant' is 'dora', which is not among 'variants'"),
        (
            {"variant": "mixlora", "axes": {"a": {"x": {"expert": 2}}}},
            "variant 'mixlora-x': method 'mixlora' has no setting 'expert'; did you mean 'experts'?",
        ),
        (
            {"variant": "mixlora", "axes": {"a": {"x": {"r": 2}}, "b": {"y": {"r": 4}}}},
            "the axes 'a' and 'b' of a sweep of 'mixlora' both change 'r'; a setting belongs to one axis",
        ),
        ({"variant": "mixlora", "axes": {"a": {"top1": {}}}}, "makes the variant 'mixlora-top1', a name that is taken"),
        ({"variant": "mixlora", "axis": {}}, "unknown key 'axis' in 'sweeps.0'; did you mean 'axes'?"),
    ],
)
def test_sweeps_that_cannot_be_meant(suite, sweep, expected):
    assert expected in message(only(suite, "lora", "mixlora", sweeps=[sweep]))


def test_another_prompt_in_training_is_for_decoders_that_lm_eval_scores(suite):
    assert "'prompt' in the training of regime" in message(only(suite, "lora", training={"prompt": "Q: {prompt}"}))
    assert "'training.prompt'" in message(only(suite, "lora", training={"prompt": "without a place"}))
    decoder = only(suite, "lora", training={"loss_on": "all_tokens", "prompt": "Q: {prompt}"})
    decoder["grid"] = [{"models": ["stories260k"], "tasks": ["piqa"]}]
    training = expand(decoder, CONFIG).runs[0].plan["training"]
    assert (training["loss_on"], training["prompt"]) == ("all_tokens", "Q: {prompt}")
    posed = {**decoder, "evaluation": {"protocol": "label-logits"}}
    assert "whose own training text it would change" in message(posed)
    del decoder["training"]
    assert not {"loss_on", "prompt"} & set(expand(decoder, CONFIG).runs[0].plan["training"])
