"""The registry of methods that passed the battery, and the pages generated from code and registry."""

import json
from pathlib import Path

import pytest

from moelora import docs
from moelora.cli import main
from moelora.config import ConfigDir
from moelora.errors import ConfigError, RecordError
from moelora.methods import LEFT_OUT, _proven, get_method, method_names
from moelora.plans.variants import choose_variants

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "workflow" / "config"
SUITES = sorted((CONFIG / "suites").glob("*.yaml"))
PAGES = REPOSITORY / "docs" / "methods"


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A registry that a test may change, with lora in it."""
    path = tmp_path / "proven.json"
    path.write_text(json.dumps({"lora": _proven.read_proven()["lora"]}), encoding="utf-8")
    monkeypatch.setattr(_proven, "PATH", path)
    return path


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_every_method_of_a_suite_has_passed_the_battery(suite):
    config = ConfigDir(CONFIG)
    methods = {variant.method for variant in choose_variants(config.load_suite(suite), config, str(suite))}
    missing = sorted(methods - set(_proven.read_proven()))
    assert not missing, f"no entry for {missing}: {_proven.REMEDY}"


def test_entries_hold_what_a_reader_needs():
    for name, found in _proven.read_proven().items():
        assert name in method_names(), f"{name} has no page any more: {_proven.REMEDY}"
        assert len(found["fingerprint"]) == 16 and found["version"] >= 1
        outcomes = {outcome.partition(":")[0] for shown in found["checks"].values() for outcome in shown.values()}
        assert "passed" in outcomes and outcomes <= {"passed", "n/a", "refused"}


def test_trouble_tells_unknown_from_changed(registry):
    proven = {"lora": {"fingerprint": _proven.method_fingerprint("lora")}, "gone": {"fingerprint": "0" * 16}}
    assert _proven.trouble("lora", proven) == ""
    assert _proven.trouble("dora", proven) == "has not passed the battery" == _proven.trouble("gone", proven)
    proven["lora"]["fingerprint"] = "0" * 16
    assert _proven.trouble("lora", proven) == "has changed since it passed the battery"


def test_a_method_without_an_entry_is_refused(registry):
    _proven.require_proven({"lora"})
    with pytest.raises(RecordError, match=r"records of dora, mixlora, which never passed the battery.*make battery"):
        _proven.require_proven({"mixlora", "lora", "dora"})


def test_only_a_method_that_passed_everything_is_entered(registry):
    shown = {("a check", "llama"): ("passed", ""), ("another", "llama"): ("n/a", "is no mixture")}
    found = _proven.entry("dora", shown)
    assert found["checks"] == {"a check": {"llama": "passed"}, "another": {"llama": "n/a: is no mixture"}}
    _proven.write_proven({"dora": found})
    assert set(_proven.read_proven()) == {"dora", "lora"}
    _proven.write_proven({}, forget={"lora"})
    assert set(_proven.read_proven()) == {"dora"}
    with pytest.raises(ConfigError, match="'dora' did not pass every check"):
        _proven.entry("dora", {**shown, ("a check", "bert"): ("failed", "")})


def test_a_damaged_registry_is_named(registry):
    registry.write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match=r"registry of proven methods .*proven\.json is truncated"):
        _proven.read_proven()


def test_committed_pages_are_the_generated_ones():
    pages = docs.all_pages(CONFIG)
    assert {path.name for path in PAGES.glob("*.md")} == set(pages), "run `make docs`"
    for name, text in pages.items():
        assert (PAGES / name).read_text(encoding="utf-8") == text, f"{name} is out of date: run `make docs`"


def test_pages_are_complete():
    for name in method_names():
        text = docs.method_page(get_method(name), CONFIG)
        for heading in ("## Settings", "## Parameters", "## Abilities", "## Variants", "## The battery"):
            assert heading in text, (name, heading)
        assert "**Faithful to:** " in text and "**Differs from:** " in text, name
        assert f"moelora/methods/{name}.py" in text


def test_a_page_says_defaults_variants_and_reasons(registry):
    text = docs.method_page(get_method("mixlora"), CONFIG)
    assert "| `experts` | `8` |" in text
    assert "| `mixlora-top1` | `experts_per_token: 1` |" in text
    assert "Cannot be merged: experts are chosen per token." in text
    assert "Has not passed [the battery](battery.md)." in text
    assert "Not passed:" in docs.battery_page(_proven.read_proven()) and "`mixlora`" in docs.battery_page({})


def test_markdown_keeps_what_formulas_say():
    assert docs.plain("y = Σ_k g_k * B <x> | ``r`` of `a_b`") == r"y = Σ_k g_k \* B \<x> \| `r` of `a_b`"


def test_docs_writes_only_what_differs_and_removes_what_is_gone(tmp_path, capsys):
    arguments = ["docs", "--out", str(tmp_path), "--config-dir", str(CONFIG)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("wrote ") == len(method_names()) + len(LEFT_OUT) + 1
    (tmp_path / "gone.md").write_text("of a method that was")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "wrote" not in printed and "gone.md: there is no such method any more" in printed
    assert not (tmp_path / "gone.md").exists()
