"""A small suite of placements, really run: sensitivity, stability, allocation, training and report."""

import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small import shrink

pytestmark = pytest.mark.slow


def test_strategies_side_by_side_to_the_report(checkout):
    shrink(
        checkout,
        ["lora_smoe"],
        costs=None,
        match=["lora_smoe-greedy-two"],
        diagnostics={},
        sensitivity={"examples": 8, "batch_size": 4, "stability": {"examples": [4, 8], "seeds": [0, 1]}},
        allocation={},
        placements={
            "lora_smoe": {
                "strategies": {
                    "percentile": {"score": "as_coded", "tasks": "own"},
                    "greedy": {"strategy": "greedy"},
                    "random": {"strategy": "random", "seed": 1},
                },
                "budgets": {"one": {"uniform": 1}, "two": {"uniform": 2}},
            }
        },
    )
    checkout.snakemake()
    root = checkout.path / "results/tiny/tiny-encoder"
    allocations = {path.stem: json.loads(path.read_text()) for path in (root / "allocation").rglob("*.json")}
    assert set(allocations) == {
        "lora_smoe-percentile", "lora_smoe-greedy-one", "lora_smoe-greedy-two", "lora_smoe-random-one",
        "lora_smoe-random-two",
    }  # fmt: skip
    attached = {}
    for path in root.rglob("record.json"):
        record = json.loads(path.read_text())
        assert record["status"] == "finished", record["reason"]
        attached[record["variant"]] = record
    for name, allocation in allocations.items():
        parts = attached[name]["parameters"]["parts"]
        # what was attached has the parameters that the allocation counted
        assert parts["experts"] + parts["router"] == allocation["parameters"]
    sizes = [allocations[f"lora_smoe-{strategy}-two"]["parameters"] for strategy in ("greedy", "random")]
    assert abs(sizes[0] - sizes[1]) < 0.05 * sizes[0]
    control = attached["lora-match-lora_smoe-greedy-two"]["match"]
    assert abs(control["reached"] - control["target"]) < 0.05 * control["target"]
    report = checkout.path / "reports/tiny"
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "Where to put a budget of experts" in page and "Agreement of small samples" in page
    with open(report / "tables" / "allocations.csv", newline="", encoding="utf-8") as handle:
        assert {row["Strategy"] for row in csv.DictReader(handle)} == {"smoe_percentile", "greedy", "random"}
    figures = {path.stem for path in (report / "figures").glob("*.svg")}
    assert {"stability--tiny-encoder", "maps--tiny-encoder--two", "placements--tiny-encoder--published"} <= figures
    assert "allocation--tiny-encoder--lora_smoe-percentile--tiny-review-food" in figures
    assert "Nothing to be done" in checkout.snakemake()
