"""Paper against measured: what may be compared, and what the comparison says."""

import dataclasses
from pathlib import Path

import pytest

from moelora.claims import Claim, Key, Measured, Recipe, check_counts, judge, load_claims, load_documents
from moelora.claims.verdicts import NOT_COMPARABLE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, missing_for
from moelora.config import ConfigDir

CONFIG = ConfigDir(Path(__file__).parents[2] / "workflow" / "config")
KEY = Key("mrpc", 1, "validation", "accuracy", "glue", "roberta-base")

CLAIM = Claim(
    id="p/t", file="p", document="P", table="T", setup="", kind="score", model="RoBERTa", method="LoRA", task="mrpc",
    metric="accuracy_pct", text="85.0", value=85.0, digits=1, source="x", trainable_percent=None, seeds=1, items=408,
    constant=279, guess=None, key=KEY, recipe=Recipe("lora", {"r": 8}, {"learning_rate": 2e-4}), conditions={},
    suite="dense-moe-lora", shapes=None, nominal=None, founding=False,
)  # fmt: skip


def ours(mean=0.85, low=0.82, high=0.88, **changes):
    values = {
        "key": KEY, "suite": "s", "variant": "lora", "method": "lora", "settings": {"r": 8, "alpha": 16},
        "training": {"learning_rate": 0.0002}, "tuned": False, "mean": mean, "low": low, "high": high, "n_seeds": 3,
        "records": ("a", "b"),
    }  # fmt: skip
    return Measured(**{**values, **changes})


def one(claim, measured):
    (found,) = judge([claim], measured, config=CONFIG)
    return found


def test_the_same_within_chance_is_reproduced():
    found = one(CLAIM, [ours(0.86, 0.83, 0.89)])
    assert found.verdict == REPRODUCED
    assert found.difference == pytest.approx(1.0)
    # our half interval of 3 points, 1.96 binomial errors of 85 % on 408 items, and half a printed step
    assert found.slack == pytest.approx((3.0**2 + (1.96 * 1.7677) ** 2) ** 0.5 + 0.05, abs=0.01)


def test_beyond_chance_it_is_not():
    found = one(CLAIM, [ours(0.70, 0.68, 0.72)])
    assert (found.verdict, round(found.difference, 1)) == (NOT_REPRODUCED, -15.0)
    assert "one seed" not in found.reason
    assert "one seed" in one(CLAIM, [ours(0.70, 0.68, 0.72, n_seeds=1)]).reason


def test_without_an_interval_the_items_speak():
    found = one(CLAIM, [ours(0.86, None, None)])
    assert found.slack == pytest.approx(1.96 * 1.7677 * 2**0.5 + 0.05, abs=0.01)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"key": dataclasses.replace(KEY, model="minilm")}, "model minilm is not roberta-base"),
        ({"key": dataclasses.replace(KEY, version=2)}, "task version 2 is not 1"),
        ({"key": dataclasses.replace(KEY, protocol="lm-eval")}, "protocol lm-eval is not glue"),
        ({"settings": {"r": 16}}, "r 16 is not 8"),
        ({"training": {"learning_rate": 2e-5}}, "learning rate 2e-05 is not 0.0002"),
    ],
)
def test_other_conditions_are_not_compared(changes, reason):
    found = one(CLAIM, [ours(**changes)])
    assert (found.verdict, found.reason) == (NOT_COMPARABLE, reason)
    assert found.difference is None
    assert found.ours is not None


def test_the_nearest_run_is_shown():
    far = ours(key=dataclasses.replace(KEY, model="minilm"), settings={"r": 4}, variant="far")
    near = ours(key=dataclasses.replace(KEY, model="minilm"), variant="near")
    assert one(CLAIM, [far, near]).ours.variant == "near"


def test_conditions_that_no_key_has_forbid_a_comparison():
    claim = dataclasses.replace(CLAIM, conditions={"training": "one adapter for five tasks"})
    found = one(claim, [ours()])
    assert (found.verdict, found.reason) == (NOT_COMPARABLE, "training was one adapter for five tasks")


def test_tuned_runs_stand_beside_and_decide_nothing():
    tuned = ours(0.95, 0.94, 0.96, tuned=True, training={"learning_rate": 1e-3})
    found = one(CLAIM, [ours(), tuned])
    assert (found.verdict, found.tuned.mean) == (REPRODUCED, 0.95)
    found = one(CLAIM, [tuned])
    assert (found.verdict, found.ours, found.tuned.mean) == (NOT_COMPARABLE, None, 0.95)


def test_what_was_not_run_says_why_and_how():
    found = one(CLAIM, [ours(method="dora")])
    assert (found.verdict, found.reason) == (NOT_RUN, "everything is here, but no record of it")
    assert found.command == "snakemake --cores all --configfile workflow/config/suites/dense-moe-lora.yaml"


def test_what_is_missing_is_named():
    key = dataclasses.replace(KEY, model="llama-99b", protocol="generate-and-match", task=None)
    claim = dataclasses.replace(CLAIM, key=key, suite="no-such-suite", recipe=None)
    assert missing_for(claim, CONFIG) == [
        "no method here with the settings stated",
        "no task file for it",
        "the protocol is generate-and-match",
        "no model file llama-99b",
        "no suite file no-such-suite",
    ]


def test_every_tracked_claim_has_a_verdict_and_a_reason():
    claims = load_claims(load_documents(CONFIG))
    found = judge(claims, [], check_counts(claims), CONFIG)
    assert [j.claim.id for j in found] == [c.id for c in claims]
    assert all(j.reason for j in found)
    assert {j.verdict for j in found} == {REPRODUCED, NOT_RUN}
    assert all(j.command for j in found if j.verdict == NOT_RUN and j.claim.founding and j.claim.recipe)
