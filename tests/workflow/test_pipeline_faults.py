"""Faults of a whole pipeline: Snakemake killed alone, two at once, signals, a job that dies while others go on."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from jobs import jobs_in, jobs_of, verb
from same_results import contradictions
from small import shrink

pytestmark = pytest.mark.slow
LOCKED = "Directory cannot be locked"


class Pipelines:
    """Pipelines in one checkout; whatever is left of them is ended with the test."""

    def __init__(self, checkout):
        self.checkout, self.sessions, self.outputs = checkout, [], []

    def start(self, *arguments):
        output = self.checkout.path / f"output{len(self.outputs)}.txt"
        process = self.checkout.start(output, *arguments)
        self.sessions.append(process.pid)
        self.outputs.append(output)
        return process

    @property
    def said(self) -> str:
        """What the last pipeline has said."""
        return self.outputs[-1].read_text()

    def wait_for(self, process, found):
        """Return what ``found`` returns, once that is something."""
        end = time.monotonic() + 900
        while not (value := found()):
            assert process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.05)
        return value

    def job(self, process, *verbs):
        """Return a job of one of these verbs, once there is one."""
        return self.wait_for(process, lambda: [job for job in jobs_of(process.pid) if verb(job) in verbs])[0]

    def end(self):
        for session in self.sessions:
            for process in jobs_in(session, every=True):
                process.kill()


@pytest.fixture
def pipelines(checkout):
    some = Pipelines(checkout)
    yield some
    some.end()


def test_a_killed_snakemake_leaves_jobs_that_the_next_one_waits_for(checkout, pipelines):
    shrink(checkout, ["majority", "lora"], costs=None)
    first = pipelines.start()
    orphan = pipelines.job(first, "base")
    orphan.suspend()  # it goes on when it is told to, so nothing here depends on who is faster
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    refused = checkout.snakemake(check=False)
    assert LOCKED in refused and "--unlock" in refused
    assert "moelora: nobody is at work on results/tiny." in refused and "say snakemake --unlock" in refused

    checkout.snakemake("--unlock")
    second = pipelines.start()
    pipelines.wait_for(second, lambda: "jobs of an earlier pipeline, which was killed" in pipelines.said)
    assert jobs_of(second.pid) == [] and orphan.is_running()

    # Meanwhile others may look, but neither work nor change the plans: Snakemake's lock says so, and without it ours.
    assert f"another pipeline (process {second.pid} on " in checkout.snakemake("-n")
    assert LOCKED in checkout.snakemake(check=False)
    past = checkout.snakemake("--nolock", check=False)
    assert re.search(rf"another pipeline \(process {second.pid} on .* at work on results/tiny; wait for it", past)
    manifests = checkout.path / "results/tiny/manifests.txt"
    before = manifests.read_text()
    other = checkout.snakemake("-n", "--config", "variants=[majority]", check=False)
    assert "this command would change its" in other and "Traceback" not in other
    assert manifests.read_text() == before

    orphan.resume()
    assert second.wait() == 0, pipelines.said
    assert contradictions(checkout.path / "results/tiny") == []
    assert len(list((checkout.path / "results/tiny").rglob("record.json"))) == 2
    assert checkout.dry_run() == {}


def test_signals_and_a_job_that_dies_leave_a_pipeline_that_goes_on(checkout, pipelines):
    shrink(checkout, ["majority", "lora"], costs=None)
    first = pipelines.start()
    pipelines.job(first, "base")
    first.send_signal(signal.SIGTERM)  # what runs is finished, and nothing begun
    first.wait()
    assert (checkout.path / "results/tiny/tiny-encoder/base/model.safetensors").is_file(), pipelines.said
    assert not (checkout.path / "results/tiny/tiny-encoder/tiny-review-food/lora/seed0/train.json").exists()
    assert "Will exit after finishing currently running jobs" in pipelines.said

    second = pipelines.start()  # and nothing has to be unlocked
    pipelines.job(second, "train")
    for job in jobs_of(second.pid):
        job.send_signal(signal.SIGINT)
    second.send_signal(signal.SIGINT)  # Ctrl-C reaches a pipeline and its jobs
    assert second.wait() != 0 and LOCKED not in pipelines.said

    third = pipelines.start()
    pipelines.wait_for(third, lambda: of_variant(third, "lora")).kill()
    assert third.wait() == 1
    assert "Error in rule train" in pipelines.said and LOCKED not in pipelines.said
    jobs = checkout.path / "results/tiny/jobs"
    assert [path.stem.split("--")[1] for path in jobs.glob("*.json")] == ["majority"]  # the other job was not stopped
    partial = "results/tiny/partial.parquet"
    checkout.run(f"moelora collect --manifests results/tiny/jobs/*.json --out {partial}")
    checkout.run(
        f"moelora report --records {partial} --suite results/tiny/suite.json --title 'So far' --out reports/partial"
    )
    assert "So far" in (checkout.path / "reports/partial/index.html").read_text()

    assert pipelines.start().wait() == 0, pipelines.said
    assert contradictions(checkout.path / "results/tiny") == []
    assert checkout.dry_run() == {}


def of_variant(pipeline, variant):
    """Return the process that trains a variant, if there is one now."""
    jobs = [job for job in jobs_of(pipeline.pid) if verb(job) == "train"]
    return next((job for job in jobs if any(f"/{variant}/" in word for word in job.cmdline())), None)
