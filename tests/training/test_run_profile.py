"""What the profile of a run prints: every part, and the two sums."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from world import plan, task_document

from moelora.files import atomic_write_json

REPOSITORY = Path(__file__).parents[2]


def profile(world, path, *words):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.run_profile",
            path,
            "--data",
            world / "data",
            "--base",
            world / "encoder",
            *words,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_part_is_timed_and_start_up_ends_at_the_first_step(world, tmp_path):
    path = tmp_path / "plan.json"
    atomic_write_json(path, plan("encoder", [task_document("mood")], "mixlora", max_steps=None, epochs=3))
    done = profile(world, path, "--steps", "5", "--limit", "8")
    assert done.returncode == 0, done.stderr
    start, training = done.stdout.split("**5 steps, then scoring.**")
    assert re.search(r"Before the first step: \d+\.\d s of CPU time", start)
    for part in ("import torch", "import peft"):
        assert f"| {part} |" in start and f"| {part} |" not in training
    calls = dict(re.findall(r"\| ([\w' ]+) \| [\d.]+ \| [\d.]+ \| (\d+) \|", training))
    assert calls["forward"] == calls["backward"] == "5"
    assert calls["score and write the record"] == "1"
    assert not any(path.name == "record.json" for path in tmp_path.rglob("*"))


def test_a_plan_that_waits_is_refused(world, tmp_path):
    path = tmp_path / "plan.json"
    document = plan("encoder", [task_document("mood")])
    atomic_write_json(path, {**document, "pending": {"allocation": "allocation.json"}})
    done = profile(world, path)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].endswith("waits for allocation; profile it after its run, or another plan")
    )


@pytest.mark.parametrize("limit", [None, 5])
def test_seeds_of_one_job_share_the_tokenised_examples(world, limit, monkeypatch):
    import dataclasses

    from transformers import AutoTokenizer

    from moelora.tasks import load_task
    from moelora.training import encode

    monkeypatch.setattr(encode, "_kept", {})
    task = load_task(task_document("mood"), world / "data")
    tokenizer, again = (AutoTokenizer.from_pretrained(world / "encoder") for _ in range(2))
    first = encode.encode_training(task, limit, tokenizer, {"max_length": 32})
    assert first == encode.encode(task, task.train[:limit], tokenizer, 32)
    assert encode.encode_training(task, limit, again, {"max_length": 32}) is first
    assert encode.encode_training(task, limit, tokenizer, {"max_length": 4}) is not first
    part = dataclasses.replace(task, train=task.train[10:20])
    assert encode.encode_training(part, limit, tokenizer, {"max_length": 32}) == encode.encode(
        part, part.train[:limit], tokenizer, 32
    )
