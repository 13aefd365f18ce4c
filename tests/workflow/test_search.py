"""A suite with a search: its graph, and its trials as jobs of which one is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import small
import yaml

SUITE = "workflow/config/suites/search-tiny.yaml"


def change(checkout, **changes) -> str:
    """Write a suite like search-tiny whose search differs, and return its path."""
    suite = yaml.safe_load((checkout.path / SUITE).read_text())
    suite["search"] |= changes
    (checkout.path / "mine.yaml").write_text(yaml.safe_dump(suite))
    return "mine.yaml"


def test_every_trial_is_a_job_and_the_winners_runs_wait_for_them(checkout):
    assert checkout.dry_run("--configfile", SUITE) == {
        "all": 1, "allocate_lora_smoe": 1, "base": 1, "collect": 1, "data": 1, "report": 1, "search_study": 1,
        "search_winner": 1, "sensitivity_tiny_encoder": 1, "train": 4, "trial": 20,
    }  # fmt: skip
    winner = "results/search-tiny/jobs/tiny-encoder--lora_smoe-searched--tiny-encoder-three.json"
    jobs = checkout.dry_run("--configfile", SUITE, "--", winner)
    assert (jobs["trial"], jobs["search_winner"], jobs["train"]) == (20, 1, 1)
    other = winner.replace("lora_smoe-searched", "lora")
    assert "trial" not in checkout.dry_run("--configfile", SUITE, "--", other)


def test_more_trials_leave_the_plans_alone(checkout):
    checkout.dry_run("--configfile", SUITE)
    plans = {path: path.stat().st_mtime_ns for path in (checkout.path / "results").rglob("plan.json")}
    assert checkout.dry_run("--configfile", change(checkout, trials=25))["trial"] == 25
    assert {path: path.stat().st_mtime_ns for path in plans} == plans


def test_sqlite_is_refused_on_two_cores(checkout):
    path = change(checkout, storage="sqlite:///study.db")
    output = checkout.snakemake("-n", "--configfile", path, check=False)
    assert "SQLite, which is refused for more than one worker" in output and "Traceback" not in output
    alone = checkout.run([sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--configfile", path])
    assert "search_winner" in alone


def test_a_bad_space_ends_before_the_graph(checkout):
    path = change(checkout, space={"rank": {"set": "settings.rr", "choices": [2]}})
    output = checkout.snakemake("-n", "--configfile", path, check=False)
    assert "mine.yaml: 'search.space.rank.set' is 'settings.rr', but 'lora_smoe' has no setting 'rr'" in output
    assert "Building DAG" not in output


def victim(checkout) -> "int | None":
    """Return the process of a trial that has begun."""
    for lease in checkout.path.glob("results/tiny/search/leases/*/*.lease.json"):
        owner = json.loads(lease.read_text())
        if "began" in (checkout.path / "results/tiny/logs/search" / f"trial-{owner['slot']}.log").read_text():
            return owner["pid"]
    return None


@pytest.mark.slow
def test_a_killed_job_is_a_failed_trial_and_the_search_goes_on_to_its_winner(checkout):
    small.shrink(
        checkout, ["lora"], costs=None,
        search={
            "variant": "lora", "model": "tiny-encoder", "task": "tiny-review-food", "trials": 4, "max_steps": 6,
            "max_examples": 64, "space": {"rate": {"set": "training.learning_rate", "numbers": [1e-4, 1e-2]}},
        },
    )  # fmt: skip
    trial = checkout.path / "moelora/search/trial.py"
    slow = 'import sys, time; print("began", file=sys.stderr, flush=True); time.sleep(5)\n        plan = trial_plan('
    trial.write_text(trial.read_text().replace("plan = trial_plan(", slow, 1))
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    with open(checkout.path / "output.txt", "w") as output:
        process = subprocess.Popen(command, cwd=checkout.path, env=checkout.environment, stdout=output, stderr=output)
        end = time.monotonic() + 400
        while (pid := victim(checkout)) is None:
            assert process.poll() is None and time.monotonic() < end, (checkout.path / "output.txt").read_text()
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=500) == 0, (checkout.path / "output.txt").read_text()
    document = json.loads((checkout.path / "results/tiny/search/trials.json").read_text())
    failed = [trial for trial in document["trials"] if trial["state"] == "fail"]
    assert [trial["reason"] for trial in failed] == ["its worker ended without a word"]
    assert sum(trial["result"] for trial in document["trials"]) == 4 and len(document["trials"]) == 5
    winner = json.loads((checkout.path / "results/tiny/search/winner.json").read_text())
    record = json.loads(
        (checkout.path / "results/tiny/tiny-encoder/tiny-review-food/lora-searched/seed0/record.json").read_text()
    )
    assert record["plan"]["training"]["learning_rate"] == winner["params"]["rate"]
    assert record["plan"]["search"]["trial"] == winner["trial"] and record["status"] == "finished"
    assert record["scores"]["tiny-review-food"]["split"] == "test"
    assert "4 of 4 trials" in (checkout.path / "output.txt").read_text()
    assert '<section id="search">' in (checkout.path / "reports/tiny/index.html").read_text()
    assert checkout.dry_run() == {}
