"""A suite's transfer row, from the suite to the table: trained on one task, scored on another."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from world import model_document, task_document

from moelora.cli import main
from moelora.errors import RecordError
from moelora.plans import expand, resolve
from moelora.records import read_record
from moelora.reporting.collect import collect_records
from moelora.reporting.runs import Suite

REPOSITORY = Path(__file__).parents[2]
SUITE = {
    "name": "row",
    "title": "A transfer",
    "grid": [
        {
            "models": ["test-encoder"],
            "tasks": ["tiny-mood"],
            "transfer": [
                {"from": "tiny-mood", "to": "tiny-odd"},
                {"from": "tiny-mood", "to": "tiny-odd", "continue": True},
            ],
        }
    ],
    "variants": ["majority", "lora"],
    "regimes": {"published": {"seeds": [0]}},
    "training": {"max_steps": 80, "learning_rate": 0.01, "batch_size": 8},
    "jobs": {"carry": ["seed", "task"]},
}


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("configuration")
    for part in ("config", "schemas"):
        shutil.copytree(REPOSITORY / "workflow" / part, root / part)
    (root / "config" / "models" / "test-encoder.yaml").write_text(yaml.safe_dump(model_document("encoder")))
    for name in ("mood", "odd"):
        (root / "config" / "tasks" / f"tiny-{name}.yaml").write_text(yaml.safe_dump(task_document(name)))
    return root / "config"


def carry_out(world, expansion, root, names):
    """Carry out the jobs of these names as the workflow would, in order."""
    jobs = {job.name: job for job in expansion.jobs}
    for name in names:
        plans = [str(root / run.plan_path) for run in jobs[name].runs]
        arguments = ["train", "--plans", *plans, "--evaluate", "--manifest", root / jobs[name].manifest,
                     "--fingerprint", "test", "--data", world / "data", "--base", world / "encoder"]  # fmt: skip
        assert main([str(argument) for argument in arguments]) == 0
    return {name: root / jobs[name].manifest for name in names}


def test_the_row(world, tmp_path, config_dir):
    expansion = expand(SUITE, config_dir)
    expansion.write(tmp_path)
    order = ["test-encoder--majority", "test-encoder--lora", "test-encoder--lora--tiny-mood-to-tiny-odd",
             "test-encoder--lora--tiny-mood-then-tiny-odd"]  # fmt: skip
    assert sorted(order) == sorted(job.name for job in expansion.jobs)
    manifests = carry_out(world, expansion, tmp_path, order)
    folder = tmp_path / "test-encoder"
    trained = read_record(folder / "tiny-mood" / "lora" / "seed0" / "record.json")
    scored = read_record(folder / "tiny-mood-to-tiny-odd" / "lora" / "seed0" / "record.json")
    further = read_record(folder / "tiny-mood-then-tiny-odd" / "lora" / "seed0" / "record.json")

    def accuracy(record):
        (entry,) = record["scores"].values()
        return entry["metrics"]["accuracy"]

    # the two tasks give opposite answers to the same texts
    assert accuracy(trained) > 0.9 and accuracy(scored) < 0.1
    # so the further training begins worse than at random, which only the parent's weights can explain
    assert further["training"]["loss_curve"][0][1] > 0.8 and accuracy(further) > accuracy(scored)
    assert scored["training"]["steps"] == 0 and further["training"]["steps"] == 80
    assert scored["parent"]["task"] == "tiny-mood" and scored["parent"]["continue"] is False
    assert scored["parent"]["adapter_sha256"] == further["parent"]["adapter_sha256"]

    frame = collect_records(manifests.values())
    suite = Suite.from_frame(frame, json.loads((tmp_path / "suite.json").read_text()))
    tasks = suite.tasks({task for run in suite.runs for task in run.scores})
    assert tasks == ["tiny-mood", "tiny-mood-to-tiny-odd", "tiny-mood-then-tiny-odd"]
    assert [suite.task_title(task) for task in tasks] == ["mood", "mood → odd", "mood, then odd"]

    # training the parent anew changes what follows
    before = scored["plan_hash"]
    plan = folder / "tiny-mood" / "lora" / "seed0" / "plan.json"
    plan.write_text(plan.read_text().replace('"max_steps": 80', '"max_steps": 3'))
    carry_out(world, expansion, tmp_path, order[1:3])
    after = read_record(folder / "tiny-mood-to-tiny-odd" / "lora" / "seed0" / "record.json")
    assert after["plan_hash"] != before and after["parent"]["adapter_sha256"] != scored["parent"]["adapter_sha256"]


def test_a_parent_that_diverged_leaves_a_row_with_a_reason(world, tmp_path, config_dir):
    suite = {**SUITE, "training": {**SUITE["training"], "learning_rate": 1e30, "max_grad_norm": None}}
    expansion = expand(suite, config_dir)
    expansion.write(tmp_path)
    carry_out(world, expansion, tmp_path, ["test-encoder--lora", "test-encoder--lora--tiny-mood-to-tiny-odd"])
    record = read_record(tmp_path / "test-encoder" / "tiny-mood-to-tiny-odd" / "lora" / "seed0" / "record.json")
    assert record["status"] == "skipped" and record["scores"] == {}
    assert record["reason"] == "the run of 'tiny-mood' that it starts from ended diverged"


def test_a_parent_that_was_not_carried_out(tmp_path, config_dir):
    expansion = expand(SUITE, config_dir)
    run = next(run for run in expansion.runs if run.parent)
    with pytest.raises(RecordError, match=r"train\.json does not exist"):
        resolve(run.plan, tmp_path)
    folder = tmp_path / run.parent
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"status": "failed"}))
    assert resolve(run.plan, tmp_path)["parent"]["status"] == "failed"
