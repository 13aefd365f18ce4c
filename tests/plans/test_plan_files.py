"""Writing plans and resolving what they wait for."""

import json
from pathlib import Path

import pytest
from plan_cases import CONFIG

from moelora.errors import RecordError
from moelora.plans import expand, resolve


def test_writing_compares_content(suite, tmp_path):
    suite["grid"][0]["tasks"] = ["mrpc"]
    expansion = expand(suite, CONFIG)
    assert len(expansion.write(tmp_path)) == len(expansion.runs) + 1
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert expansion.write(tmp_path) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == stamps
    suite["regimes"]["tuned"]["seeds"] = [0, 1, 2, 3]
    written = expand(suite, CONFIG).write(tmp_path)
    assert {Path(path).parent.name for path in written} == {"seed3", ""}  # new plans, and suite.json
    assert not list(tmp_path.rglob("*.tmp"))


def test_truncated_plan_is_written_again(suite, tmp_path):
    expansion = expand(suite, CONFIG)
    expansion.write(tmp_path)
    path = tmp_path / expansion.runs[0].plan_path
    path.write_text(path.read_text()[:40])
    assert expansion.write(tmp_path) == [expansion.runs[0].plan_path]


def test_suite_document_says_the_same_wherever_results_lie(suite):
    here = expand(suite, CONFIG).documents()["suite.json"]
    suite["results"] = "/somewhere/else"
    assert expand(suite, CONFIG).documents()["suite.json"] == here


def test_resolve_fills_what_is_pending(suite, tmp_path):
    runs = {(r.variant.name, r.regime, r.task): r for r in expand(suite, CONFIG).runs if r.seed == 0}
    allocation = tmp_path / "minilm" / "allocation" / "lora_smoe.json"
    allocation.parent.mkdir(parents=True)
    allocation.write_text(json.dumps({"experts": {"encoder.layer.0.attention.self.query": 3}}))
    for name in ("lora_smoe", "lora-match-lora_smoe"):
        tuning = tmp_path / "minilm" / "mrpc" / f"{name}@tuned" / "tuning.json"
        tuning.parent.mkdir(parents=True)
        tuning.write_text(json.dumps({"chosen": 1e-3}))
    plan = runs["lora_smoe", "tuned", "mrpc"].plan
    resolved = resolve(plan, tmp_path)
    assert resolved["pending"] == {}
    assert resolved["allocation"] == {"encoder.layer.0.attention.self.query": 3}
    assert resolved["training"]["learning_rate"] == 1e-3
    assert plan["training"]["learning_rate"] is None  # the plan itself is left as it was
    matched = resolve(runs["lora-match-lora_smoe", "tuned", "mrpc"].plan, tmp_path)
    assert matched["match"]["variant"] == "lora_smoe"
    assert matched["match"]["allocation"] == {"encoder.layer.0.attention.self.query": 3}


@pytest.mark.parametrize("text", ["", '{"experts": {"a": 1', '{"experts": [1]}', '{"counts": {}}'])
def test_resolve_refuses_a_broken_allocation(suite, tmp_path, text):
    run = next(r for r in expand(suite, CONFIG).runs if r.variant.name == "lora_smoe")
    path = tmp_path / "minilm" / "allocation" / "lora_smoe.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(RecordError, match=r"allocation .*lora_smoe\.json"):
        resolve(run.plan, tmp_path)
