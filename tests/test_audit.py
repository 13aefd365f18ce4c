"""The audit of the locked packages: it lists licences, and ends by itself whatever the network does."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit():
    specification = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_every_locked_package_is_listed_once_under_a_licence(audit):
    names = list(audit.locked())
    found = audit.licences(names)
    assert sorted(name for group in found.values() for name in group) == sorted(names)
    assert "numpy" in audit.locked() and all(len(licence) < 200 for licence in found)
    assert any("Apache" in licence for licence in found) and any("MIT" in licence for licence in found)
    assert audit.licence_of("no-such-package-at-all") == "not installed here"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import time; time.sleep(600)", "not checked: the time is up"),
        ("import sys; print('ConnectionError: no route'); sys.exit(1)", "not checked: ConnectionError: no route"),
        ("import sys; sys.exit(3)", "not checked: no answer"),
        ("print('No known vulnerabilities found')", "No known vulnerabilities found"),
        ("import sys; print('Found 2 known vulnerabilities in 1 package\\nx 1.0 CVE'); sys.exit(1)", "x 1.0 CVE"),
    ],
)
def test_an_advisory_service_that_hangs_fails_or_answers(audit, code, words):
    assert words in audit.advisories(5, python(code))


def test_a_tool_that_is_not_there_is_said(audit):
    assert audit.advisories(5, ["/no/such/tool"]).startswith("not checked: ")


def test_it_never_fails_the_build(audit, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["audit.py", "--seconds", "0"])
    monkeypatch.setattr(audit.shutil, "which", lambda name: None)
    assert audit.main() == 0
    assert "not checked" in capsys.readouterr().out
    root = SCRIPT.parents[1]
    assert "stage make audit || true\n" == (root / ".ci" / "run").read_text().splitlines(keepends=True)[-1]
