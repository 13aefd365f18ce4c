"""Checks that need no run: what the tracked claims show, and that the checks find what is planted."""

import dataclasses
from pathlib import Path

import pytest

from moelora.claims import check_claims, check_counts, gains_over_lora, judge_words, load_claims, load_documents
from moelora.config import ConfigDir
from moelora.errors import ConfigError

CONFIG = ConfigDir(Path(__file__).parents[2] / "workflow" / "config")


@pytest.fixture(scope="module")
def documents():
    return load_documents(CONFIG)


@pytest.fixture(scope="module")
def claims(documents):
    return load_claims(documents)


@pytest.fixture(scope="module")
def remarks(claims, documents):
    found = {}
    for remark in check_claims(claims, documents):
        found.setdefault(remark.kind, {}).setdefault(remark.claim, []).append(remark.text)
    return found


def pick(claims, **about):
    (found,) = (c for c in claims if c.matches(about))
    return found


def planted(claims, base, **changes):
    """Return the claims with one that differs from a tracked one."""
    return [*(c for c in claims if c.id != base.id), dataclasses.replace(base, **changes)]


def test_lora_on_boolq_is_the_majority_class(claims, remarks):
    claim = pick(claims, file="mixlora", table="Table 1", model="Llama-2-7B", method="LoRA", task="boolq")
    assert claim.text == "62.2"
    assert "2,033 of 3,270" in remarks["constant"][claim.id][0]
    assert "constant answer" in remarks["constant"][claim.id][0]


def test_a_score_within_chance_is_flagged_and_a_good_one_is_not(claims, remarks):
    gemma = pick(claims, file="mixlora", table="Table 1", model="Gemma-2B", method="LoRA", task="boolq")
    assert gemma.text == "62.1" and gemma.id in remarks["chance"]
    winogrande = pick(claims, file="mixlora", table="Table 1", model="Gemma-2B", method="MixLoRA", task="winogrande")
    assert winogrande.id in remarks["chance"]
    good = pick(claims, file="mixlora", table="Table 1", model="Llama-2-7B", method="MixLoRA", task="boolq")
    assert good.id not in remarks["chance"] and good.id not in remarks["constant"]


def test_averages_that_do_not_follow(claims, remarks):
    place = "mixlora/table-9/single-task-router-loss-coefficient-0"
    coefficient = [c for c in remarks["average"] if c.startswith(place)]
    assert len(coefficient) == 2
    assert any("70.65" in text for c in coefficient for text in remarks["average"][c])
    assert sum(c.startswith("mola/table-3/") and "mistral" in c for c in remarks["average"]) == 4
    assert len(remarks["average"]) == 6


def test_a_planted_average_is_found_and_a_rounded_one_is_not(claims, documents):
    average = pick(claims, file="mixlora", table="Table 1", model="Llama-2-7B", method="LoRA", task="avg")
    for value, wrong in ((71.9, False), (72.0, True)):
        found = check_claims(planted(claims, average, value=value, text=str(value)), documents)
        assert any(r.kind == "average" and r.claim == average.id for r in found) is wrong


def test_one_run_with_two_values(claims, remarks):
    cut = pick(claims, file="dense-moe-lora", method="LoRA", task="mrpc")
    assert "cut instead of rounded" in remarks["two values"][cut.id][0]
    obqa = pick(claims, file="mixlora", table="Table 1", model="Llama-2-7B", method="MixLoRA", task="obqa")
    assert len(remarks["two values"][obqa.id]) == 2 and "84.4" in remarks["two values"][obqa.id][0]
    dora = pick(claims, file="dora", table="Table 1", model="LLaMA-7B", method="DoRA r32", task="avg")
    assert "78.1" in remarks["two values"][dora.id][0]
    assert len(remarks["two values"]) == 3


def test_the_stale_row_of_differences(remarks):
    said = " ".join(text for texts in remarks["difference"].values() for text in texts)
    assert "+2.5; the printed scores give -9.7" in said
    assert "-1.9; the printed scores give -4.4" in said


def test_experts_add_up(claims, documents, remarks):
    assert "sum" not in remarks
    total = pick(claims, file="lora-smoe", metric="total_experts")
    assert total.value == 8 * 86
    found = check_claims(planted(claims, total, value=689.0, text="689"), documents)
    assert [r.text for r in found if r.kind == "sum"] == ["Printed 689; its parts add up to 688."]


def test_shares_that_no_number_of_items_gives(claims, documents, remarks):
    obqa = pick(claims, file="mixlora", table="Table 1", model="Llama-2-7B", method="MixDoRA", task="obqa")
    assert "No number of 500 items is 80.9" in remarks["impossible"][obqa.id][0]
    # 404 of 500, cut, rounded or rounded up, is possible.
    for value in (80.8, 80.85, 80.75):
        found = check_claims(planted(claims, obqa, value=value, text=str(value)), documents)
        assert not any(r.kind == "impossible" and r.claim == obqa.id for r in found)


def test_several_runs_may_average_to_anything(claims, documents):
    obqa = pick(claims, file="mixlora", table="Table 1", model="Llama-2-7B", method="MixDoRA", task="obqa")
    found = check_claims(planted(claims, obqa, seeds=3), documents)
    assert not any(r.kind == "impossible" and r.claim == obqa.id for r in found)


def test_parameters_follow_from_the_closed_formulas(claims):
    checks = {(c.claim.file, c.claim.table, c.claim.model, c.claim.method, c.unit): c for c in check_counts(claims)}
    exact = {
        ("dense-moe-lora", "notebook output", "roberta-base", "MoE LoRA (dense)"): 813_314,
        ("mola", "Table 1", "Llama-2-7B", "LoRA r64"): 159_907_840,
        ("mola", "Table 1", "Llama-2-7B", "MoLA 8888"): 169_017_344,
        ("mola", "Table 1", "Llama-2-7B", "MoLA 2468"): 105_635_840,
        ("mola", "Table 1", "Llama-2-7B", "MoLA 4444"): 84_508_672,
    }
    for place, count in exact.items():
        check = checks[(*place, "parameters")]
        assert check.agrees and check.counted == count, place
    shares = {
        ("mixlora", "Table 1", "Llama-2-7B", "LoRA"): 2.8555,
        ("mixlora", "Table 1", "Gemma-2B", "MixLoRA"): 4.3361,
        ("mixlora", "Table 1", "Llama-3-8B", "MixLoRA"): 3.0147,
        ("mixlora", "Table 1", "Llama-2-13B", "MixLoRA"): 2.4526,
        ("dora", "Table 1", "LLaMA-7B", "DoRA r32"): 0.8384,
    }
    for place, share in shares.items():
        check = checks[(*place, "percent")]
        assert check.agrees and check.shown == pytest.approx(share, abs=1e-4), place


def test_printed_shares_of_mixdora_leave_out_its_magnitudes(claims, remarks):
    wrong = [c for c in check_counts(claims) if not c.agrees]
    assert {c.claim.method for c in wrong} == {"MixDoRA", "DoRA", "DoRA r16"}
    assert all("without the magnitudes" in c.remark for c in wrong)
    assert len(remarks["parameters"]) == len(wrong)


def test_the_gain_on_sst2_is_two_items(claims):
    gains = {(g.claim.file, g.claim.method, g.claim.task): g for g in gains_over_lora(claims) if g.claim.items == 872}
    gain = gains["dense-moe-lora", "MoE LoRA (dense)", "sst2"]
    assert gain.items == 2
    assert gain.difference == pytest.approx(0.23)
    assert 2 * gain.error == pytest.approx(2.47, abs=0.01)


def test_gains_within_noise_are_counted(claims, remarks):
    up = [g for g in gains_over_lora(claims) if g.difference > 0]
    within = [g for g in up if g.difference <= 2 * g.error]
    assert len(remarks["noise"]) == len(within)
    assert 0.5 < len(within) / len(up) < 0.8


def test_claims_in_words(claims, documents):
    found = {(v.file, v.id): v for v in judge_words(claims, documents)}
    assert found["dense-moe-lora", "better-sst2"].verdict == "not shown by its own figures"
    assert "2 of 872 items" in found["dense-moe-lora", "better-sst2"].finding
    assert "+9.8 points" in found["mixlora", "multi-task-nine-percent"].finding
    assert found["mixlora", "memory-forty-percent"].verdict == "follows from its own figures"
    latency = found["mixlora", "latency-thirty-percent"]
    assert latency.verdict == "does not follow from its own figures" and "-17.6 %" in latency.finding
    assert found["mixlora", "as-many-parameters"].verdict == "reproduced"
    assert found["dora", "detached-memory"].verdict == "follows from its own figures"
    assert found["dora", "better-than-lora"].verdict == "holds for most of its own figures"
    assert "0 of 6 tasks" in found["mola", "higher-layers-spread"].finding
    assert found["mola", "fewer-parameters"].verdict == "reproduced"
    memory = found["lora-smoe", "memory-like-lora"]
    assert memory.verdict == "not run" and "snakemake" in memory.finding


def test_claims_in_words_about_our_own_records(claims, documents):
    here = {"glue-minilm, minilm": {"lora": 100.0, "mixlora": 104.0, "lora_smoe": 130.0}}
    resources = {"peak_memory_bytes": here, "trainable": {"t": {"mixlora": 100, "lora_smoe": 70}}}
    found = {(v.file, v.id): v for v in judge_words(claims, documents, resources)}
    assert found["mixlora", "as-much-memory"].verdict == "reproduced"
    assert found["lora-smoe", "memory-like-lora"].verdict == "not reproduced"
    assert "+30.0 % on glue-minilm, minilm" in found["lora-smoe", "memory-like-lora"].finding
    assert found["lora-smoe", "fewer-parameters"].verdict == "reproduced"


def test_a_check_of_a_claim_that_is_not_there_is_refused(claims, documents):
    words = [{"id": "x", "text": "x", "check": {"kind": "difference", "first": {"table": "Table 77"}, "second": {}}}]
    with pytest.raises(ConfigError, match="Table 77"):
        judge_words(claims, {"dora": {**documents["dora"], "words": words}})
