"""Gather the records of a suite into one Parquet file, checked on the way.

One row is a record × scored task × metric, with the whole record as JSON beside it, so that the table
can be queried as it is and the report needs no other file. The row of a task's main metric also carries
the scored items, which the intervals are made from. A run that did not finish is a row without a metric.
Where runs kept their routers' choices, each carries how it agrees with the other seeds of its variant, as JSON.

``chance`` is what the constant answer scores, ``chance_low`` and ``chance_high`` how far luck carries answers that know
nothing, and ``within_chance`` whether the score lies between them. Where no such interval is known (macro F1) the flag
is the record's, whose rule is another: that the score's own interval reaches down to the constant answer.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moelora import stats
from moelora.errors import RecordError
from moelora.files import atomic_write_bytes, canonical_json, read_json, sha256_file
from moelora.records import SCHEMA_FILE, read_record
from moelora.reporting.agreement import agreements, watched_part
from moelora.validation import find_trouble, load_validator

MANIFEST = SCHEMA_FILE.with_name("manifest.schema.json")

_NUMBERS = pa.list_(pa.float32())

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("suite", pa.string()),
        ("model", pa.string()),
        ("task", pa.string()),
        ("variant", pa.string()),
        ("method", pa.string()),
        ("regime", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("scored_task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("is_main", pa.bool_()),
        ("n_items", pa.int64()),
        ("chance", pa.float64()),
        ("chance_low", pa.float64()),
        ("chance_high", pa.float64()),
        ("within_chance", pa.bool_()),
        ("interval_low", pa.float64()),
        ("interval_high", pa.float64()),
        ("protocol", pa.string()),
        ("synthetic", pa.bool_()),
        ("trainable", pa.int64()),
        ("active", pa.int64()),
        ("fingerprint", pa.string()),
        ("item_labels", _NUMBERS),
        ("item_predictions", _NUMBERS),
        ("item_correct", _NUMBERS),
        ("record", pa.string()),
        ("agreement", pa.string()),
    ]
)


def run(args: argparse.Namespace) -> None:
    """Carry out `moelora collect --manifests FILE... --out FILE`."""
    write_records(collect_records(args.manifests), args.out)


def collect_records(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return the rows of all records that the manifests name, sorted.

    Args:
        paths: Job manifests, or records themselves (as published ones).

    Raises:
        RecordError: A manifest or record is missing, truncated, altered since its job ended, or does
            not fit the schema. The message names the file.
    """
    watched: list[tuple[Path, dict[str, Any]]] = []
    rows: list[dict[str, Any]] = []
    seen: dict[str, Path] = {}
    for path in sorted({Path(p) for p in paths}):
        for file in _record_files(path):
            record = read_record(file)
            earlier = seen.setdefault(record["id"], file)
            if earlier is not file:
                if earlier == file or sha256_file(earlier) == sha256_file(file):
                    continue
                raise RecordError(
                    f"found two different records of run {record['id']}, {earlier} and {file}, expected one "
                    "a run; delete the one that is out of date"
                )
            # The text of a record is small beside its objects, so no more of these is kept than is compared later.
            watched.append((file, watched_part(record)))
            rows.extend(_rows(record, file))
    agreed = {name: canonical_json(found) for name, found in agreements(watched).items()}
    for row in rows:
        if row["id"] in agreed:
            row["agreement"] = agreed[row["id"]]
    frame = pd.DataFrame(rows, columns=SCHEMA.names)
    keys = ["suite", "model", "task", "variant", "regime", "seed", "id", "scored_task", "metric"]
    return frame.sort_values(keys, kind="stable", na_position="first").reset_index(drop=True)


def write_records(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the rows as Parquet whose bytes depend on the rows alone."""
    # Where no record has items, pandas takes their columns for numbers, which Arrow does not read as lists.
    lists = {field.name: object for field in SCHEMA if pa.types.is_list(field.type)}
    table = pa.Table.from_pandas(frame.astype(lists), schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=True)
    atomic_write_bytes(Path(path), buffer.getvalue())


def read_records(path: str | Path) -> pd.DataFrame:
    """Return the rows that :func:`write_records` wrote.

    Raises:
        RecordError: The file is missing, truncated or not ours.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist; run moelora collect to write it") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise RecordError(
            f"{path} is truncated or not Parquet ({error}); delete it and run moelora collect again"
        ) from error
    missing = sorted(set(SCHEMA.names) - set(table.column_names))
    if missing:
        raise RecordError(
            f"{path} lacks the columns {', '.join(missing)}; it is of another version, run moelora collect again"
        )
    return table.to_pandas()


def _record_files(path: Path) -> Iterator[Path]:
    document = read_json(path, "manifest")
    if not isinstance(document, dict):
        raise RecordError(f"{path} holds a {type(document).__name__}, expected a job manifest or a record")
    if not {"runs", "job"} & document.keys():
        yield path
        return
    if trouble := find_trouble(document, load_validator(MANIFEST)):
        raise RecordError(f"manifest {path}: {trouble}; delete it and run the job again")
    root = path.parent.parent  # <suite>/jobs/<job>.json
    for entry in document["runs"]:
        file = root / entry["folder"] / "record.json"
        _check_bytes(file, entry.get("record_sha256"), path)
        yield file


def _check_bytes(file: Path, expected: str | None, manifest: Path) -> None:
    if not file.is_file():
        raise RecordError(
            f"record {file} does not exist, but manifest {manifest} names it; delete the manifest and run the job again"
        )
    found = sha256_file(file)
    if expected is not None and found != expected:
        raise RecordError(
            f"record {file} is truncated or was changed after its job ended: found sha256 {found[:12]}…, "
            f"expected {expected[:12]}… from {manifest}; delete the manifest and run the job again"
        )


def _rows(record: dict[str, Any], file: Path) -> Iterator[dict[str, Any]]:
    head = {name: record[name] for name in ("id", "suite", "model", "task", "variant", "method", "regime")}
    parameters = record.get("parameters") or {}
    head |= {
        "seed": record["seed"],
        "status": record["status"],
        "reason": record.get("reason"),
        "trainable": parameters.get("trainable"),
        "active": parameters.get("active"),
        "fingerprint": record.get("fingerprint"),
        "record": canonical_json(record),
    }
    scores = record.get("scores") or {}
    if not scores:
        yield head
        return
    items = _items(file, record)
    for task, score in sorted(scores.items()):
        low, high = score.get("interval") or (None, None)
        for metric, value in sorted(score["metrics"].items()):
            is_main = metric == score["main_metric"]
            chance = score.get("chance") if is_main else (score.get("majority") or {}).get(metric)
            bounds = None if chance is None else stats.chance_bounds(metric, chance, score["n_items"])
            flag = score.get("within_chance") if is_main else None
            row = head | {
                "scored_task": task,
                "metric": metric,
                "value": value,
                "is_main": is_main,
                "n_items": score["n_items"],
                "chance": chance,
                "chance_low": bounds and bounds[0],
                "chance_high": bounds and bounds[1],
                "within_chance": flag if bounds is None else stats.lies_within(value, bounds),
                "interval_low": low if is_main else None,
                "interval_high": high if is_main else None,
                "protocol": score.get("protocol"),
                "synthetic": bool(score.get("synthetic")),
            }
            if is_main and task in items:
                row |= items[task]
            yield row


_ITEM_COLUMNS = {"item_labels": "label", "item_predictions": "prediction", "item_correct": "correct"}


def _items(file: Path, record: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Return the scored items by task; published records have none."""
    name = record.get("items")
    if not name:
        return {}
    path = file.parent / name
    if not path.is_file():
        return {}
    content, expected = path.read_bytes(), record.get("items_sha256")
    if expected and (found := hashlib.sha256(content).hexdigest()) != expected:
        raise RecordError(
            f"items {path} are truncated or were changed after their run: found sha256 {found[:12]}…, expected "
            f"{expected[:12]}… from {file.name}; delete the run's record and run its job again"
        )
    try:
        # Neither through pandas nor as a data set: with thousands of small files their own work is the most of it.
        with pq.ParquetFile(pa.BufferReader(content)) as opened:
            table = opened.read(columns=["task", "item", *_ITEM_COLUMNS.values()], use_threads=False)
        tasks, items = (table.column(name).to_numpy() for name in ("task", "item"))
        values = {kept: _numbers(table.column(name)) for kept, name in _ITEM_COLUMNS.items()}
        found = {}
        for task in sorted(set(tasks)):
            rows = np.flatnonzero(tasks == task)
            rows = rows[np.argsort(items[rows], kind="stable")]
            found[str(task)] = {kept: column[rows] for kept, column in values.items()}
        return found
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise RecordError(
            f"items {path} are truncated or not what {file.name} promises ({error}); "
            "delete the run's record and run its job again"
        ) from error


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy().astype(np.float32)  # what is absent becomes NaN
