"""What is done again, and what is not, on a small suite that was really run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small import shrink

pytestmark = pytest.mark.slow
SUITE = "workflow/config/suites/tiny.yaml"
VARIANTS = ["majority", "lora", "mixlora", "lora_smoe"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def records(checkout) -> dict[str, dict]:
    """Return what each run found, without what differs between equal runs: times, memory, machine."""
    found = {}
    for path in sorted((checkout.path / "results/tiny").rglob("record.json")):
        record = json.loads(path.read_text())
        found[record["variant"], record["seed"]] = {
            "scores": record["scores"],
            "curve": record["training"] and record["training"]["loss_curve"],
            "plan_hash": record["plan_hash"],
        }
    return found


def adapter_files(run_folder: Path) -> dict[str, bytes]:
    """Return the bytes of an adapter's files, without the path of the base model, which says where results lie."""
    files = {path.name: path.read_bytes() for path in (run_folder / "adapter").iterdir()}
    config = json.loads(files.pop("adapter_config.json"))
    del config["base_model_name_or_path"]
    return files | {"adapter_config.json": json.dumps(config).encode()}


def test_story_of_a_suite(checkout):
    shrink(checkout, VARIANTS)
    checkout.snakemake()
    page = (checkout.path / "reports/tiny/index.html").read_text(encoding="utf-8")
    assert "<table" in page
    assert set(records(checkout)) == {(variant, 0) for variant in VARIANTS}
    assert "Nothing to be done" in checkout.snakemake()

    methods = checkout.path / "moelora" / "methods"
    with open(methods / "mixlora.py", "a", encoding="utf-8") as page_file:
        page_file.write("\n# A comment changes no number.\n")
    assert checkout.dry_run() == {}

    edit(
        methods / "mixlora.py",
        "experts_per_token=settings.experts_per_token,",
        "experts_per_token=settings.experts_per_token + 0,",
    )
    assert checkout.dry_run() == {"all": 1, "collect": 1, "costs": 1, "report": 1, "train": 1}
    edit(methods / "mixlora.py", "settings.experts_per_token + 0,", "settings.experts_per_token,")
    assert checkout.dry_run() == {}

    # Another seed: jobs carry seeds, so each trained variant's job is due again, but only the new run is carried out.
    stamps = {path: path.stat().st_mtime_ns for path in (checkout.path / "results").rglob("record.json")}
    edit(checkout.path / SUITE, "seeds:\n    - 0\n", "seeds:\n    - 0\n    - 1\n")
    assert checkout.dry_run() == {"all": 1, "collect": 1, "report": 1, "train": 3}
    checkout.snakemake()
    assert {key for key in records(checkout) if key[1] == 1} == {(v, 1) for v in VARIANTS if v != "majority"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert "Nothing to be done" in checkout.snakemake()

    # A changed setting re-runs what depends on it.
    edit(checkout.path / SUITE, "percentile: 40", "percentile: 60")
    assert checkout.dry_run()["allocate_lora_smoe"] == 1

    report = checkout.path / "snakemake-report.html"
    checkout.snakemake("--report", str(report))
    assert report.stat().st_size > 100_000


def test_killed_pipeline_ends_with_the_same_numbers(checkout, tmp_path):
    """kill -9 of everything in the middle of training; a rerun finishes and finds what an undisturbed run finds."""
    shrink(checkout, ["lora"], costs=None)
    edit(checkout.path / SUITE, "max_steps: 6", "max_steps: 300")
    edit(checkout.path / SUITE, "checkpoint_every_steps: 3", "checkpoint_every_steps: 20")
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "2"],
        cwd=checkout.path,
        env=checkout.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    run_folder = checkout.path / "results/tiny/tiny-encoder/tiny-review-food/lora/seed0"
    deadline = time.monotonic() + 600
    while not any((run_folder / ".state").glob("[!.]*.pt")) and not (run_folder / "record.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run_folder / "record.json").exists(), "the run was over before it could be killed"
    checkout.snakemake("--unlock")
    checkout.snakemake()
    record = json.loads((run_folder / "record.json").read_text())
    assert record["training"]["resumed"] >= 1
    interrupted = records(checkout)
    adapter = adapter_files(run_folder)
    checkout.snakemake("--config", "results=again", "--", "records")
    again = checkout.path / "again/tiny/tiny-encoder/tiny-review-food/lora/seed0"
    undisturbed = json.loads((again / "record.json").read_text())
    assert undisturbed["training"]["resumed"] == 0
    assert undisturbed["training"]["loss_curve"] == interrupted["lora", 0]["curve"]
    assert undisturbed["scores"] == interrupted["lora", 0]["scores"]
    assert adapter_files(again) == adapter
