"""The plans of suites that people have run: a change here trains everything behind them anew."""

import hashlib
import json
from pathlib import Path

import pytest
from plan_cases import CONFIG

from moelora.plans import expand, plan_hash

KNOWN = json.loads(Path(__file__).with_name("plan_digests.json").read_text(encoding="utf-8"))


def digest(suite: str) -> list:
    """Return how many plans a suite has and a digest of all their hashes."""
    runs = sorted(expand(CONFIG / "suites" / f"{suite}.yaml", CONFIG).planned, key=lambda run: run.folder)
    text = "".join(f"{run.folder} {plan_hash(run.plan)}\n" for run in runs)
    return [len(runs), hashlib.sha256(text.encode()).hexdigest()[:16]]


@pytest.mark.parametrize("suite", KNOWN)
def test_plans_are_those_that_were_run(suite):
    """Where a change is meant, put what this prints into plan_digests.json and say so in the changelog."""
    assert digest(suite) == KNOWN[suite]
