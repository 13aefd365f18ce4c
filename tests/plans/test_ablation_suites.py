"""The ablation suites: each asks something, varies what it says, and can be asked at another scale."""

import json

import pytest
from plan_cases import CONFIG, merged

from moelora.config import load_yaml
from moelora.plans import expand

SUITES = sorted(path.stem for path in (CONFIG / "suites").glob("ablate-*.yaml"))
SCALES = sorted((CONFIG / "scales").glob("*.yaml"))
DECODERS = {"ablate-loss-and-prompt"}
OVERRIDES = {"ablate-magnitude": {"variants": ["majority", "base", "lora", "dora"]}}  # what its file says for encoders


def test_the_subjects_of_the_ablations():
    assert set(SUITES) == {
        f"ablate-{name}"
        for name in (
            "router", "balance", "experts", "placement", "router-site", "learning-rate", "loss-and-prompt",
            "initialisation", "magnitude",
        )
    }  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_asks_its_question_and_no_two_variants_are_the_same(name):
    expansion = expand(CONFIG / "suites" / f"{name}.yaml", CONFIG)
    question = expansion.suite["question"]
    assert set(question) == {"asks", "why", "varies", "holds", "reads", "limits"} and question["asks"].endswith("?")
    assert expansion.suite_document()["question"] == question, "the report reads it from there"
    variants = expansion.variants
    said = [
        json.dumps([v.method, v.settings, v.allocation, v.control and v.match and v.control], sort_keys=True)
        for v in variants
    ]
    assert len(set(said)) == len(said), "two variants would be the same run"
    assert len(variants) > 4
    seeds: dict[str, set[int]] = {}
    for run in expansion.runs:
        seeds.setdefault(run.variant.name, set()).add(run.seed)
    assert all(len(seeds[v.name]) >= 3 for v in variants if v.method not in ("majority", "base"))


@pytest.mark.parametrize("scale", SCALES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", [name for name in SUITES if name not in DECODERS])
def test_a_suite_can_be_asked_at_another_scale(name, scale):
    tiny = load_yaml(CONFIG / "suites" / f"{name}.yaml")
    larger = merged(merged(tiny, load_yaml(scale)), OVERRIDES.get(name, {}) | {"name": f"{name}-{scale.stem}"})
    expansion, before = expand(larger, CONFIG), expand(tiny, CONFIG)
    kept = {v.name for v in before.variants if "mix" not in v.name or name not in OVERRIDES}
    assert {v.name for v in expansion.variants} == kept
    assert {run.model for run in expansion.runs} == set(load_yaml(scale)["grid"][0]["models"])


def test_the_decoder_ablation_moves_to_another_decoder():
    suite = load_yaml(CONFIG / "suites" / "ablate-loss-and-prompt.yaml")
    suite["grid"] = [{"models": ["stories260k"], "tasks": ["piqa"]}]
    runs = expand(suite, CONFIG).runs
    assert {(r.plan["training"].get("loss_on"), "prompt" in r.plan["training"]) for r in runs} == {
        (None, False), ("all_tokens", False), (None, True), ("all_tokens", True),
    }  # fmt: skip


def test_equal_parameters_mean_equal_factors():
    expansion = expand(CONFIG / "suites" / "ablate-experts.yaml", CONFIG)
    swept = [v for v in expansion.variants if v.sweep and not v.control]
    for variant in swept:
        settings = variant.settings
        experts = settings["experts"] if variant.method == "mixlora" else int(settings["shape"])
        rank, alpha = settings.get("expert_r") or settings["r"], settings.get("expert_alpha") or settings["alpha"]
        assert experts * rank == 64 and alpha == 2 * rank, variant.name
