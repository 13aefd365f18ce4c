"""Filters of a grid, regimes for some variants, quantised forms of models, and switches that only some plans hold."""

import pytest
from plan_cases import CONFIG, message

from moelora.config import ConfigDir
from moelora.errors import ConfigError
from moelora.plans import expand, plan_hash


def decoders(**changes):
    suite = {
        "name": "decoders",
        "title": "Decoders",
        "grid": [{"models": ["stories260k", "tiny-decoder"], "tasks": ["tiny-colour"]}],
        "variants": ["majority", "base", "lora", "mixlora", "lora_smoe"],
        "regimes": {"published": {"seeds": [0, 1]}},
    }
    return suite | changes


def runs_of(suite, config=CONFIG):
    return {(run.model, run.variant.name, run.regime, run.seed): run for run in expand(suite, config).runs}


def test_a_models_filter_takes_models_out_and_changes_no_other_plan():
    whole = runs_of(decoders())
    part = runs_of(decoders(models=["stories260k"]))
    assert {key[0] for key in part} == {"stories260k"}
    assert {key: plan_hash(run.plan) for key, run in part.items()} == {
        key: plan_hash(run.plan) for key, run in whole.items() if key[0] == "stories260k"
    }
    assert "'models' names 'stories', which 'grid' does not have" in message(decoders(models=["stories"]))


def test_a_regime_may_be_for_some_variants():
    regimes = {"plain": {"seeds": [0], "variants": ["majority", "base", "lora"]}, "mixed": {"seeds": [0]}}
    found = {(name, regime) for _, name, regime, _ in runs_of(decoders(regimes=regimes, models=["stories260k"]))}
    assert ("lora", "plain") in found and ("lora", "mixed") in found
    assert ("mixlora", "mixed") in found and ("mixlora", "plain") not in found


def test_controls_and_placements_go_where_their_variant_goes():
    regimes = {
        "few": {"seeds": [0], "variants": ["lora"]},
        "many": {"seeds": [0], "variants": ["mixlora", "lora_smoe"]},
    }
    mola = {"strategy": "mola", "budget": {"experts": 9}}
    suite = decoders(
        regimes=regimes, variants=["lora", "mixlora", "lora_smoe"], match=["mixlora"], models=["stories260k"],
        placements={"lora_smoe": {"strategies": {"all": {"pool": "all"}, "mola": mola}}},
    )  # fmt: skip
    found = {(name, regime) for _, name, regime, _ in runs_of(suite)}
    assert found == {
        ("lora", "few"),
        ("mixlora", "many"),
        ("lora-match-mixlora", "many"),
        ("lora_smoe-all", "many"),
        ("lora_smoe-mola", "many"),
    }


def test_regimes_and_variants_that_miss_each_other_are_refused():
    regimes = {"published": {"seeds": [0], "variants": ["lora", "mixlore"]}}
    assert "unknown variant 'mixlore' in 'regimes.published.variants'; did you mean 'mixlora'" in message(
        decoders(regimes=regimes)
    )
    regimes = {"published": {"seeds": [0], "variants": ["lora"]}}
    assert "no regime has variant 'majority'" in message(decoders(regimes=regimes))


def test_any_model_may_be_named_in_a_quantised_form():
    grid = [{"models": ["stories260k", "stories260k-nf4"], "tasks": ["tiny-colour"]}]
    found = runs_of(decoders(grid=grid))
    plain, quantised = (
        found[name, "lora", "published", 0].plan["model"] for name in ("stories260k", "stories260k-nf4")
    )
    assert quantised == {
        **plain,
        "name": "stories260k-nf4",
        "title": "stories260K (0.26 M), nf4 base",
        "quantisation": "nf4",
    }
    assert "quantisation" not in plain


def test_quantised_forms_that_cannot_be_meant(config_dir):
    config = ConfigDir(config_dir)
    with pytest.raises(ConfigError, match="unknown model 'stories260k-nf5'; did you mean 'stories260k'"):
        config.load("model", "stories260k-nf5")
    with pytest.raises(ConfigError, match="unknown model 'nosuch-int8'"):
        config.load("model", "nosuch-int8")
    path = config_dir / "models" / "stories260k.yaml"
    path.write_text(path.read_text() + "quantisation: nf4\n")
    assert config.load("model", "stories260k")["quantisation"] == "nf4"
    with pytest.raises(ConfigError, match=r"model 'stories260k' is quantised already \(nf4\)"):
        config.load("model", "stories260k-int8")


def test_weights_that_are_trained_cannot_be_quantised():
    grid = [{"models": ["tiny-decoder-nf4"], "tasks": ["tiny-colour"]}]
    wrong = "the base model's own weights, and those of 'tiny-decoder-nf4' are quantised (nf4)"
    assert f"variant 'full' trains {wrong}" in message(decoders(grid=grid, variants=["full"]))
    coded = decoders(grid=grid, variants=["lora_smoe"], allocation={"score": "as_coded"})
    assert f"from sensitivities 'as_coded', which update {wrong}" in message(coded)


def test_facts_about_a_model_are_no_part_of_a_plan():
    expansion = expand(decoders(models=["stories260k"]), CONFIG)
    assert expansion.models["stories260k"]["facts"]["config"]["hidden_size"] == 64
    assert all("facts" not in run.plan["model"] for run in expansion.planned)


def test_a_switch_stands_in_a_plan_only_where_it_is_on():
    def training(**given):
        return runs_of(decoders(training=given))["stories260k", "lora", "published", 0].plan["training"]

    off = {"loss_on": "answers", "end_of_text": False, "checkpointing": False}
    assert training(**off) == training() and not set(off) & set(training())
    on = {"loss_on": "all_tokens_and_padding", "end_of_text": True, "checkpointing": True}
    assert training(**on) == {**training(), **on}


@pytest.mark.parametrize("switch", [{"loss_on": "all_tokens"}, {"end_of_text": True}])
def test_switches_of_a_decoders_loss_are_refused_for_heads(suite, switch):
    suite["regimes"] = {"published": {"seeds": [0], "training": switch}}
    found = message(suite)
    assert f"'{next(iter(switch))}' in the training of regime 'published'" in found and "scored with a head" in found
