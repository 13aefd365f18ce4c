"""Records: the small JSON that a run leaves, and from which alone all tables and figures are made."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import read_json
from moelora.sums import refuse_changed

SCHEMA = 1
STATUSES = ("finished", "failed", "diverged", "out_of_memory", "skipped")

__all__ = ["SCHEMA", "STATUSES", "attached_sums", "check_attached", "read_record", "validate_record"]


@lru_cache(maxsize=1)
def _validator() -> Any:
    import jsonschema

    schema = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def validate_record(record: Any, where: "Path | str" = "record") -> None:
    """Check a record against its schema.

    Raises:
        RecordError: names the file, the key and what is wrong with it.
    """
    errors = sorted(_validator().iter_errors(record), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        key = ".".join(map(str, errors[0].absolute_path)) or "top level"
        raise RecordError(
            f"{where} is no record of schema {SCHEMA}: at {key}: {errors[0].message[:300]}; "
            "delete it and run the job that writes it again"
        )


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
