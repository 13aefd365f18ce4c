"""Tables of allocations, of the sensitivities behind them, and of how those agree between samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moelora.reporting import words
from moelora.reporting.placed import Placed
from moelora.reporting.runs import Suite
from moelora.reporting.table import Entry, Row, Table, number, plain

AGAINST = {"same_size": "another sample of the same size", "largest": "the largest sample of another seed"}
ABSENT = Entry("–", marks=frozenset({"absent"}), title="Not recorded.")


def allocations_table(suite: Suite, found: Iterable[Placed]) -> Table:
    """Return one row an allocation: how it was made and what it came to."""
    body = []
    for one in found:
        counts = one.experts
        budget = one.setting("budget")
        said = ", ".join(f"{amount:,} {unit}" for unit, amount in budget.items()) if budget else "–"
        parameters = one.document.get("parameters")
        entries = [
            *_place(suite, one),
            Entry(one.strategy),
            Entry(one.setting("score", "sum")),
            Entry(said),
            number(str(sum(counts.values()))),
            number(f"{sum(map(bool, counts.values()))} of {len(counts)}"),
            number(str(max(counts.values()))),
            ABSENT if parameters is None else number(f"{parameters:,}"),
        ]
        body.append(Row(entries))
    columns = ["Variant", "Model", "From", "Strategy", "Score", "Budget", "Experts", "Modules", "Most", "Parameters"]
    note = "Parameters: of experts and routers, without the head. Most: experts of one module."
    return plain("allocations", "Allocations", columns, body, note)


def experts_table(suite: Suite, found: Iterable[Placed]) -> Table:
    """Return one row a module of each allocation."""
    body = []
    for one in found:
        shares = one.shares()
        for module in sorted(one.experts, key=lambda m: (_layer(one.document, m), m)):
            share = shares.get(module)
            entries = [
                *_place(suite, one),
                *_module(one.document, module),
                number(str(one.experts[module])),
                ABSENT if share is None else number(f"{100 * share:.3f}"),
            ]
            body.append(Row(entries))
    columns = ["Variant", "Model", "From", "Module", "Layer", "Type", "Shape", "Experts", "Sensitivity, % of the sum"]
    return plain("experts", "Experts of every module", columns, body, "Sensitivity: mean over tasks.")


def sensitivity_table(suite: Suite, found: Iterable[Placed]) -> Table:
    """Return one row a module, task and kind of score."""
    rows: dict[tuple, Row] = {}
    for one in found:
        score = one.setting("score", "sum")
        for task, by_module in sorted((one.document.get("sensitivity") or {}).items()):
            for module in sorted(by_module, key=lambda m: (_layer(one.document, m), m)):
                value = by_module[module]
                shown = Entry("overflow", title="More than float16 holds.") if value is None else number(f"{value:.6e}")
                entries = [
                    Entry(one.model), Entry(suite.task_title(task)), Entry(score),
                    *_module(one.document, module), shown,
                ]  # fmt: skip
                rows.setdefault((one.model, task, score, module), Row(entries))
    columns = ["Model", "Task", "Score", "Module", "Layer", "Type", "Shape", "Sensitivity"]
    return plain("sensitivity", "Sensitivity of every module", columns, list(rows.values()), "")


def stability_table(suite: Suite, documents: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row a task, size of the sample and what it is compared with: means over pairs of seeds, and range."""
    body = []
    for document in sorted(documents, key=lambda d: (str(d["model"]), str(d["task"]))):
        for against, named in AGAINST.items():
            for size in sorted({row["examples"] for row in document["rows"]}):
                rows = [r for r in document["rows"] if (r["against"], r["examples"]) == (against, size)]
                if not rows:
                    continue
                entries = [
                    Entry(document["model"]),
                    Entry(suite.task_title(document["task"])),
                    Entry(document["score"]),
                    number(str(size)),
                    Entry(named),
                    number(str(len(rows))),
                    *(_mean(rows, key) for key in ("spearman", "spearman_in_pools", "overlap", "chance", "corrected")),
                ]
                body.append(Row(entries))
    columns = [
        "Model", "Task", "Score", "Examples", "Compared with", "Pairs", "Rank correlation", "Within pools",
        "Overlap of the chosen", "By chance", "Corrected for chance",
    ]  # fmt: skip
    votes = sorted({f"{d['votes']['percentile']:g}th percentile, pool {d['votes']['pool']}" for d in documents})
    note = f"Means over pairs of seeds, beneath them the range. Modules are chosen by votes: {words.listing(votes)}."
    return plain("stability", "Agreement of small samples", columns, body, note if documents else "")


def mean_of(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[float, float, float] | None:
    """Return mean, least and most of a measure over comparisons; None where none has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return (sum(values) / len(values), min(values), max(values)) if values else None


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> Entry:
    found = mean_of(rows, key)
    if found is None:
        return ABSENT
    mean, low, high = (f"{value:.3f}".replace("-", "−") for value in found)
    return Entry(mean, "" if key == "chance" or len(rows) == 1 else f"[{low}, {high}]", frozenset({"number"}))


def _place(suite: Suite, one: Placed) -> list[Entry]:
    source = "all tasks" if one.task is None else suite.task_title(one.task)
    return [Entry(suite.label(one.variant)), Entry(one.model), Entry(source)]


def _layer(document: Mapping[str, Any], module: str) -> int:
    return (document.get("layers") or {}).get(module, 0)


def _module(document: Mapping[str, Any], module: str) -> list[Entry]:
    layer, kind = (document.get("layers") or {}).get(module), (document.get("types") or {}).get(module)
    shape = (document.get("shapes") or {}).get(module)
    return [
        Entry(module),
        ABSENT if layer is None else number(str(layer)),
        ABSENT if kind is None else Entry(words.MODULES.get(kind, kind)),
        ABSENT if shape is None else number(" × ".join(map(str, shape))),
    ]
