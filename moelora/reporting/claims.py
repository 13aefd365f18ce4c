"""Paper against measured: what records say of published claims, as tables."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moelora import stats
from moelora.claims import KINDS, CountCheck, Gain, Judgement, Key, Measured, Remark, WordVerdict
from moelora.claims.claim import Claim
from moelora.claims.verdicts import NOT_RUN, VERDICTS
from moelora.reporting import words
from moelora.reporting.escape import CsvWriter
from moelora.reporting.runs import Run, Suite
from moelora.reporting.table import Entry, Row, Table, number, plain
from moelora.tasks.protocols import POSED


def measured_from(suites: Iterable[Suite], claims: Iterable[Claim]) -> list[Measured]:
    """Return what single-task runs measured: one entry a suite × model × task × variant × regime × metric.

    Args:
        suites: What was collected.
        claims: What is asked about; intervals of anything else are not made.
    """
    wanted = {(c.recipe.method, c.key.task, c.key.metric) for c in claims if c.recipe}
    groups: dict[tuple[str, ...], list[Run]] = {}
    for suite in suites:
        for run in suite.runs:
            if run.finished and not run.is_mixture:
                for task in run.scores:
                    key = (suite.name, run.model, task, run.variant, run.regime)
                    groups.setdefault(key, []).append(run)
    found = []
    for (suite_name, model, task, variant, _regime), runs in sorted(groups.items()):
        first = runs[0].scores[task]
        for metric in sorted(m for m in first.metrics if (runs[0].method, task, m) in wanted):
            low, high, mean = _interval(runs, task, metric)
            record = runs[0].record
            found.append(
                Measured(
                    key=_key(record, task, metric, model),
                    suite=suite_name,
                    variant=variant,
                    method=record["method"],
                    settings=record["plan"].get("settings") or {},
                    training=record["plan"].get("training") or {},
                    tuned=record.get("tuning") is not None,
                    mean=mean,
                    low=low,
                    high=high,
                    n_seeds=len({r.seed for r in runs}),
                    records=tuple(sorted(r.id for r in runs)),
                )
            )
    return found


def resources_from(
    suites: Iterable[Suite], costs: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return parameters from records and memory and time from cost measurements: quantity → place → method → value.

    Only variants that are called as their method are taken: they have its usual settings.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for suite in suites:
        for run in suite.runs:
            if _is_plain(run.variant, run.method):
                for quantity in ("trainable", "active"):
                    value = (run.record.get("parameters") or {}).get(quantity)
                    if value is not None:
                        place = f"{suite.name}, {run.model}, {run.task}"
                        found.setdefault(quantity, {}).setdefault(place, {})[run.method] = value
    for document in costs:
        place = f"{document.get('suite', 'costs')}, {document['model']}"
        for variant, cost in document["variants"].items():
            if cost.get("status", "finished") == "finished":
                for quantity in ("peak_memory_bytes", "step_seconds"):
                    if cost.get(quantity) is not None:
                        method = variant.replace("-", "_")
                        found.setdefault(quantity, {}).setdefault(place, {})[method] = cost[quantity]
    return found


def measured_table(judgements: Sequence[Judgement]) -> Table:
    """Return paper against measured: what was run or counted, and the averages of the founding papers."""
    chosen = [j for j in judgements if j.verdict != NOT_RUN or _stands_for_its_row(j.claim)]
    rows = [_judgement_row(j) for j in sorted(chosen, key=lambda j: VERDICTS.index(j.verdict))]
    columns = ["Claim", "Where", "Task", "Metric", "Published", "Ours, as published", "Ours, tuned"]
    note = (
        "In the paper's unit; ours with its 95 % interval. Reproduced: the difference lies within our interval, the "
        "sampling of the paper's items and its rounding. Of the founding papers the averages stand here whether run or "
        "not, with the command that would run them; claims.csv has every claim."
    )
    return plain("claims", "Measured and counted", [*columns, "Difference", "Verdict", "Why"], rows, note)


def counts_table(counts: Sequence[CountCheck]) -> Table:
    """Return every printed count of parameters beside the closed formula's."""
    units = {"percent": " %", "million": " M", "parameters": ""}
    body = []
    for check in counts:
        shown = _shown(check) + units[check.unit]
        printed = f"{int(check.printed):,}" if check.unit == "parameters" else f"{check.printed}{units[check.unit]}"
        entries = [_name(check.claim), Entry(_where(check.claim)), number(printed), number(shown)]
        entries += [number(f"{check.counted:,}"), _verdict("reproduced" if check.agrees else "not reproduced")]
        body.append(Row([*entries, Entry(check.remark)]))
    columns = ["Method", "Where", "Printed", "Closed formula", "Trainable", "Verdict", "Remark"]
    note = "Closed formulas of the method pages at the true shapes of the models; adapters and routers, without heads."
    return plain("claims-parameters", "Printed parameters against closed formulas", columns, body, note)


def checks_table(remarks: Sequence[Remark], claims: Sequence[Claim]) -> Table:
    """Return what checks without a run found, worst and founding papers first; gains within noise are only counted."""
    by_id = {c.id: c for c in claims}
    kinds = [k for k in KINDS if k != "noise"]
    chosen = [r for r in remarks if r.kind in kinds]
    chosen.sort(key=lambda r: (kinds.index(r.kind), not by_id[r.claim].founding))
    body = [
        Row([Entry(KINDS[r.kind]), _name(by_id[r.claim]), Entry(_where(by_id[r.claim])), Entry(r.text)]) for r in chosen
    ]
    note = "Found in the documents themselves, without a run."
    return plain(
        "claims-checks", "What published numbers say of themselves", ["Check", "Claim", "Where", "Finding"], body, note
    )


def words_table(verdicts: Sequence[WordVerdict]) -> Table:
    """Return claims in words with their verdicts."""
    body = [Row([Entry(v.document), Entry(v.text), _verdict(v.verdict), Entry(v.finding)]) for v in verdicts]
    columns = ["Document", "Claim, in our words", "Verdict", "Finding"]
    return plain("claims-words", "Claims in words", columns, body, "")


def notes_table(documents: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what is known to be wrong or unclear, document by document."""
    body = [
        Row([Entry(d["title"]), Entry(", ".join(note["about"].values())), Entry(" ".join(note["text"].split()))])
        for d in documents.values()
        for note in d.get("notes") or []
    ]
    return plain("claims-notes", "What to know before comparing", ["Document", "About", "Note"], body, "")


def document_table(judgements: Sequence[Judgement], title: str) -> Table:
    """Return every claim of one document; evaluations during training are left to the CSV file."""
    rows = [_judgement_row(j) for j in judgements if j.claim.kind != "log"]
    columns = ["Claim", "Where", "Task", "Metric", "Published", "Ours, as published", "Ours, tuned"]
    return plain("", title, [*columns, "Difference", "Verdict", "Why"], rows, "")


def pages(table: Table, rows: int = 40) -> list[Table]:
    """Return a table in parts that fit a printed page each."""
    starts = range(0, max(len(table.rows), 1), rows)
    if len(starts) == 1:
        return [table]
    parts = [(i + 1, table.rows[start : start + rows]) for i, start in enumerate(starts)]
    titles = {i: f"{table.title} ({i} of {len(starts)})" for i, _ in parts}
    return [replace(table, title=titles[i], rows=some, name=f"{table.name}-{i}") for i, some in parts]


def claims_csv(judgements: Sequence[Judgement], remarks: Sequence[Remark]) -> str:
    """Return every claim as CSV with full digits: its conditions, what was measured, the verdict and all remarks."""
    said: dict[str, list[str]] = {}
    for remark in remarks:
        said.setdefault(remark.claim, []).append(f"{remark.kind}: {remark.text}")
    writer = CsvWriter()
    writer.writerow(
        "id document table setup kind model method task metric published source seeds items task_here version split "
        "metric_here protocol model_here start checkpoint ours low high n_seeds tuned tuned_low tuned_high difference "
        "verdict reason command records remarks notes".split()
    )
    for j in judgements:
        c, k = j.claim, j.claim.key
        line = [c.id, c.document, c.table, c.setup, c.kind, c.model, c.method, c.task, c.metric, c.text, c.source]
        line += [c.seeds, c.items, k.task, k.version, k.split, k.metric, k.protocol, k.model, k.start, k.selection]
        line += [*_scaled(j.ours, c), j.ours.n_seeds if j.ours else None, *_scaled(j.tuned, c)]
        line += [None if j.difference is None else f"{j.difference:.6f}", j.verdict, j.reason, j.command]
        line += [" ".join(j.ours.records) if j.ours else None, " ".join(said.get(c.id, [])), " ".join(c.notes)]
        writer.writerow(line)
    return writer.getvalue()


def findings(
    judgements: Sequence[Judgement], remarks: Sequence[Remark], gains: Sequence[Gain], counts: Sequence[CountCheck]
) -> list[str]:
    """Return what the page says first, in sentences."""
    verdicts = Counter(j.verdict for j in judgements)
    counted = sum(j.counted is not None for j in judgements)
    said = ", ".join(f"{verdicts[v]:,} {v}" for v in VERDICTS if verdicts[v])
    sentences = [f"{len(judgements):,} published numbers: {said}; {counted} of them are judged by a closed formula."]
    agree = sum(c.agrees for c in counts)
    sentences.append(f"{agree} of {len(counts)} printed counts of parameters follow from the closed formulas.")
    up = [g for g in gains if g.difference > 0]
    within = sum(g.difference <= 2 * g.error for g in up)
    if up:
        sentences.append(
            f"{within} of {len(up)} printed gains over LoRA lie within two standard errors of what items alone allow, "
            "each of one run; how much seeds add is not printed."
        )
    kinds = Counter(r.kind for r in remarks)
    for kind, heading in KINDS.items():
        if kind not in ("noise", "parameters") and kinds[kind]:
            sentences.append(f"{heading}: {kinds[kind]}.")
    return sentences


def _judgement_row(j: Judgement) -> Row:
    c = j.claim
    return Row(
        [
            _name(c),
            Entry(_where(c)),
            Entry(c.task),
            Entry(_metric(c)),
            number(c.text),
            _ours(j.ours, c) if j.counted is None else number(_shown(j.counted)),
            _ours(j.tuned, c),
            Entry("–") if j.difference is None else number(f"{j.difference:+.2f}".replace("-", "−")),
            _verdict(j.verdict),
            Entry(j.reason, j.command if j.verdict == NOT_RUN else ""),
        ]
    )


def _stands_for_its_row(claim: Claim) -> bool:
    return claim.founding and claim.kind == "score" and (claim.task == "avg" or claim.table == "README results")


def _ours(measured: Measured | None, claim: Claim) -> Entry:
    if measured is None or claim.scale is None:
        return Entry("–", marks=frozenset({"absent"}))
    mean, low, high = (x if x is None else claim.scale * x for x in (measured.mean, measured.low, measured.high))
    digits = max(claim.digits, 1)
    marks = {"number"} | ({"single"} if measured.n_seeds == 1 else set())
    detail = "" if low is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
    seeds = words.plural(measured.n_seeds, "seed")
    title = f"{measured.variant} on {measured.key.model}, {seeds}: {' '.join(measured.records)}"
    return Entry(f"{mean:.{digits}f}", detail, frozenset(marks), title)


def _shown(check: CountCheck) -> str:
    return f"{check.shown:,.0f}" if check.unit == "parameters" else f"{check.shown:.3f}"


def _name(claim: Claim) -> Entry:
    return Entry(claim.method, title=claim.id)


def _where(claim: Claim) -> str:
    document = claim.document.partition(" (")[0]  # the number of a preprint is in the CSV file
    return f"{document}, {claim.table}, {claim.setup}: {claim.key.model}"


def _metric(claim: Claim) -> str:
    words_of = {"trainable_parameters": "parameters", "trainable_parameters_millions": "million parameters"}
    if claim.key.metric is None:
        return words_of.get(claim.metric, claim.metric.replace("_", " "))
    return words.metric_label(claim.key.metric) + (", %" if claim.scale == 100.0 else "")


def _verdict(text: str) -> Entry:
    return Entry(text, marks=frozenset({"lost"}) if text.startswith(("not reproduced", "does not")) else frozenset())


def _scaled(measured: Measured | None, claim: Claim) -> list[str | None]:
    values = [None] * 3 if measured is None else [measured.mean, measured.low, measured.high]
    return [None if v is None or claim.scale is None else f"{claim.scale * v:.6f}" for v in values]


def _interval(runs: Sequence[Run], task: str, metric: str) -> tuple[float | None, float | None, float]:
    values = {r.seed: r.scores[task].metrics[metric] for r in runs}
    mean = float(np.mean(list(values.values())))
    draws = {}
    for run in runs:
        score = run.scores[task]
        if metric == score.main_metric:
            draws[run.seed] = run.draws[task]
        elif score.items is not None:
            counts = stats.resampling_counts(len(score.items), stream=zlib.crc32(task.encode()))
            drawn = stats.resampled_metric(metric, score.items, counts)
            if drawn is not None:
                draws[run.seed] = drawn
    if draws.keys() != values.keys():
        return None, None, mean
    found = stats.SeedScores(values, draws, words.metric_bounds(metric)).estimate()
    return found.low, found.high, mean


def _key(record: Mapping[str, Any], task: str, metric: str, model: str) -> Key:
    score = record["scores"][task]
    planned = next((t for t in record["plan"].get("tasks") or [] if isinstance(t, dict) and t["name"] == task), {})
    return Key(
        task=task,
        version=score.get("task_version", planned.get("version")),
        split=score["split"],
        # the accuracy of a protocol of ours has its name; a claim says it beside the metric
        metric="accuracy" if score["protocol"] in POSED else metric,
        protocol=score["protocol"],
        model=model,
        start="another adapter" if record.get("parent") else "base",
    )


def _is_plain(variant: str, method: str) -> bool:
    return variant.replace("-", "_") == method
