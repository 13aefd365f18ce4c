"""The real path: data and models through the ordinary hub clients. Skips with a reason where there is no hub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "workflow" / "config"
pytestmark = pytest.mark.network


def moelora(arguments, environment, cwd):
    command = [sys.executable, "-m", "moelora", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)


def write_suite(folder, name, **changes):
    import yaml

    suite = yaml.safe_load((CONFIG / "suites" / f"{name}.yaml").read_text())
    suite |= changes
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    arguments = ["plan", path, "--config-dir", CONFIG, "--results", folder / "results", "--write"]
    done = moelora(arguments, None, ROOT)
    assert done.returncode == 0, done.stderr
    return folder / "results" / suite["name"]


def train(plan, environment):
    done = moelora(["train", "--plans", plan, "--evaluate", "--fingerprint", "test"], environment, ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads((plan.parent / "record.json").read_text())


def test_mrpc_on_minilm(hub, tmp_path):
    training = {"max_steps": 3, "batch_size": 8, "max_length": 48, "learning_rate": 2e-5}
    root = write_suite(
        tmp_path, "glue-minilm", variants=["majority", "lora", "mixlora"], match=[], tasks=["mrpc"], training=training,
        regimes={"published": {"seeds": [0]}}, evaluation={"batch_size": 16, "limit": 32},
    )  # fmt: skip
    majority = train(root / "minilm" / "mrpc" / "majority" / "seed0" / "plan.json", hub)
    assert majority["scores"]["mrpc"]["n_items"] == 32
    for variant in ("lora", "mixlora"):
        record = train(root / "minilm" / "mrpc" / variant / "seed0" / "plan.json", hub)
        assert record["status"] == "finished" and record["training"]["steps"] == 3
        assert set(record["scores"]["mrpc"]["metrics"]) == {"accuracy", "f1", "macro_f1"}
        assert record["environment"]["base_commit"]
    # six blocks of MixLoRA: attention linears, and both halves of each feed-forward
    assert sum(layer["count"] for layer in record["attached"]) == 6 * 4 + 6 * 2


def test_majority_on_the_whole_of_mrpc_is_the_known_number(hub, tmp_path):
    root = write_suite(tmp_path, "glue-minilm", variants=["majority"], match=[], tasks=["mrpc"])
    record = train(root / "minilm" / "mrpc" / "majority@published" / "seed0" / "plan.json", hub)
    metrics = record["scores"]["mrpc"]["metrics"]
    assert {name: round(100 * value, 1) for name, value in metrics.items()} == {
        "accuracy": 68.4, "f1": 81.2, "macro_f1": 40.6,
    }  # fmt: skip
    assert len(record["scores"]["mrpc"]["commit"]) == 40


def test_stories_through_plan_train_and_lm_eval(hub, tmp_path):
    root = write_suite(
        tmp_path, "stories", variants=["base", "lora"], match=[], tasks=["arc_easy", "piqa"],
        training={"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "max_length": 256},
        evaluation={"batch_size": 8, "limit": 12},
    )  # fmt: skip
    plans = sorted(root.glob("stories260k/*/lora*/seed0/plan.json"))
    assert [plan.parents[2].name for plan in plans] == ["arc_easy", "piqa"]
    for plan in plans:
        record = train(plan, hub)
        entry = record["scores"][plan.parents[2].name]
        assert entry["protocol"] == "lm-eval" and entry["n_items"] == 12
        assert entry["within_chance"]  # 260 thousand parameters that have read children's stories: chance, and flagged


def test_what_cannot_be_had_is_named(hub, tmp_path):
    root = write_suite(tmp_path, "glue-minilm", variants=["lora"], match=[], tasks=["mrpc"])
    plan = root / "minilm" / "mrpc" / "lora@published" / "seed0" / "plan.json"
    document = json.loads(plan.read_text())
    document["tasks"][0]["source"]["hub"] = "nyu-mll/glue-that-is-not-there"
    plan.write_text(json.dumps(document))
    done = moelora(["train", "--plans", plan, "--evaluate"], hub, ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "data set 'nyu-mll/glue-that-is-not-there'" in done.stderr and "HF_ENDPOINT" in done.stderr
    document["tasks"][0]["source"]["hub"] = "nyu-mll/glue"
    document["model"]["source"]["hub"] = "sentence-transformers/no-such-model"
    plan.write_text(json.dumps(document))
    done = moelora(["train", "--plans", plan, "--evaluate"], hub, ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "model 'minilm' (sentence-transformers/no-such-model" in done.stderr and "local copy" in done.stderr


def test_no_network_at_all_is_said(tmp_path):
    import os

    root = write_suite(tmp_path, "glue-minilm", variants=["lora"], match=[], tasks=["mrpc"])
    plan = root / "minilm" / "mrpc" / "lora@published" / "seed0" / "plan.json"
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = moelora(["train", "--plans", plan, "--evaluate"], environment, ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "data set 'nyu-mll/glue'" in done.stderr and "cannot be had" in done.stderr
