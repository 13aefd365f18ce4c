"""Records: the small JSON that a run leaves, and from which alone all tables and figures are made."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import read_json
from moelora.records.quick import fits_schema

SCHEMA = 1
STATUSES = ("finished", "failed", "diverged", "out_of_memory", "skipped")

__all__ = ["SCHEMA", "STATUSES", "read_record", "validate_record"]


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
    if fits_schema(record):
        return
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
        RecordError: the file is missing, truncated, not JSON or not a record; the message names it.
    """
    record = read_json(path, "record")
    validate_record(record, path)
    return record
