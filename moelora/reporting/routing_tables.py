"""Tables of what routers and experts did: one row a variant, and one a router."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.diagnostics import Router, blocks, routers
from moelora.reporting.runs import Run, Suite
from moelora.reporting.tables import Entry, Row, Table

NOTE = (
    "Entropy: of the router's probabilities over ln E, so 1 is a router without an opinion. Dead: experts with less than "
    "1 % of the balanced load over all tasks, summed over runs. Similarity: cosine of the increments of two experts. "
    "Agreement: share of tokens that two seeds send alike after the best matching of their experts, beside what the same "
    "loads give by chance; adjusted mutual information needs no matching and is 0 by chance."
)

_MEASURES = (
    "Entropy",
    "Load, variation",
    "Similarity",
    "Closest pair",
    "Seeds agree, %",
    "By chance, %",
    "Adjusted MI",
)
_VALUES = ("entropy", "load_cv", "similarity", "closest", "matched", "chance", "ami")


def routing_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return the diagnostics of each variant: means over its routers and runs."""
    body = []
    for panel, regime, variant, runs in blocks(panels):
        found = routers(runs)
        dead, placed = (sum(values) for values in zip(*((sum(r.dead), r.experts * len(r.dead)) for r in found)))
        body.append(
            Row(
                [
                    *_place(suite, panel, regime, variant),
                    _number(str(len(found))),
                    _number(str(len(runs))),
                    _number(f"{dead:,} of {placed:,}"),
                    *_measures(found),
                    _number(str(_pairs(runs))),
                ]
            )
        )
    columns = [
        "Variant",
        "Model",
        "Trained on",
        "Settings",
        "Routers",
        "Runs",
        "Dead experts",
        *_MEASURES,
        "Seed pairs",
    ]
    return Table(
        "Routers and experts", [("", len(columns))], [(c, "") for c in columns], body, NOTE, suite.synthetic, "routing"
    )


def routers_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return the diagnostics of each router: means over runs."""
    body = []
    for panel, regime, variant, runs in blocks(panels):
        for router in routers(runs):
            body.append(
                Row(
                    [
                        *_place(suite, panel, regime, variant),
                        Entry(router.module),
                        _number(str(router.layer)),
                        _number(str(router.experts)),
                        _number(f"{np.mean(router.dead):.2f}"),
                        *_measures([router]),
                    ]
                )
            )
    columns = ["Variant", "Model", "Trained on", "Settings", "Module", "Layer", "Experts", "Dead, a run", *_MEASURES]
    return Table(
        "Every router",
        [("", len(columns))],
        [(c, "") for c in columns],
        body,
        "Means over runs.",
        suite.synthetic,
        "routers",
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
    for name in _VALUES:
        values = [value for router in found for value in getattr(router, name)]
        if not values:
            entries.append(Entry("–", marks=frozenset({"absent"}), title="Not defined, or not recorded."))
            continue
        value = max(values) if name == "closest" else float(np.mean(values))
        entries.append(_number(f"{100 * value:.1f}" if name in ("matched", "chance") else _signed(value)))
    return entries


def _signed(value: float) -> str:
    """Return a number with two decimals; a minus sign is a minus sign."""
    text = f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _pairs(runs: Iterable[Run]) -> int:
    return sum(len({row["seed"] for row in run.agreement}) for run in runs)


def _number(text: str) -> Entry:
    return Entry(text, marks=frozenset({"number"}))
