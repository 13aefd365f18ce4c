"""The tables of a suite, as data: which rows, which columns, what stands in a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Cell, Panel
from moelora.reporting.runs import Run, Suite
from moelora.reporting.table import Entry, Row, Table, number, plain

LEGEND = (
    "Scores × 100: mean over seeds, in brackets the 95 % interval over seeds and items. "
    "Bold: the best of the column and all that a paired comparison can't tell from it (baselines and full "
    "fine-tuning do not compete; nothing is bold where the best is within chance). "
    "Italic with †: one seed, so the interval is over items only and speaks of that one trained model. "
    "°: within chance, that is, not to be told from a constant answer. –: not part of the suite."
)

UNPROVEN = "‡"
"""Mark of a variant whose method has not passed the battery with its code as it is."""


def headline(panel: Panel, unproven: Mapping[str, str] | None = None) -> Table:
    """Return a panel's main table: variants × (tasks × regimes), with parameters first.

    Args:
        panel: The cells.
        unproven: Why a method does not count as proven, by method; its variants get a mark.
    """
    suite = panel.suite
    groups = [("", 2)]
    columns = [("Variant", ""), ("Trainable", "parameters")]
    for regime, indexes in panel.regimes:
        groups.append((words.regime_label(regime), len(indexes)))
        several = len({panel.columns[index].protocol for index in indexes}) > 1
        for index in indexes:
            column = panel.columns[index]
            if column.task == AVERAGE:
                columns.append(("Average", f"over tasks, {column.protocol}" if several else "over tasks"))
            else:
                columns.append((suite.task_title(column.task), words.metric_label(column.metric)))
    rows, marked = [], {}
    for variant in panel.variants:
        why = (unproven or {}).get(suite.method(variant), "")
        if why:
            marked[words.method_label(suite.method(variant))] = why
        entries = [Entry(panel.label(variant) + (UNPROVEN if why else ""), title=why), _parameters(panel, variant)]
        entries += [score_entry(panel.cells[variant, i], column.bounds) for i, column in enumerate(panel.columns)]
        rows.append(Row(entries, _kind(panel, variant)))
    return Table(
        panel.title,
        groups,
        columns,
        rows,
        " ".join([LEGEND, *([f"{UNPROVEN}: {unproven_note(marked)}"] if marked else [])]),
        any(c.synthetic for c in panel.columns),
        f"headline--{panel.name}",
    )


def unproven_note(marked: Mapping[str, str]) -> str:
    """Return why methods are marked, in a sentence: a reason after the methods that it holds for."""
    reasons: dict[str, list[str]] = {}
    for method, why in marked.items():
        reasons.setdefault(why, []).append(method)

    def say(methods: list[str], why: str) -> str:
        if len(methods) > 1:
            why = why.replace("has ", "have ", 1).replace(" it ", " they ")
        return f"{words.listing(methods)} {why}"

    return "; ".join(say(methods, why) for why, methods in reasons.items()) + "."


def score_entry(cell: Cell, bounds: tuple[float, float] | None = None) -> Entry:
    """Return the printed form of a cell with or without a score.

    Args:
        cell: The cell.
        bounds: The interval of chance of its column, where that is known.
    """
    if cell.estimate is None:
        if cell.lost:
            return Entry(cell.reason, marks=frozenset({"lost"}), title=_reasons(cell))
        return Entry("–", marks=frozenset({"absent"}), title="Not part of the suite.")
    e = cell.estimate
    marks = {"number"}
    marks |= {"best"} if cell.best else set()
    marks |= {"single"} if e.n_seeds == 1 and not _fixed(cell) else set()
    # Not on the constant answer itself: it is what the mark speaks of.
    marks |= {"chance"} if cell.within_chance and not _fixed(cell) else set()
    low, high = words.points(e.low), words.points(e.high)
    detail = f"[{low}, {high}]"
    if cell.lost:
        detail += f" {len(cell.lost)} of {len(cell.lost) + len(cell.runs)} {_lost_words(cell)}"
    said = f"{words.plural(e.n_seeds, 'seed')}; 95 % interval {low} to {high}"
    if "chance" in marks and bounds is not None:
        said += f"; luck alone takes a constant answer from {words.points(bounds[0])} to {words.points(bounds[1])}"
    return Entry(words.points(e.mean), detail, frozenset(marks), said, first_record(cell.runs))


def first_record(runs: Sequence[Run]) -> str:
    """Return the id of the record that a number of several runs links to: the smallest seed's; empty without runs."""
    return str(min(runs, key=lambda r: (r.task, r.seed)).id) if runs else ""


def all_metrics(suite: Suite, found: Iterable[Panel]) -> Table:
    """Return every metric of every cell, one row a variant × task × regime; means over seeds."""
    body = []
    for panel in found:
        for index, column in enumerate(panel.columns):
            if column.task == AVERAGE:
                continue
            for variant in panel.variants:
                runs = panel.cells[variant, index].runs
                for metric in sorted({m for r in runs for m in r.scores[column.task].metrics}):
                    values = [r.scores[column.task].metrics[metric] for r in runs]
                    mean = words.points(sum(values) / len(values), 2)
                    body.append(
                        Row(
                            [
                                Entry(suite.label(variant)),
                                Entry(panel.model),
                                Entry(panel.mixture or "single task"),
                                Entry(words.regime_label(column.regime)),
                                Entry(suite.task_title(column.task)),
                                Entry(words.metric_label(metric)),
                                Entry(mean, marks=frozenset({"number"}), link=first_record(runs)),
                                Entry(" ".join(words.points(v, 2) for v in values), marks=frozenset({"number"})),
                            ]
                        )
                    )
    columns = ["Variant", "Model", "Trained on", "Settings", "Task", "Metric", "Mean", "Each seed"]
    return plain("metrics", "Every metric", columns, body, "Scores × 100, in the order of the seeds.")


def parameters_table(suite: Suite, found: Iterable[Panel]) -> Table:
    """Return parameters by part beside what a matched LoRA was asked for and reached."""
    body = []
    for panel in found:
        for variant in panel.variants:
            # One run stands for all: where the tasks' heads differ the headline table shows the range.
            runs = [r for r in panel.runs if r.variant == variant and r.record.get("parameters")]
            if not runs:
                continue
            record = runs[0].record
            counts, match = record["parameters"], record.get("match")
            parts = counts.get("parts") or {}
            what = f"{words.count(match['target'])} {match.get('count', 'trainable')}" if match else ""
            said = f"{what} asked, {words.count(match['reached'])} reached" if match else ""
            body.append(
                Row(
                    [
                        Entry(suite.label(variant)),
                        Entry(panel.model),
                        Entry(panel.mixture or "single task"),
                        *(number(words.count(counts.get(k))) for k in ("trainable", "active", "total")),
                        *(number(words.count(parts.get(k)) if parts.get(k) else "0") for k in words.PARTS),
                        Entry(said),
                    ],
                    _kind(panel, variant),
                )
            )
    columns = [
        "Variant",
        "Model",
        "Trained on",
        "Trainable",
        "Active",
        "Total",
        *map(str.capitalize, words.PARTS.values()),
    ]
    return plain("parameters", "Parameters by part", [*columns, "Matched to"], body, "Active: used for one token.")


def costs_table(suite: Suite, costs: Sequence[Mapping[str, Any]]) -> Table:
    """Return the interleaved cost measurement, one row a variant."""
    body = []
    known = {r.variant for r in suite.runs}
    for document in sorted(costs, key=lambda c: str(c["model"])):
        names = {n: i for i, n in enumerate(suite.variants(suite.runs))}
        for variant, c in sorted(document["variants"].items(), key=lambda kv: (names.get(kv[0], 10**6), kv[0])):
            label = Entry(suite.label(variant) if variant in known else variant)
            adapters = sorted(
                r.record["costs"]["adapter_bytes"]
                for r in suite.runs
                if r.variant == variant
                and r.model == document["model"]
                and (r.record.get("costs") or {}).get("adapter_bytes") is not None
            )
            trained = [
                r.record["training"]["seconds"]
                for r in suite.runs
                if r.variant == variant and r.model == document["model"] and r.record.get("training")
            ]
            adapter = number(words.size(adapters[-1]) if adapters else "–")
            total = number(words.seconds(sum(trained)) if trained else "–")
            if c.get("status", "finished") != "finished":
                gone = Entry(words.status_label(c["status"]), marks=frozenset({"lost"}), title=c.get("reason") or "")
                body.append(Row([label, Entry(document["model"]), gone, *[Entry("–")] * 4, adapter, total]))
                continue
            spread = c.get("ratio_spread") or []
            body.append(
                Row(
                    [
                        label,
                        Entry(document["model"]),
                        number(words.seconds(c["step_seconds"])),
                        Entry(
                            f"{c['ratio']:.2f}×",
                            f"[{spread[0]:.2f}, {spread[1]:.2f}]" if spread else "",
                            frozenset({"number"}),
                        ),
                        number(f"{c['tokens_per_second']:,.0f}"),
                        number(words.size(c.get("peak_memory_bytes"))),
                        number(words.size(c.get("saved_bytes"))),
                        adapter,
                        total,
                    ]
                )
            )
    reference = sorted({suite.label(c["reference"]) if c["reference"] in known else c["reference"] for c in costs})
    note = (
        f"All variants took turns in one process of their own; ratios are to {words.listing(reference)}, round "
        "by round, with quartiles. The last column is what the training jobs took on a shared machine, seeds "
        "and tasks added up."
    )
    columns = ["Variant", "Model", "Step", "Against the reference", "Tokens/s", "Peak memory"]
    return plain("costs", "Costs", [*columns, "Saved for backward", "Adapter", "Training, all runs"], body, note)


def failures_table(suite: Suite) -> Table:
    """Return every run that did not finish, with its reason."""
    body = [
        Row(
            [
                Entry(suite.label(r.variant)),
                Entry(r.model),
                Entry(r.task),
                Entry(words.regime_label(r.regime)),
                number(str(r.seed)),
                Entry(words.status_label(r.status), marks=frozenset({"lost"})),
                Entry(r.reason or "no reason was recorded"),
            ]
        )
        for r in suite.runs
        if r.status != "finished"
    ]
    columns = ["Variant", "Model", "Task", "Settings", "Seed", "Status", "Reason"]
    return plain("failures", "Runs without a score", columns, body, "")


def _parameters(panel: Panel, variant: str) -> Entry:
    span = panel.parameters(variant)
    if span is None:
        return Entry("–", marks=frozenset({"absent"}))
    low, high = span
    text = words.count(low) if words.count(low) == words.count(high) else f"{words.count(low)} to {words.count(high)}"
    exact = f"{low:,}" if low == high else f"{low:,} to {high:,}, by task"
    return Entry(text, marks=frozenset({"number"}), title=exact)


def _kind(panel: Panel, variant: str) -> str:
    if panel.suite.control(variant):
        return "matched"
    return "reference" if panel.suite.method(variant) in words.REFERENCES else ""


def _fixed(cell: Cell) -> bool:
    # The constant answer has no seed, so one is all there can be.
    return bool(cell.runs) and all(r.method == "majority" for r in cell.runs)


def _reasons(cell: Cell) -> str:
    return "; ".join(sorted({f"{words.status_label(r.status)}: {r.reason or 'no reason recorded'}" for r in cell.lost}))


def _lost_words(cell: Cell) -> str:
    return words.listing(sorted({words.status_label(r.status) for r in cell.lost}))
