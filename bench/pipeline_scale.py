"""What planning many runs takes: ``python -m bench.pipeline_scale --runs 10000``.

A suite over the built-in models is made up: two models, ten tasks, variants from sweeps, twenty seeds. Then the
commands that people type are run on it, each as a process of its own: processor seconds and the largest memory of the
process and of those that it started, as the operating system counts them. Nothing is trained; all files lie in a
temporary folder. ``--carry`` says what a job carries: nothing (a job for each run, the dearest graph), seeds, or seeds
and tasks.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

TASKS = {
    "tiny-decoder": ["tiny-colour", "tiny-negation", "tiny-seniority", "tiny-whereabouts", "tiny-parade-alder"],
    "tiny-encoder": ["tiny-acceptability", "tiny-paraphrase", "tiny-sentiment", "tiny-similarity", "tiny-review-food"],
}
SEEDS = 20
SWEPT = ("lora", "dora", "dense_moe_lora", "mixlora", "lora_smoe")
"""Variants of which a sweep over the dropout makes many; those of the last have their experts allocated."""


def make_suite(runs: int, carry: Sequence[str], root: Path) -> dict[str, Any]:
    """Return a suite of at least so many runs, whose files lie under a folder."""
    levels = math.ceil(runs / (SEEDS * sum(map(len, TASKS.values())) * len(SWEPT)))
    dropouts = {f"d{level}": {"dropout": round(level / (2 * levels), 6)} for level in range(levels)}
    return {
        "name": "scale",
        "title": "Many runs",
        "grid": [{"models": [model], "tasks": tasks} for model, tasks in TASKS.items()],
        "variants": list(SWEPT),
        "sweeps": [{"variant": name, "axes": {"dropout": dropouts}} for name in SWEPT],
        "regimes": {"published": {"seeds": list(range(SEEDS))}},
        "training": {"learning_rate": 2.0e-3, "epochs": 3, "batch_size": 16},
        "jobs": {"carry": list(carry)},
        "threads": 1,
        "results": str(root / "results"),
        "reports": str(root / "reports"),
    }


def timed(command: Sequence[str], folder: Path) -> tuple[float, float, float, str]:
    """Run a command; return its processor seconds, its wall seconds, the largest memory in GiB, and what it printed.

    Processor seconds include those of its children; the memory is that of the largest single process among them.

    Raises:
        SystemExit: it failed; with what it printed.
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, so it would not know
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text[-4000:]}")
    seconds = time.perf_counter() - began
    return usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 2**20, text


def finish_jobs(suite: Path) -> int:
    """Leave an empty manifest for each job, as if all had been carried out; return how many."""
    manifests = [Path(line) for line in (suite / "manifests.txt").read_text(encoding="utf-8").splitlines()]
    for path in manifests:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n", encoding="utf-8")
    return len(manifests)


def main(words: "list[str] | None" = None) -> int:
    """Make a suite, time the commands on it, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline_scale", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--carry", nargs="*", choices=["seed", "task"], default=[], help="axes that share a job")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "scale.yaml"
        # JSON is YAML too, and has no anchors, which a YAML dumper puts where a level stands twice and moelora refuses
        path.write_text(json.dumps(make_suite(arguments.runs, arguments.carry, folder)), encoding="utf-8")
        plan = [sys.executable, "-m", "moelora", "plan", str(path)]
        plan += ["--config-dir", str(REPOSITORY / "workflow" / "config"), "--results", str(folder / "results")]
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2"]
        snakemake += ["--workflow-profile", str(REPOSITORY / "profiles" / "default"), "--configfile", str(path)]
        _, _, _, shown = timed(plan, folder)
        print(shown.splitlines()[-1])
        print("| command | CPU s | wall s | GiB |\n|---|---|---|---|")
        commands = {
            "moelora plan": plan,
            "snakemake --list-rules: expand the suite, write the plans": [*snakemake, "--list-rules"],
            "the same, plans unchanged": [*snakemake, "--list-rules"],
            "snakemake -n": [*snakemake, "-n"],
            "snakemake -n, all jobs finished": [*snakemake, "-n", "records"],
        }
        for label, command in commands.items():
            if label.endswith("finished"):
                finish_jobs(folder / "results" / "scale")
            cpu, wall, memory, _ = timed(command, folder)
            print(f"| {label} | {cpu:.1f} | {wall:.1f} | {memory:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
