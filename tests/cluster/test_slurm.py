"""Suites on a real SLURM of one node, through profiles/slurm; what the queue showed is kept.

make slurm-faults    everything that can happen to jobs, on a small suite
make slurm-tiny      the built-in suite, whole
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import yaml
from faulty import TESTS, Faults, load
from queue_log import Watch

pytestmark = pytest.mark.slow
SUITE = "workflow/config/suites/tiny.yaml"
VARIANTS = ["majority", "lora", "dora", "mixlora"]
FOLDER = "results/tiny/tiny-encoder/tiny-review-food"
# Of the profile: asked sooner, since nothing here is far away; and one retry is enough to be seen.
QUICK = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5", "--retries", "1"]
# What docs/cluster.md says about a Snakemake that was killed.
CANCEL = "squeue --me -h -o '%i %j' | awk '$2 ~ /^moelora/ {print $1}' | xargs -r scancel"


class Pipeline:
    """Snakemake in a checkout, on a cluster."""

    def __init__(self, checkout, cluster, log: Path):
        self.checkout, self.cluster, self.log = checkout, cluster, log
        path = os.pathsep.join([str(cluster.folder / "bin"), checkout.environment["PATH"]])
        self.environment = checkout.environment | {**cluster.environment, "PATH": path}
        self.environment |= {key: checkout.environment[key] for key in ("PYTHONPATH", "OMP_NUM_THREADS")}
        self.started: list[subprocess.Popen] = []

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *error) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", *arguments]
        with open(self.log, "a", encoding="utf-8") as out:
            process = subprocess.Popen(
                command, cwd=self.checkout.path, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> int:
        return self.start(*arguments).wait()

    def bash(self, line: str) -> None:
        subprocess.run(["bash", "-c", line], env=self.environment, check=True, timeout=60)

    def jobs(self, variant: str) -> list:
        """Return the jobs that train a variant, in the order of their submission."""
        return [job for job in self.cluster.jobs() if f"--{variant}--" in job.comment]

    def until(self, reached, process: subprocess.Popen, seconds: float = 900) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            ended = process.poll() is not None
            assert not ended and time.monotonic() < deadline, self.log.read_text(encoding="utf-8")[-4000:]
            time.sleep(0.2)


def living(folder: Path):
    """Yield the command lines of processes that work in a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.joinpath("cwd").resolve() == folder:
                yield process.joinpath("cmdline").read_text()


def in_minutes(limit: str) -> float:
    """Return a time limit as squeue has it, in minutes."""
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    return 1440 * int(days or 0) + 60 * hours + minutes + seconds / 60


def in_megabytes(size: str) -> float:
    """Return memory as squeue has it, in MB."""
    number, unit = re.fullmatch(r"([\d.]+)([MG]?)", size).groups()
    return float(number) * (1024 if unit == "G" else 1)


def outcomes(folder: Path) -> dict:
    """Return what each run of a folder found and trained, without what differs between equal runs."""
    found = {}
    for path in sorted(folder.rglob("record.json")):
        record = json.loads(path.read_text())
        files = {}
        if (path.parent / "adapter").is_dir():
            files = {file.name: file.read_bytes() for file in (path.parent / "adapter").iterdir()}
            config = json.loads(files["adapter_config.json"])
            del config["base_model_name_or_path"]  # says where results lie
            files["adapter_config.json"] = json.dumps(config, sort_keys=True).encode()
        curve = record["training"] and record["training"]["loss_curve"]
        found[record["variant"]] = {"scores": record["scores"], "curve": curve, "adapter": files}
    return found


def carry_out_undisturbed(checkout, variants: list[str]) -> dict:
    """Return the outcomes of the same plans in one process, without Snakemake or a cluster."""
    left_out = shutil.ignore_patterns(
        "adapter", ".state", "jobs", "logs", "record*", "train.json", "scores.json", "items.parquet", "log.txt"
    )
    again = checkout.path / "again"
    shutil.copytree(checkout.path / "results/tiny", again, ignore=left_out)
    folder = again / "tiny-encoder/tiny-review-food"
    plans = [str(folder / variant / "seed0/plan.json") for variant in variants]
    sources = ["--data", str(again / "data"), "--base", str(again / "tiny-encoder/base")]
    checkout.run([sys.executable, "-m", "moelora", "train", "--plans", *plans, "--evaluate", *sources])
    return outcomes(folder)


def test_everything_that_happens_to_jobs(checkout, cluster, logs):
    """Jobs fail, are cancelled, requeued, out of time, and Snakemake is killed; nothing is lost or doubled."""
    small = load(TESTS / "workflow" / "small.py")
    small.shrink(checkout, VARIANTS, costs=None, jobs={"carry": []}, preflight={"device": "l4-24"})
    path = checkout.path / SUITE
    suite = yaml.safe_load(path.read_text())
    suite["training"]["checkpoint_every_steps"] = 2
    path.write_text(yaml.safe_dump(suite))
    faults = Faults(checkout.path)
    logs.mkdir(parents=True, exist_ok=True)
    log = checkout.path / "snakemake.log"

    title = "What can happen to jobs, on a small suite"
    with Watch(cluster, logs / "slurm-faults.log", title) as watch, Pipeline(checkout, cluster, log) as pipeline:
        for variant in ("lora", "dora", "mixlora"):
            faults.hold(variant)
        faults.fail("majority")
        main = pipeline.start(*QUICK)
        watch.note("Snakemake starts; majority will fail until that is mended")

        pipeline.until(lambda: faults.is_held("dora"), main)
        cluster.command("scancel", pipeline.jobs("dora")[0].number)
        watch.note("dora is cancelled by hand, between two of its steps")
        pipeline.until(lambda: pipeline.jobs("dora")[0].over, main)
        faults.release("dora")

        pipeline.until(lambda: faults.is_held("mixlora"), main)
        faults.hold("mixlora")
        number = pipeline.jobs("mixlora")[0].number
        cluster.command("scontrol", "requeue", number)
        watch.note("mixlora is requeued between two of its steps")
        pipeline.until(lambda: pipeline.jobs("mixlora")[0].state == "PENDING", main)
        cluster.command("scontrol", "update", f"JobId={number}", "StartTime=now")  # else two minutes later

        pipeline.until(lambda: faults.is_held("lora"), main)
        cluster.command("scontrol", "update", f"JobId={pipeline.jobs('lora')[0].number}", "TimeLimit=1")
        watch.note("lora may run for a minute in all, and is between two of its steps")
        pipeline.until(lambda: pipeline.jobs("lora")[0].state == "TIMEOUT", main)
        faults.hold("lora")
        watch.note("lora reached its limit")
        for variant in ("lora", "mixlora"):
            pipeline.until(lambda variant=variant: faults.is_held(variant), main)
        for variant in ("dora", "majority"):
            pipeline.until(lambda variant=variant: len(pipeline.jobs(variant)) == 2, main)
            pipeline.until(lambda variant=variant: pipeline.jobs(variant)[-1].over, main)
        os.kill(main.pid, signal.SIGKILL)
        main.wait()
        running = [job for job in cluster.jobs() if not job.over]
        watch.note(f"Snakemake is killed with -9; of its jobs {len(running)} run on")
        assert {job.comment.split("--")[1] for job in running} == {"lora", "mixlora"}
        assert all(job.name.startswith("moelora") for job in cluster.jobs())

        watch.note(f"as docs/cluster.md says: {CANCEL}; snakemake --unlock")
        pipeline.bash(CANCEL)
        while any(not job.over for job in cluster.jobs()):
            time.sleep(0.2)
        assert not list(living(checkout.path)), "a process outlived its job"
        faults.mend()
        assert pipeline.run("--unlock") == 0
        watch.note("Snakemake starts again, and nothing stands in its way")
        assert pipeline.run(*QUICK) == 0, pipeline.log.read_text(encoding="utf-8")[-4000:]
        watch.note("Snakemake has ended with the report")

        tries = {variant: pipeline.jobs(variant) for variant in VARIANTS}
        assert {variant: [job.state for job in jobs] for variant, jobs in tries.items()} == {
            "majority": ["FAILED", "FAILED", "COMPLETED"],
            "lora": ["TIMEOUT", "CANCELLED", "COMPLETED"],
            "dora": ["CANCELLED", "COMPLETED"],
            "mixlora": ["CANCELLED", "COMPLETED"],
        }
        for variant in ("majority", "lora", "dora"):
            first, second = tries[variant][:2]
            assert in_megabytes(second.megabytes) == 2 * in_megabytes(first.megabytes), variant
            assert in_minutes(second.minutes) > in_minutes(first.minutes), variant
        assert in_minutes(tries["lora"][0].minutes) == 1
        assert {variant for variant, jobs in tries.items() if "gpu" in jobs[0].cards} == set(VARIANTS) - {"majority"}

        records = pandas.read_parquet(checkout.path / "results/tiny/records.parquet")
        once = records.drop_duplicates(["variant", "seed", "task"])
        assert sorted(once["variant"]) == sorted(VARIANTS) and (records["status"] == "finished").all()
        resumed = {}
        for variant in VARIANTS[1:]:
            record = json.loads((checkout.path / FOLDER / variant / "seed0/record.json").read_text())
            resumed[variant] = record["training"]["resumed"]
        assert resumed == {"lora": 2, "dora": 1, "mixlora": 2}
        assert (checkout.path / "reports/tiny/index.html").is_file()
        assert outcomes(checkout.path / FOLDER) == carry_out_undisturbed(checkout, VARIANTS)
        watch.note(f"{len(once)} runs, none twice; resumed {resumed}; scores, losses and adapters as undisturbed")
        assert checkout.dry_run() == {}  # on one machine, by the default profile
        more = checkout.dry_run("--config", "preflight={device: a100-40, time_factor: 3}")
        assert set(more) <= {"all", "preflight", "report"}  # what jobs ask for is no reason to do them again


@pytest.mark.skipif("MOELORA_SLURM_TINY" not in os.environ, reason="takes many minutes: make slurm-tiny")
def test_whole_built_in_suite(checkout, cluster, logs):
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "slurm-tiny-snakemake.log"
    log.unlink(missing_ok=True)
    title = "The built-in suite, whole"
    with Watch(cluster, logs / "slurm-tiny.log", title) as watch, Pipeline(checkout, cluster, log) as pipeline:
        assert pipeline.run(*QUICK) == 0, pipeline.log.read_text(encoding="utf-8")[-4000:]
        jobs = cluster.jobs()
        manifest = (checkout.path / "results/tiny/manifests.txt").read_text().split()
        watch.note(f"{len(jobs)} jobs, {len(manifest)} of them train; the report is there")
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert sum("rule_train" in job.comment for job in jobs) == len(manifest)
    assert (checkout.path / "reports/tiny/index.html").is_file()
