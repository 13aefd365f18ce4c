"""`moelora report`: tables, figures and the page of one suite, from records alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from moelora.errors import OutputError, RecordError
from moelora.files import atomic_write_text, read_json
from moelora.methods._proven import REMEDY, read_proven, trouble
from moelora.records.speed import read_speed
from moelora.reporting import (
    allocation_tables,
    cells,
    chance,
    figures,
    forgetting,
    multitask,
    provenance,
    rates,
    render,
    routing_tables,
    search,
    significance,
    speed,
    tables,
    words,
)
from moelora.reporting.claims_part import ClaimsPart, read_part
from moelora.reporting.collect import read_records
from moelora.reporting.figures.speed import draw_sweep
from moelora.reporting.long_csv import curves_csv, loads_csv
from moelora.reporting.page import Comparison, Content, page
from moelora.reporting.placed import placed
from moelora.reporting.runs import Suite
from moelora.reporting.summary import summarise


def run(args: argparse.Namespace) -> None:
    """Carry out `moelora report`: records, costs, records of the bench, stability, suite, title in; a folder out."""
    document = read_json(args.suite, "suite") if getattr(args, "suite", None) else {}
    stale = getattr(args, "fingerprints", None)
    write_report(
        read_records(args.records),
        [read_costs(path) for path in sorted(map(Path, getattr(args, "costs", None) or []))],
        Path(args.out),
        document=document,
        title=getattr(args, "title", None),
        searched=search.read_search(args.search) if getattr(args, "search", None) else None,
        claims=read_part(args.claims) if getattr(args, "claims", None) else None,
        fingerprints=read_json(stale, "fingerprints") if stale else document.get("fingerprints") or {},
        speeds=[read_speed(path) for path in getattr(args, "speed", None) or []],
        stabilities=[read_stability(path) for path in sorted(map(Path, getattr(args, "stability", None) or []))],
        workers=getattr(args, "workers", 1),
    )


def read_costs(path: str | Path) -> dict[str, Any]:
    """Return a cost measurement.

    Raises:
        RecordError: The file is missing, truncated or of another kind.
    """
    document = read_json(path, "cost measurement")
    if not isinstance(document, dict) or not {"model", "variants"} <= document.keys():
        raise RecordError(f"{path} is no cost measurement: expected the keys model and variants; run moelora costs")
    return document


def read_stability(path: str | Path) -> dict[str, Any]:
    """Return how sensitivities agree between samples.

    Raises:
        RecordError: The file is missing, truncated or of another kind.
    """
    document = read_json(path, "stability")
    if not isinstance(document, dict) or not {"model", "task", "score", "votes", "rows"} <= document.keys():
        raise RecordError(
            f"{path} is no comparison of samples: expected the keys model, task, score, votes and rows; run moelora "
            "sensitivity --stability"
        )
    return document


def write_report(
    frame: pd.DataFrame,
    costs: Sequence[Mapping[str, Any]],
    out: Path,
    document: Mapping[str, Any] | None = None,
    title: str | None = None,
    fingerprints: Mapping[str, str] | None = None,
    speeds: Sequence[Mapping[str, Any]] = (),
    stabilities: Sequence[Mapping[str, Any]] = (),
    searched: Mapping[str, Any] | None = None,
    claims: ClaimsPart | None = None,
    workers: int = 1,
) -> None:
    """Write `index.html`, `tables/` and `figures/` under `out`.

    Args:
        frame: The rows of `records.parquet`.
        costs: Cost measurements, one a model.
        out: The report's folder.
        document: The expanded suite file: titles and order.
        title: Heading of the page; by default the suite's.
        fingerprints: Fingerprints of the source as it is now, by plan hash, variant or method.
        speeds: Records of the bench, in the order in which they are shown.
        stabilities: How sensitivities agree between samples, one a model and task.
        searched: The finished search of the suite, if it has one.
        claims: What published claims say of these runs, where the suite asks for it.
        workers: Processes that draw figures side by side.

    Raises:
        OutputError: The folder can't be written.
        RecordError: There is no record.
    """
    if frame.empty:
        raise RecordError("found no record, expected at least one run to report on; run the suite first")
    suite = Suite.from_frame(frame, document)
    panels = cells.panels(suite)
    effects = cells.interference(panels)
    unproven = unproven_methods(suite)
    headlines = [tables.headline(p, unproven) for p in panels]
    allocations = placed(suite)
    others = {
        t.name: t
        for t in (
            significance.significance_table(significance.contrasts(panels)),
            significance.ranks_table(panels),
            chance.chance_table(suite, panels),
            rates.rates_table(suite, rates.curves(suite)),
            multitask.interference_table(suite, effects),
            multitask.mixtures_table(suite, panels),
            forgetting.forgetting_table(suite, panels),
            forgetting.forgetting_details(suite, panels),
            multitask.routing_tasks_table(suite, panels),
            routing_tables.routing_table(suite, panels),
            routing_tables.routers_table(suite, panels),
            allocation_tables.allocations_table(suite, allocations),
            allocation_tables.experts_table(suite, allocations),
            allocation_tables.sensitivity_table(suite, allocations),
            allocation_tables.stability_table(suite, stabilities),
            tables.costs_table(suite, costs),
            tables.parameters_table(suite, panels),
            tables.all_metrics(suite, panels),
            tables.failures_table(suite),
            provenance.stale(suite, fingerprints or {}),
            provenance.runs_table(suite),
        )
    }
    drawn = figures.draw_all(suite, panels, effects, costs, stabilities, workers)
    compared = [_comparison(one) for one in speeds]
    drawn += [one.figure for one in compared if one.figure]
    others |= {table.name: table for one in compared for table in one.tables}
    findings = summarise(suite, panels, effects, costs)
    if searched is not None:
        others["search"] = search.search_table(searched)
        drawn += figures.draw_search(searched)
        findings.insert(-1, search.search_finding(suite, panels, searched))
    long = {"curves": curves_csv(suite), "loads": loads_csv(suite)}
    content = Content(
        suite=suite,
        title=title or suite.title,
        findings=findings,
        headlines=headlines,
        tables=others,
        figures=drawn,
        files={"headline", *others, *long},
        compared=compared,
        claims=claims,
        warnings=[*warnings(suite), *unproven_warnings(unproven)],
    )
    atomic_write_text(out / "tables" / "headline.md", render.markdown(headlines))
    atomic_write_text(out / "tables" / "headline.tex", render.latex(headlines))
    atomic_write_text(out / "tables" / "headline.csv", render.headline_csv(panels))
    for name, table in others.items():
        atomic_write_text(out / "tables" / f"{name}.md", render.markdown([table]))
        atomic_write_text(out / "tables" / f"{name}.tex", render.latex([table]))
        atomic_write_text(out / "tables" / f"{name}.csv", render.csv_of([table]))
    for name, text in long.items():
        atomic_write_text(out / "tables" / f"{name}.csv", text)
    _make_folder(out / "figures")
    for figure in drawn:
        atomic_write_text(out / "figures" / f"{figure.name}.svg", figure.svg)
    _remove_others(out / "figures", {f"{f.name}.svg" for f in drawn})
    # The page comes last: where it is, the files it speaks of are.
    atomic_write_text(out / "index.html", page(content))


def _comparison(record: Mapping[str, Any]) -> Comparison:
    shown = speed.speed_tables(record)
    drawn = replace(draw_sweep(record), data=tuple(t.name for t in shown)) if record["axis"] else None
    return Comparison(record["name"], speed.conditions(record), shown, drawn)


def warnings(suite: Suite) -> list[str]:
    """Return what does not fit together in the records themselves."""
    found = []
    for run_ in suite.runs:
        for task, score in run_.scores.items():
            if score.disagreement > 1e-3:
                found.append(
                    f"{run_.variant} on {task}, seed {run_.seed} ({run_.id}): the record says {score.value:.4f}, "
                    f"its items give {score.value + score.disagreement:.4f} or {score.value - score.disagreement:.4f}"
                )
    return found


def unproven_methods(suite: Suite) -> dict[str, str]:
    """Return why methods of the suite do not count as proven, by method; those that passed are left out."""
    proven = read_proven()
    found = {method: trouble(method, proven) for method in sorted({run_.method for run_ in suite.runs})}
    return {method: why for method, why in found.items() if why}


def unproven_warnings(unproven: Mapping[str, str]) -> list[str]:
    """Return the sentence under which the page says what is unproven."""
    if not unproven:
        return []
    named = {words.method_label(method): why for method, why in unproven.items()}
    whose = "Its numbers" if len(named) == 1 else "Their numbers"
    return [f"{tables.unproven_note(named)} {whose} may not be those that the code gives now: {REMEDY}."]


def _make_folder(folder: Path) -> None:
    # A suite without anything to draw still has the folder, which the workflow declares.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; check that you may write there") from error


def _remove_others(folder: Path, keep: set[str]) -> None:
    # A figure of an earlier report that nothing speaks of any more would be taken for a current one.
    try:
        for path in sorted(folder.glob("*.svg")):
            if path.name not in keep:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}; check that you may write there") from error
