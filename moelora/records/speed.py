"""Records of the bench: what layers cost beside the public implementations, measured in one process."""

from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import read_json

SCHEMA = Path(__file__).with_name("speed.schema.json")


def validate_speed(record: Any, where: "Path | str") -> None:
    """Check a record of the bench against its schema.

    Raises:
        RecordError: It does not fit; the message names the place.
    """
    import jsonschema

    try:
        jsonschema.validate(record, read_json(SCHEMA, "schema"))
    except jsonschema.ValidationError as error:
        place = "/".join(str(part) for part in error.absolute_path) or "the whole file"
        raise RecordError(
            f"{where} is not a record of the bench: {place}: {error.message}; run the bench again"
        ) from error


def read_speed(path: "Path | str") -> dict[str, Any]:
    """Return the record in a file.

    Raises:
        RecordError: The file is missing, truncated or no record of the bench.
    """
    record = read_json(path, "record")
    validate_speed(record, path)
    return record
