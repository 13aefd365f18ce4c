"""Which methods have passed the battery (tests/battery), on which code, and what it showed of each.

``proven.json`` beside this module is written by ``make battery`` and tracked. It holds no date: an entry speaks of
code, by the fingerprint that the method had when it passed.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, RecordError
from moelora.files import atomic_write_json, read_json
from moelora.fingerprint import method_fingerprint
from moelora.methods import get_method, method_names

PATH = Path(__file__).with_name("proven.json")
REMEDY = "run `make battery` and commit moelora/methods/proven.json"


def read_proven() -> dict[str, dict[str, Any]]:
    """Return the entries of proven methods by name.

    Raises:
        RecordError: the file is damaged.
    """
    return read_json(PATH, "registry of proven methods") if PATH.is_file() else {}


def trouble(method: str, proven: "Mapping[str, Mapping[str, Any]] | None" = None) -> str:
    """Return why a method does not count as proven, or nothing: no entry, or code that changed since.

    Args:
        method: its name; a method whose page is gone cannot be proven any more.
        proven: the registry, where it was read already.
    """
    found = (read_proven() if proven is None else proven).get(method)
    if found is None or method not in method_names():
        return "has not passed the battery"
    if found["fingerprint"] != method_fingerprint(method):
        return "has changed since it passed the battery"
    return ""


def require_proven(methods: Collection[str]) -> None:
    """Refuse methods that have never passed the battery.

    Raises:
        RecordError: names them, and what to do.
    """
    missing = sorted(set(methods) - set(read_proven()))
    if missing:
        raise RecordError(
            f"found records of {', '.join(missing)}, which never passed the battery; expected methods with an entry in "
            f"{PATH.name}; {REMEDY}"
        )


def entry(method: str, shown: Mapping[tuple[str, str], tuple[str, str]]) -> dict[str, Any]:
    """Return a method's entry.

    Args:
        method: its name.
        shown: (check, base model) → (passed, n/a or refused; reason).

    Raises:
        ConfigError: a check was not passed, so there is nothing to enter.
    """
    if any(outcome not in ("passed", "n/a", "refused") for outcome, _ in shown.values()):
        raise ConfigError(f"method '{method}' did not pass every check, so it has no entry")
    checks: dict[str, dict[str, str]] = {}
    for (check, base), (outcome, reason) in shown.items():
        checks.setdefault(check, {})[base] = f"{outcome}: {reason}" if reason else outcome
    return {"version": get_method(method).version, "fingerprint": method_fingerprint(method), "checks": checks}


def write_proven(entries: Mapping[str, Mapping[str, Any]], forget: Collection[str] = ()) -> None:
    """Enter methods, take out those that failed, and those whose page is gone; others stay as they are.

    Raises:
        OutputError: the file cannot be written.
    """
    kept = {name: found for name, found in read_proven().items() if name in method_names() and name not in forget}
    atomic_write_json(PATH, {**kept, **json.loads(json.dumps(entries))})
