"""A pipeline that is killed again and again ends with what an undisturbed one ends with."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.mark.slow
def test_kills_of_every_kind_leave_no_trace(tmp_path):
    pytest.importorskip("snakemake", reason="the workflow needs snakemake: pip install moelora[workflow]")
    from campaign import KINDS, run_campaign, shrink_for_kills
    from checkouts import Checkout

    checkout = Checkout(tmp_path / "checkout")
    shrink_for_kills(checkout, ["lora"], costs=None)
    log = tmp_path / "kills.jsonl"
    campaign = run_campaign(checkout, suite="tiny", kills=4, minutes=30, seed=1, mean=10, log=log)
    summary = campaign.summary()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert campaign.mismatches == [] and campaign.troubles == [], lines
    assert all(summary["kills_by_kind"][kind] >= 1 for kind in KINDS)
    # the last comparison had all that there is to compare
    assert lines[-2]["event"] == "compared" and lines[-2]["records"] == 2
    assert lines[-1] == {"event": "summary", "seed": 1, "mean": 10, **summary}
    assert str(tmp_path) not in log.read_text()
    for name in ("results", "reports"):
        assert (checkout.path / name / "tiny").is_dir()
    shutil.rmtree(checkout.path)
