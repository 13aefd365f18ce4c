"""Where the numbers come from: software, machines, plans, and which records are out of date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from moelora.reporting import words
from moelora.reporting.runs import Suite
from moelora.reporting.table import Entry, Row, Table, number

_SOFTWARE = ("moelora", "commit", "dirty", "python", "torch", "transformers", "peft", "accelerate")
_MACHINE = ("platform", "processor", "device", "threads")
_LABELS = {"dirty": "uncommitted changes", "moelora": "moelora"}


def environments(suite: Suite) -> list[tuple[str, str]]:
    """Return what the runs ran on as (what, value); several values come with their number of runs."""
    found: list[tuple[str, str]] = []
    environments_ = [r.record.get("environment") or {} for r in suite.runs]
    names = {n for e in environments_ for n in e}
    rest = sorted(names - {*_SOFTWARE, *_MACHINE, "started", "finished"})
    for name in [*_SOFTWARE, *_MACHINE, *rest]:
        counts = Counter(_said(e[name]) for e in environments_ if e.get(name) is not None)
        if counts:
            values = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
            several = len(values) > 1
            text = "; ".join(f"{v} ({words.plural(n, 'run')})" if several else v for v, n in values)
            found.append((_LABELS.get(name, name), text))
    for name, pick in (("started", min), ("finished", max)):
        moments = [str(e[name]) for e in environments_ if e.get(name)]
        if moments:
            found.append(("first run started" if name == "started" else "last run finished", pick(moments)))
    declared = Counter(d for r in suite.runs for d in r.record.get("declarations") or [])
    found += [("declared", f"{text} ({words.plural(n, 'run')})") for text, n in sorted(declared.items())]
    return found


def runs_table(suite: Suite) -> Table:
    """Return every run with its plan hash, sorted as the suite is."""
    rank = {v: i for i, v in enumerate(suite.variants(suite.runs))}
    runs = sorted(suite.runs, key=lambda r: (r.model, r.task, rank[r.variant], r.regime, r.seed))
    body = [
        Row(
            [
                Entry(suite.label(r.variant)),
                Entry(r.model),
                Entry(r.task),
                Entry(words.regime_label(r.regime)),
                number(str(r.seed)),
                Entry(words.status_label(r.status), marks=frozenset() if r.finished else frozenset({"lost"})),
                number(", ".join(words.points(r.scores[t].value) for t in suite.tasks(r.scores))),
                number(_rate(r.record)),
                number(words.seconds((r.record.get("training") or {}).get("seconds"))),
                Entry(str(r.record["plan_hash"])),
                Entry(str(r.record["fingerprint"])[:16]),
            ],
            record=str(r.id),
        )
        for r in runs
    ]
    columns = ["Variant", "Model", "Task", "Settings", "Seed", "Status", "Score", "Learning rate", "Training"]
    columns += ["Plan", "Fingerprint"]
    return Table("Every run", [("", len(columns))], [(c, "") for c in columns], body, name="runs")


def stale(suite: Suite, current: Mapping[str, str]) -> Table:
    """Return the runs whose source has changed since they ran.

    Args:
        suite: The runs.
        current: Fingerprint of the source as it is, by plan hash, variant or method.
    """
    body = []
    for run in suite.runs:
        keys = (run.record["plan_hash"], run.variant, run.method)
        now = next((current[k] for k in keys if k in current), None)
        if now is not None and now != run.record["fingerprint"]:
            body.append(
                Row(
                    [
                        Entry(suite.label(run.variant)),
                        Entry(run.model),
                        Entry(run.task),
                        Entry(words.regime_label(run.regime)),
                        number(str(run.seed)),
                        Entry(str(run.record["fingerprint"])[:16]),
                        Entry(now[:16]),
                    ]
                )
            )
    columns = ["Variant", "Model", "Task", "Settings", "Seed", "Ran with", "Now"]
    return Table("Stale records", [("", len(columns))], [(c, "") for c in columns], body, name="stale")


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _rate(record: Mapping[str, Any]) -> str:
    rate = (record["plan"].get("training") or {}).get("learning_rate")
    if not record.get("training") or rate is None:
        return "–"
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
