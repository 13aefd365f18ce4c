"""Records: the small JSON that a run leaves, and from which alone all tables and figures are made."""

from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import read_json
from moelora.records.quick import fits_schema
from moelora.sums import refuse_changed
from moelora.validation import find_trouble, load_validator

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
STATUSES = ("finished", "failed", "diverged", "out_of_memory", "skipped")

__all__ = ["SCHEMA", "STATUSES", "attached_sums", "check_attached", "read_record", "validate_record"]


def validate_record(record: Any, where: "Path | str" = "record") -> None:
    """Check a record against its schema.

    Raises:
        RecordError: names the file, the key and what is wrong with it.
    """
    trouble = "" if fits_schema(record) else find_trouble(record, load_validator(SCHEMA_FILE))
    trouble = trouble or _contradiction(record)
    if trouble:
        raise RecordError(
            f"{where} is no record of schema {SCHEMA}: {trouble}; delete it and run the job that writes it again"
        )


def _contradiction(record: dict[str, Any]) -> str:
    """Return in what a record contradicts itself; empty where it does not."""
    for task, score in record["scores"].items():
        if score["main_metric"] not in score["metrics"]:
            return f"'scores.{task}.main_metric' is '{score['main_metric']}', which 'metrics' does not have"
        if score["interval"][0] > score["interval"][1]:
            return f"'scores.{task}.interval' must rise, found {score['interval']}"
    return ""


def read_record(path: "Path | str") -> dict[str, Any]:
    """Return a record, checked.

    Raises:
        RecordError: the file is missing, truncated, changed since it was written, not JSON or not a record; the message
            names it.
    """
    record = read_json(path, "record")
    validate_record(record, path)
    return record


def attached_sums(record: dict[str, Any]) -> dict[str, str]:
    """Return file name → SHA-256 of what lies beside a record: its scored items and its routers' first choices."""
    sums = {}
    if record.get("items") and record.get("items_sha256"):  # older records do not have the second
        sums[record["items"]] = record["items_sha256"]
    if choices := (record.get("diagnostics") or {}).get("choices"):
        sums[choices["file"]] = choices["sha256"]
    return sums


def check_attached(folder: Path, record: dict[str, Any]) -> None:
    """Refuse files beside a record that are not those it was written with; what somebody deleted is not missed.

    Raises:
        RecordError: a file is truncated or was changed; the message names it.
    """
    there = {name: total for name, total in attached_sums(record).items() if (folder / name).is_file()}
    refuse_changed(folder, there, "delete the run's record and run its job again")
