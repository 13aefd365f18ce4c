"""Estimates against what can be counted by hand. Nothing here needs torch."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moelora.cli import main
from moelora.config import ConfigDir
from moelora.errors import ConfigError, RecordError
from moelora.methods import Counts, get_method
from moelora.plans import expand
from moelora.preflight import command, estimate, operations
from moelora.preflight.counting import count_variant, expected_experts
from moelora.preflight.devices import DEVICES, GIB, Device, choose_device
from moelora.preflight.lengths import facts_of, read_facts, run_length
from moelora.preflight.memory import (
    Load,
    activation_bytes,
    block_bytes,
    logit_bytes,
    remedies,
    trained_bytes,
    weight_bytes,
)
from moelora.shapes import known_sizes, shapes_of

REPOSITORY = Path(__file__).parents[2]
CONFIG = ConfigDir(REPOSITORY / "workflow" / "config")


def sizes_of(name: str):
    return known_sizes(CONFIG.load("model", name))


LLAMA = sizes_of("llama-2-7b")
LOAD = Load(LLAMA, "bf16", None, "bf16", 199_884_800, 0, 8, 16, 512.0)


def test_weights_weigh_what_their_files_weigh():
    assert round(weight_bytes(LLAMA, "bf16") / 1e9, 1) == 13.5
    assert round(weight_bytes(sizes_of("llama-2-13b"), "bf16") / 1e9, 1) == 26.0
    assert weight_bytes(sizes_of("bert-base-uncased"), "fp32") == 4 * 109_482_240
    linears, rest = LLAMA.linear_parameters, LLAMA.base_parameters - LLAMA.linear_parameters
    assert weight_bytes(LLAMA, "bf16", "int8") == linears + 2 * rest
    # 4.127 bits a weight: QLoRA's own figure for nf4 with its constants quantised again
    assert weight_bytes(LLAMA, "bf16", "nf4") == pytest.approx(linears * 4.127 / 8 + 2 * rest, rel=1e-4)


def test_what_training_takes_by_the_stated_formula():
    assert trained_bytes(1000) == 18_000
    inside = 2 * (2 * 4096 + 2 * 4096 + 2 * 4096 + 4 * 11008) + 8 * 4096
    assert block_bytes(LLAMA, 2) == inside
    assert activation_bytes(LLAMA, 100, 2) == 100 * 32 * inside
    assert activation_bytes(LLAMA, 100, 2, checkpointing=True) == 100 * (32 * 2 * 4096 + inside)
    assert logit_bytes(LLAMA, 100, 2, training=True) == 100 * 32000 * 20
    assert logit_bytes(sizes_of("roberta-base"), 100, 4, training=True) == 0
    parts = weight_bytes(LLAMA, "bf16") + 18 * 199_884_800
    parts += activation_bytes(LLAMA, 8 * 512, 2) + logit_bytes(LLAMA, 8 * 512, 2, training=True)
    assert LOAD.training == parts


def test_generating_keeps_keys_and_values_and_only_the_last_logits():
    reading, generating = LOAD, dataclasses.replace(LOAD, generated=32)
    cache = 2 * 16 * (512 + 32) * 2 * 4096 * 32
    logits = 16 * 512 * 32000 * 10 - 16 * 32000 * 10
    assert generating.scoring == reading.scoring + cache - logits


INTRUSIONS = [
    (30, "training.checkpointing: true", {"checkpointing": True}),
    (19.5, "training.micro_batch_size: 1", {"micro_batch": 1}),
    (18, "training.checkpointing: true and training.micro_batch_size: 4", {"checkpointing": True, "micro_batch": 4}),
    (14, "the model's name with -int8 at the end, with training.checkpointing: true",
     {"checkpointing": True, "form": "int8"}),
    (10, "the model's name with -nf4 at the end, with training.micro_batch_size: 1", {"micro_batch": 1, "form": "nf4"}),
]  # fmt: skip


@pytest.mark.parametrize(("gib", "words", "changes"), INTRUSIONS)
def test_settings_that_would_fit_come_from_the_least_to_the_most_intrusive(gib, words, changes):
    assert remedies(LOAD, int(gib * GIB)) == words
    assert dataclasses.replace(LOAD, **changes).training <= gib * GIB < LOAD.training


def test_where_nothing_fits_nothing_is_advised():
    assert remedies(LOAD, 3 * GIB) is None


def test_operations_of_a_token():
    assert operations.linear_operations(LLAMA) == 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    forward = operations.forward_operations(LLAMA, 0)
    assert forward == pytest.approx(2 * (LLAMA.base_parameters - 32000 * 4096), rel=1e-4)  # the embedding is looked up
    assert operations.training_operations(LLAMA, 0, 0.0) == 2 * forward
    assert operations.training_operations(LLAMA, 0, 0.0, whole=True) == 3 * forward
    again = operations.training_operations(LLAMA, 0, 0.0, checkpointing=True) - 2 * forward
    assert again == operations.linear_operations(LLAMA)
    assert operations.adapter_operations(Counts(experts=100, head=7, active=57)) == 100
    mixdora = get_method("mixdora").all_settings({"experts_per_token": 2})
    assert operations.extra_products("mixdora", mixdora, LLAMA) == 2 * 32 * 4096 * 11008
    dora = get_method("dora").all_settings({"dropout": 0.05})
    assert operations.extra_products("dora", dora, LLAMA) == operations.linear_operations(LLAMA)
    assert operations.extra_products("lora", {"dropout": 0.05}, LLAMA) == 0.0


def test_cards():
    assert choose_device({"device": "rtx-4090"}) == DEVICES["rtx-4090"]
    mine = choose_device({"device_memory_gib": 24, "teraflops": 165})
    assert (mine.memory, mine.teraflops) == (24 * GIB, 165.0) and mine.usable == int(0.95 * 24 * GIB) - GIB
    assert Device("any", None, 1.0, 1.0).usable is None
    with pytest.raises(ConfigError, match="unknown device 'a100'; did you mean 'a100-"):
        choose_device({"device": "a100"})


def test_every_hub_task_in_the_tree_has_facts_and_an_unknown_one_is_named():
    facts = read_facts(CONFIG)
    for name in CONFIG.names("task"):
        if "builtin" not in CONFIG.load("task", name)["source"]:
            assert facts_of({"name": name}, facts).train > 0, name
    with pytest.raises(ConfigError, match=r"size of task 'arc_hard'; did you mean 'arc_"):
        facts_of({"name": "arc_hard"}, facts)


def suite(**changes):
    found = {
        "name": "small", "title": "Small",
        "grid": [{"models": ["stories260k"], "tasks": ["arc_easy", "piqa"]}],
        "variants": ["majority", "base", "lora", "mixlora", "lora_smoe"], "match": ["mixlora"],
        "regimes": {"published": {"seeds": [0, 1]}},
        "training": {"epochs": 2, "batch_size": 16, "max_length": 64},
    }  # fmt: skip
    return found | changes


def plan_of(variant="lora", **changes):
    return next(run.plan for run in expand(suite(**changes), CONFIG).runs if run.variant.name == variant)


def test_lengths_follow_from_examples_epochs_and_batches():
    facts = read_facts(CONFIG)
    length = run_length(plan_of(), facts, untrained=False)
    assert length.steps == (2 * -(-2251 // 16))
    assert length.mean == length.longest == 64 and length.tokens == 64 * 16 * length.steps  # 71 tokens, cut at 64
    assert length.scored == 2376 * 4 * 64 and length.batches == -(-2376 * 4 // 64)
    assert run_length(plan_of(), facts, untrained=True).steps == 0
    few = plan_of(training={"max_steps": 7, "max_examples": 100}, evaluation={"limit": 10, "batch_size": 4})
    length = run_length(few, facts, untrained=False)
    assert (length.steps, length.batches) == (7, 10)
    assert length.mean == 20 + 206 / 4 and length.longest == 4 * length.mean


def test_protocols_read_and_generate_differently():
    facts, plan = read_facts(CONFIG), plan_of()

    def under(protocol):
        tasks = [{**plan["tasks"][0], "protocol": protocol}]
        return run_length({**plan, "tasks": tasks}, facts, untrained=False)

    assert under("label-logits").scored * 4 == under("lm-eval").scored
    assert under("generate-regex").generated == 32 * -(-2376 // 64) and under("lm-eval").generated == 0
    data = {**plan, "training": {**plan["training"], "data": {"recipe": "commonsense-15k"}}}
    assert run_length(data, facts, untrained=False).steps == 2 * -(-15_000 // 16)


def test_allocations_to_come_are_guessed_by_their_totals():
    document = CONFIG.load("model", "qwen2.5-3b")
    shapes = shapes_of(document)

    def total(**allocation):
        return sum(expected_experts(allocation, shapes, "all", 8).values())

    assert total(percentile=40, strategy="smoe_percentile") == round(0.6 * 252 * 8)
    # the published example: 688 experts, of which the guess is what the percentile comes to
    assert total(percentile=40, pool="attention") == round(0.6 * 144 * 8) == 691
    assert total(budget={"uniform": 5}) == 5 * 252 and total(budget={"experts": 100}) == 100
    assert total(strategy="mola", shape="2-4-6-8") == 5 * 252
    assert total(budget={"parameters": 1_000_000}) > 0
    with pytest.raises(ConfigError, match="no module to place experts on"):
        expected_experts({"pool": "attention"}, shapes, "feed_forward", 8)


def test_a_matched_lora_counts_as_its_mixture():
    expansion = expand(suite(), CONFIG)
    shapes = shapes_of(expansion.models["stories260k"])
    by_name = {variant.name: variant for variant in expansion.variants}
    mixture, control = (count_variant(by_name[n], shapes, 2) for n in ("mixlora", "lora-match-mixlora"))
    assert control.trainable == mixture.trainable and control.router == 0


def test_an_estimate_adds_up(tmp_path):
    expansion = expand(suite(), CONFIG)
    found = estimate(expansion, CONFIG, DEVICES["l4-24"], tmp_path)
    assert found["runs"] == len(expansion.runs) == sum(row["runs"] for row in found["rows"] if row["kind"] == "runs")
    assert found["hours"] == pytest.approx(sum(row["hours"] for row in found["rows"])) and found["hours"] > 0
    rows = {row["variant"]: row for row in found["rows"]}
    assert rows["majority"]["hours"] == rows["majority"]["scoring_bytes"] == 0
    assert rows["base"]["trainable"] == rows["base"]["training_bytes"] == 0 < rows["base"]["hours"]
    assert rows["lora"]["runs"] == 4 and rows["lora"]["adapter_bytes"] == 16 * rows["lora"]["trainable"]
    assert rows["sensitivities"]["runs"] == 2 and not found["refused"]
    assert [row["name"] for row in found["data"]] == ["arc_easy", "piqa"]
    assert json.loads(json.dumps(found)) == found
    two = estimate(expansion, CONFIG, DEVICES["l4-24"], tmp_path, devices=2)
    assert two["days"] == found["days"] / 2 and two["hours"] == found["hours"]


def test_measured_throughput_counts_before_the_operations(tmp_path):
    path = tmp_path / "stories260k" / "costs.json"
    path.parent.mkdir()
    entry = {"status": "finished", "tokens_per_second": 1000.0}
    path.write_text(json.dumps({"environment": {"device_name": "A card"}, "variants": {"lora": entry}}))
    rows = estimate(expand(suite(), CONFIG), CONFIG, DEVICES["l4-24"], tmp_path)["rows"]
    row = next(row for row in rows if row["variant"] == "lora")
    assert row["basis"] == "measured on A card" and row["hours"] >= row["tokens"] / 1000 / 3600
    assert {row["basis"] for row in rows if row["variant"] != "lora"} == {"operations"}
    path.write_text(json.dumps({"variants": {}}))
    with pytest.raises(RecordError, match=r"costs\.json lack 'environment'"):
        estimate(expand(suite(), CONFIG), CONFIG, DEVICES["l4-24"], tmp_path)


def test_models_without_sizes_are_said_to_be_left_out(tmp_path):
    changes = {"grid": [{"models": ["tiny-decoder", "stories260k"], "tasks": ["arc_easy"]}]}
    found = estimate(expand(suite(**changes), CONFIG), CONFIG, DEVICES["l4-24"], tmp_path)
    assert found["unknown"] == ["tiny-decoder"] and {row["model"] for row in found["rows"]} == {"stories260k"}


def test_costs_that_hold_every_variant_at_once_are_refused(tmp_path):
    grid = [{"models": ["llama-2-7b"], "tasks": ["arc_easy"]}]
    expansion = expand(suite(grid=grid, costs={"rounds": 1}, training={"max_steps": 1}), CONFIG)
    found = estimate(expansion, CONFIG, DEVICES["a100-40"], tmp_path)
    assert any("costs of llama-2-7b: 4 variants at once" in text and "costs: null" in text for text in found["refused"])


@pytest.fixture
def written(tmp_path):
    def write(**changes) -> list[str]:
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(suite(**changes)))
        return ["preflight", str(path), "--config-dir", str(CONFIG.path), "--results", str(tmp_path / "results")]

    return write


def test_the_command_prints_writes_and_reads_what_plan_wrote(written, tmp_path, capsys):
    assert main([*written(), "--device", "l4-24", "--out", str(tmp_path / "found.json")]) == 0
    text = capsys.readouterr().out
    assert "Suite small:" in text and "Nothing stands in the way." in text and "GPU hours" in text
    assert json.loads((tmp_path / "found.json").read_text())["suite"] == "small"
    assert main(["plan", *written()[1:], "--write"]) == 0
    capsys.readouterr()
    again = ["preflight", str(tmp_path / "results/small/suite.json"), *written()[2:], "--device", "l4-24", "--json"]
    assert main(again) == 0
    found = [json.loads(text) for text in (capsys.readouterr().out, (tmp_path / "found.json").read_text())]
    assert found[0].pop("free_bytes") and found[1].pop("free_bytes") and found[0] == found[1]


def test_a_gated_model_too_large_for_the_card_is_refused_with_what_would_fit(written, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    changes = {"grid": [{"models": ["llama-2-7b"], "tasks": ["arc_easy"]}], "training": {"max_steps": 5},
               "variants": ["lora"], "match": [], "preflight": {"device_memory_gib": 12}}  # fmt: skip
    out = tmp_path / "found.json"
    assert main([*written(**changes), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert "gated: agree at https://huggingface.co/meta-llama/Llama-2-7b-hf" in captured.out
    assert "cannot work: lora on llama-2-7b (published): a training step takes about" in captured.err
    assert "the model's name with -" in captured.err  # in 8 or 4 bits
    assert not out.exists()
    assert main([*written(**changes), "--device", "a100-80"]) == 0  # the command's card counts before the suite's


def test_results_that_the_disk_cannot_hold_are_refused(written, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    free = shutil.disk_usage
    monkeypatch.setattr(command.shutil, "disk_usage", lambda folder: free(folder)._replace(free=1_000_000))
    assert main([*written(), "--device", "l4-24"]) == 2
    captured = capsys.readouterr()
    assert "where 0.0 GB are free" in captured.out and "cannot work: disk: adapters and training states" in captured.err


def test_nothing_here_needs_torch():
    code = "import sys; import moelora.preflight.command; sys.exit(bool({'torch', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
