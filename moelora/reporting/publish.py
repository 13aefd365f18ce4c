"""`moelora publish`: promote records to the tracked folder, one small JSON a run."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from moelora.errors import OutputError, RecordError
from moelora.files import atomic_write_bytes, write_sealed_json
from moelora.methods._proven import require_proven
from moelora.records import validate_record
from moelora.reporting.collect import read_records
from moelora.reporting.readme import update_readme

_CURVE_POINTS = 50
_DIGITS = 5


def run(args: argparse.Namespace) -> None:
    """Carry out `moelora publish --records FILE --to DIR [--report DIR [--readme FILE]]`."""
    publish_records(read_records(args.records), Path(args.to))
    if getattr(args, "report", None):
        folder = publish_report(Path(args.report))
        if getattr(args, "readme", None):
            update_readme(Path(args.readme), folder)


def publish_records(frame: pd.DataFrame, to: Path) -> list[Path]:
    """Write each record of a suite to `to/<suite>/` (or to `to` where that is the suite's folder already).

    Args:
        frame: The rows of `records.parquet`.
        to: `results/published`.

    Returns:
        The files written, sorted.

    Raises:
        OutputError: The folder can't be written.
        RecordError: There is no record, one does not fit the schema, or one is of a method that never passed the
            battery.
    """
    runs = frame.drop_duplicates("id")[["record", "agreement"]]
    if runs.empty:
        raise RecordError("found no record to publish, expected at least one; run the suite first")
    records = [json.loads(text) for text in runs["record"]]
    require_proven({record["method"] for record in records})
    written = []
    for record, agreed in zip(records, runs["agreement"], strict=True):
        if isinstance(agreed, str):  # the choices it comes from stay behind
            record["agreement"] = json.loads(agreed)
        folder = to if to.name == record["suite"] else to / record["suite"]
        small = published(record)
        path = folder / file_name(record)
        validate_record(small, path)
        write_sealed_json(path, small)
        written.append(path)
    return sorted(written)


def publish_report(report: Path) -> Path:
    """Copy a report's tables and its first figure to `published/` beside it; return that folder.

    Raises:
        RecordError: There is no report.
        OutputError: The folder can't be written.
    """
    page, tables = report / "index.html", report / "tables"
    if not page.is_file() or not tables.is_dir():
        raise RecordError(f"{report} is no finished report: expected index.html and tables; run moelora report")
    target = report.parent / "published" / report.name
    try:
        for folder in (target / "tables", target / "figures"):
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        raise OutputError(f"cannot replace {target}: {error.strerror}; check that you may write there") from error
    for path in sorted(tables.iterdir()):
        atomic_write_bytes(target / "tables" / path.name, path.read_bytes())
    figure = main_figure(report)
    if figure:
        atomic_write_bytes(target / "figures" / "headline.svg", figure.read_bytes())
    return target


def main_figure(report: Path) -> Path | None:
    """Return the figure that stands for a report: score against cost, equally tuned where there is that."""
    found = sorted((report / "figures").glob("*.svg"))
    for pattern in ("pareto--*--tuned", "pareto--", "tasks--"):
        for path in found:
            if path.match(pattern + ".svg") or path.stem.startswith(pattern):
                return path
    return found[0] if found else None


def file_name(record: Mapping[str, Any]) -> str:
    """Return `<model>--<task>--<variant@regime>--seed<N>.json`."""
    variant = f"{record['variant']}@{record['regime']}"
    return f"{record['model']}--{record['task']}--{variant}--seed{record['seed']}.json"


def published(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without its bulk: items and choices left out, curves thinned, loads and the like rounded.

    Every score, interval, count and setting stays as it is.
    """
    small = dict(record)
    small["items"] = None
    small.pop("items_sha256", None)
    if small.get("training"):
        training = dict(small["training"])
        for name in ("loss_curve", "balance_curve"):
            if name in training:
                training[name] = _thinned(training[name])
        small["training"] = training
    for name in ("routing", "agreement"):
        if small.get(name):
            small[name] = _rounded(small[name])
    if small.get("diagnostics"):
        small["diagnostics"] = {**_rounded(small["diagnostics"]), "choices": None}
    return small


def _rounded(value: Any) -> Any:
    """Return a document with its fractions rounded, at any depth."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, _DIGITS) if isinstance(value, float) else value


def _thinned(curve: list[list[float]]) -> list[list[float]]:
    if len(curve) <= _CURVE_POINTS:
        return curve
    last = len(curve) - 1
    picked = sorted({round(i * last / (_CURVE_POINTS - 1)) for i in range(_CURVE_POINTS)})
    return [curve[i] for i in picked]
