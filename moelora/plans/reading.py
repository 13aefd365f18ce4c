"""Reading a plan file: what `moelora plan` wrote, or what somebody made by hand."""

from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, RecordError
from moelora.files import read_json
from moelora.methods import get_method
from moelora.validation import find_trouble, load_validator

SCHEMA_FILE = Path(__file__).with_name("plan.schema.json")


def read_plan(path: "Path | str") -> dict[str, Any]:
    """Return the plan in a file, checked: its names are parts of paths, and a run must not find its keys missing.

    Raises:
        RecordError: the file is missing, truncated or no plan; the message names it and the key.
    """
    plan = read_json(path, "plan")
    trouble = find_trouble(plan, load_validator(SCHEMA_FILE))
    if not trouble:
        try:
            get_method(plan["method"]).make_settings(plan["settings"])
        except ConfigError as error:
            trouble = f"'settings': {error}"
    if trouble:
        raise RecordError(f"plan {path}: {trouble}; write it again with 'moelora plan --write'")
    return plan
