"""Tables of what routers and experts did: one row a variant, and one a router."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.diagnostics import Router, blocks, dead_words, routers
from moelora.reporting.runs import Run, Suite
from moelora.reporting.table import Entry, Row, Table, number

_MEASURES = {
    "entropy": "Entropy",
    "load_cv": "Load, variation",
    "similarity": "Similarity",
    "closest": "Closest pair",
    "matched": "Seeds agree, %",
    "chance": "By chance, %",
    "ami": "Adjusted MI",
}


def routing_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return the diagnostics of each variant: means over its routers and runs."""
    body = []
    everything: list[Run] = []
    for panel, regime, variant, runs in blocks(panels):
        everything += runs
        found = routers(runs)
        dead, placed = sum(sum(r.dead) for r in found), sum(r.experts * len(r.dead) for r in found)
        entries = [
            *_place(suite, panel, regime, variant),
            number(str(len(found))),
            number(str(len(runs))),
            number(f"{dead:,} of {placed:,}"),
            *_measures(found),
            number(str(_pairs(runs))),
        ]
        body.append(Row(entries))
    columns = ["Routers", "Runs", "Dead experts", *_MEASURES.values(), "Seed pairs"]
    return _table("routing", "Routers and experts", columns, body, _note(dead_words(everything)), suite)


def routers_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return the diagnostics of each router: means over runs."""
    body = []
    for panel, regime, variant, runs in blocks(panels):
        for router in routers(runs):
            entries = [
                *_place(suite, panel, regime, variant),
                Entry(router.module),
                number(str(router.layer)),
                number(str(router.experts)),
                number(f"{np.mean(router.dead):.2f}"),
                *_measures([router]),
            ]
            body.append(Row(entries))
    columns = ["Module", "Layer", "Experts", "Dead, a run", *_MEASURES.values()]
    return _table("routers", "Every router", columns, body, "Means over runs; the closest pair is that of all.", suite)


def _table(name: str, title: str, columns: Sequence[str], rows: Sequence[Row], note: str, suite: Suite) -> Table:
    columns = ["Variant", "Model", "Trained on", "Settings", *columns]
    return Table(title, [("", len(columns))], [(c, "") for c in columns], rows, note, suite.synthetic, name)


def _note(dead: str) -> str:
    return (
        "Entropy: of the router's probabilities over ln E, so 1 is a router without an opinion. Dead experts: with "
        f"less than {dead} of the balanced load over all tasks, added up over runs. Load, variation: standard "
        "deviation of the experts' load over its mean. Similarity: cosine of the increments of two experts. Seeds "
        "agree: tokens that two seeds send alike after the best matching of their experts, beside what the same loads "
        "give by chance; adjusted mutual information needs no matching and is 0 by chance."
    )


def _place(suite: Suite, panel: Panel, regime: str, variant: str) -> list[Entry]:
    return [
        Entry(suite.label(variant)),
        Entry(panel.model),
        Entry(panel.mixture or "single task"),
        Entry(words.regime_label(regime)),
    ]


def _measures(found: Sequence[Router]) -> list[Entry]:
    """Return the measures over some routers; the closest pair is the closest of all."""
    entries = []
    for name in _MEASURES:
        values = [value for router in found for value in getattr(router, name)]
        if not values:
            entries.append(Entry("–", marks=frozenset({"absent"}), title="Not defined, or not recorded."))
            continue
        value = max(values) if name == "closest" else float(np.mean(values))
        entries.append(number(f"{100 * value:.1f}" if name in ("matched", "chance") else _signed(value)))
    return entries


def _signed(value: float) -> str:
    """Return a number with two decimals; a minus sign is a minus sign."""
    text = f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _pairs(runs: Iterable[Run]) -> int:
    return sum(len({row["seed"] for row in run.agreement}) for run in runs)
