"""Gathers what the checks showed and writes it as the registry of proven methods."""

import importlib
from collections import defaultdict
from pathlib import Path

import subjects

from moelora.methods import method_names
from moelora.methods._proven import PATH, entry, write_proven


class Outcomes:
    """A pytest plugin that hears every report, also of xdist's workers."""

    def __init__(self):
        self.shown: dict = defaultdict(dict)  # method → (check, kind) → outcome

    def pytest_runtest_logreport(self, report):
        place = dict(report.user_properties).get("battery")
        if place is None or (report.when == "call" and report.passed and hasattr(report, "wasxfail")):
            return
        method, kind, title = place
        if report.when == "call" or not report.passed:
            if self.shown[method].get((title, kind), ("",))[0] != "failed":
                self.shown[method][title, kind] = _outcome(report)

    def pytest_sessionfinish(self, session):
        entries, failed, partly = {}, {}, []
        wanted = {(title, kind) for title, kinds in all_checks().items() for kind in kinds}
        for method in method_names():
            shown = self.shown.get(method, {})
            if not shown:
                continue
            bad = sorted(f"{title} ({kind})" for (title, kind), (what, _) in shown.items() if what == "failed")
            if bad:
                failed[method] = bad
            elif wanted - shown.keys():
                partly.append(method)  # a choice of checks neither enters a method nor takes it out
            else:
                entries[method] = entry(method, {place: shown[place] for place in sorted(shown)})
        write_proven(entries, forget=failed)
        self.summary = [f"{PATH}: proven now: {', '.join(entries) or 'none'}"]
        self.summary += [f"not all checks were run, so nothing changes: {', '.join(partly)}"] if partly else []
        self.summary += [f"not proven: {method}: {'; '.join(bad)}" for method, bad in failed.items()]

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("battery")
        for line in self.summary:
            terminalreporter.write_line(line)


def all_checks() -> dict[str, list[str]]:
    """Return every check of the battery with its base models, also of files that this session did not run."""
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(path.stem)
    return subjects.CHECKS


def _outcome(report) -> tuple[str, str]:
    """Return (passed | n/a | refused | failed, reason)."""
    if report.passed:
        return "passed", ""
    if report.skipped:
        reason = getattr(report, "wasxfail", "") or report.longrepr[2].removeprefix("Skipped: ")
        reason = reason.removeprefix("reason: ")
        for word in ("n/a", "refused"):
            if reason.startswith(f"{word}: "):
                return word, reason.removeprefix(f"{word}: ")
        return "failed", reason  # a check that was skipped for another reason has shown nothing
    return "failed", ""
