"""The commonsense tasks on real data and a small real model: protocols, instruction data, and lm-eval beside us."""

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "workflow" / "config"
pytestmark = [pytest.mark.network, pytest.mark.slow]

EIGHT = ["arc_easy", "arc_challenge", "boolq", "openbookqa", "piqa", "siqa", "hellaswag", "winogrande"]
LIMIT = 16
SPLITS = {"arc_easy": "test", "arc_challenge": "test", "openbookqa": "test"}


def run(words, environment):
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def write_plans(folder, **suite):
    """Write the plans of a suite on stories260K and return them by regime and task."""
    suite = {
        "name": "commonsense", "title": "Commonsense", "variants": ["base"], "regimes": {"published": {"seeds": [0]}},
        "grid": [{"models": ["stories260k"], "mixtures": {"eight": EIGHT}}],
        "evaluation": {"batch_size": 8, "limit": LIMIT},
    } | suite  # fmt: skip
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    run(["-m", "moelora", "plan", path, "--config-dir", CONFIG, "--results", folder, "--write"], None)
    return sorted((folder / "commonsense").rglob("plan.json"))


def carry_out(plans, environment):
    """Train and score plans in one process and return their records by regime."""
    run(["-m", "moelora", "train", "--plans", *plans, "--evaluate", "--fingerprint", "test"], environment)
    records = [json.loads((plan.parent / "record.json").read_text()) for plan in plans]
    return {record["regime"]: record for record in records}


def test_our_numbers_are_those_of_lm_evals_command_line(hub, tmp_path):
    (record,) = carry_out(write_plans(tmp_path), hub).values()
    theirs = ["social_iqa" if name == "siqa" else name for name in EIGHT]
    run(
        [
            *("-m", "lm_eval", "run", "--model", "hf", "--model_args", "pretrained=local/stories260K,max_length=512"),
            *("--tasks", ",".join(theirs), "--limit", LIMIT, "--batch_size", "8", "--device", "cpu", "--log_samples"),
            *("--output_path", tmp_path / "theirs"),
        ],
        hub,
    )
    (results,) = (tmp_path / "theirs").rglob("results_*.json")
    expected = json.loads(results.read_text())["results"]
    items = pandas.read_parquet(next((tmp_path / "commonsense").rglob("items.parquet")))
    for name, their_name in zip(EIGHT, theirs, strict=True):
        printed = {key.removesuffix(",none"): value for key, value in expected[their_name].items()}
        metrics = record["scores"][name]["metrics"]
        print(name, metrics, {key: printed[key] for key in metrics})
        assert metrics == {key: printed[key] for key in ("acc", "acc_norm") if key in printed}  # to the last digit
        (samples,) = (tmp_path / "theirs").rglob(f"samples_{their_name}_*.jsonl")
        rows = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: row["doc_id"])
        assert items[items.task == name].correct.tolist() == [row["acc"] for row in rows]


def test_three_protocols_on_eight_tasks_from_one_loaded_model(hub, tmp_path):
    protocols = ["lm-eval", "label-logits", "generate-regex-as-coded"]
    plans = write_plans(
        tmp_path, variants=["mixlora"],
        regimes={name: {"seeds": [0], "evaluation": {"protocol": name}} for name in protocols},
        training={"max_steps": 2, "batch_size": 4, "max_length": 384, "max_examples": 8, "learning_rate": 1e-3},
        evaluation={"batch_size": "auto", "limit": 4},
    )  # fmt: skip
    records = carry_out(plans, hub)
    keys = {
        "lm-eval": "acc",
        "label-logits": "acc_label_logits",
        "generate-regex-as-coded": "acc_generate_regex_as_coded",
    }
    for protocol, record in records.items():
        assert record["status"] == "finished", record["reason"]
        assert set(record["scores"]) == set(EIGHT)
        for name, entry in record["scores"].items():
            assert (entry["protocol"], entry["main_metric"]) == (protocol, keys[protocol])
            assert entry["n_items"] == 4 and entry["split"] == SPLITS.get(name, "validation")
            assert len(entry["commit"]) == 40 and len(entry["content"]) == 64
    for plan in plans:
        items = pandas.read_parquet(plan.parent / "items.parquet")
        assert items.groupby("task").size().to_dict() == dict.fromkeys(EIGHT, 4)
    contents = [{name: entry["content"] for name, entry in record["scores"].items()} for record in records.values()]
    assert all(first != second for first, second in zip(contents[0].items(), contents[1].items(), strict=True))


def test_training_on_instruction_data(hub, tmp_path):
    short = {"max_steps": 2, "batch_size": 2, "max_length": 256, "learning_rate": 1e-3, "max_examples": 8}
    plans = write_plans(
        tmp_path, variants=["lora"], evaluation={"batch_size": 4, "limit": 2, "protocol": "generate-regex"},
        regimes={
            "drawn": {"seeds": [0], "training": {"data": {"recipe": "commonsense-15k"}}},
            "ready": {"seeds": [0], "training": {"data": {"hub": "local/commonsense-mix-15k"}}},
        },
        training=short,
    )  # fmt: skip
    records = carry_out(plans, hub)
    drawn = records["drawn"]["training"]["data"]
    assert drawn["rows"] == sum(drawn["tasks"].values()) == 15_000 and set(drawn["tasks"]) == set(EIGHT)
    assert len(drawn["sha256"]) == 64
    ready = records["ready"]["training"]["data"]
    assert ready["rows"] == 15_000 and ready["sha256"] != drawn["sha256"]
    for record in records.values():
        assert record["status"] == "finished" and record["training"]["examples"] == 4


RENDER = """
import collections, json, sys
import datasets
from moelora.config import find_config_dir
from moelora.tasks.instructions import FIELDS, RECIPES, build_rows, checksum
from moelora.plans.training_data import plan_data

datasets.disable_progress_bars()
data = plan_data({"recipe": "commonsense-15k"}, find_config_dir(), {"name": "m", "architecture": "decoder"}, "test")
parts = [part for part in data["parts"] if part["task"] != "hellaswag"]
read = [(part, datasets.load_dataset(part["hub"], part["config"])[part["split"]]) for part in parts]
rows, tasks = build_rows(read, None, 0)
ready = datasets.load_dataset("local/commonsense-mix-15k")["train"].to_list()
pool = collections.Counter(tuple(row[field] for field in FIELDS) for row in rows)
wanted = collections.Counter(tuple(row[field] for field in FIELDS) for row in ready)
print(json.dumps({"pool": len(rows), "ready": len(ready), "found": (wanted & pool).total(), "tasks": tasks}))
"""


def test_every_row_of_ready_data_in_that_form_is_one_of_ours(hub):
    """The hub's stand-in has 15,000 rows in the form of LLM-Adapters, made elsewhere from the same train splits."""
    found = json.loads(run(["-c", RENDER], hub).stdout.splitlines()[-1])
    assert found["pool"] == 107_675 and found["tasks"]["winogrande"] == 40_398
    assert found["found"] == found["ready"] == 15_000
