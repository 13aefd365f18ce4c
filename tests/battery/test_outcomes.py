"""From reports to entries: who is proven, who is not."""

from types import SimpleNamespace

import outcomes
import pytest
from outcomes import Outcomes

CHECKS = {"starts": ["llama", "bert"], "merges": ["llama"]}


def report(method, title, kind, outcome="passed", reason="", when="call", **more):
    properties = [("battery", [method, kind, title])]
    return SimpleNamespace(
        user_properties=properties, when=when, passed=outcome == "passed", skipped=outcome == "skipped",
        longrepr=("file", 1, f"Skipped: {reason}"), **more,
    )  # fmt: skip


@pytest.fixture
def written(monkeypatch):
    """Two methods, and what is written about them."""
    found = {}
    monkeypatch.setattr(outcomes, "all_checks", lambda: CHECKS)
    monkeypatch.setattr(outcomes, "method_names", lambda: ("dora", "lora"))
    monkeypatch.setattr(outcomes, "write_proven", lambda entries, forget: found.update(entries=entries, forget=forget))
    return found


def told(*reports):
    plugin = Outcomes()
    for one in reports:
        plugin.pytest_runtest_logreport(one)
    plugin.pytest_sessionfinish(None)
    return plugin


LORA = [report("lora", "starts", "llama"), report("lora", "starts", "bert"), report("lora", "merges", "llama")]


def test_a_method_that_passed_everything_is_entered_and_others_are_left_alone(written):
    told(*LORA)
    assert written["entries"]["lora"]["checks"]["starts"] == {"bert": "passed", "llama": "passed"}
    assert set(written["entries"]) == {"lora"} and not written["forget"]


def test_a_choice_of_checks_neither_enters_a_method_nor_takes_it_out(written):
    assert "nothing changes: lora" in " ".join(told(*LORA[:-1]).summary)
    assert not written["entries"] and not written["forget"]


def test_a_failure_and_an_unexplained_skip_take_a_method_out(written):
    dora = [report("dora", title, kind) for title, kinds in CHECKS.items() for kind in kinds]
    told(*LORA, *dora, report("dora", "starts", "bert", "failed"))
    assert written["forget"] == {"dora": ["starts (bert)"]}
    # passing in float32 does not make up for failing in bfloat16, whichever is heard first
    told(*LORA, report("dora", "starts", "bert", "failed"), *dora)
    assert written["forget"] == {"dora": ["starts (bert)"]}
    told(*LORA, *dora[:-1], report("dora", "merges", "llama", "skipped", "needs bitsandbytes"))
    assert written["forget"] == {"dora": ["merges (llama)"]} and "dora" not in written["entries"]


def test_reasons_are_kept(written):
    told(
        report("lora", "starts", "llama", "skipped", "n/a: is no mixture"),
        report("lora", "starts", "bert", "skipped", wasxfail="reason: refused: no such layout"),
        report("lora", "merges", "llama", "skipped", "refused: no such block"),
    )
    checks = written["entries"]["lora"]["checks"]
    assert checks["starts"] == {"bert": "refused: no such layout", "llama": "n/a: is no mixture"}
    assert checks["merges"] == {"llama": "refused: no such block"}


def test_a_failing_setup_counts(written):
    told(*LORA[:-1], report("lora", "merges", "llama", "failed", when="setup"))
    assert written["forget"] == {"lora": ["merges (llama)"]}


def test_the_summary_names_who_is_proven(written):
    assert any("proven now: lora" in line for line in told(*LORA).summary)
