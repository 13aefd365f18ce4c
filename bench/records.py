"""Records: one JSON file a run, local under results/bench, promoted by hand to results/published/bench."""

import os
from pathlib import Path
from typing import Any

from bench import rivals
from moelora.errors import RecordError
from moelora.files import atomic_write_json
from moelora.records.environment import environment
from moelora.records.speed import read_speed

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / "results" / "bench"
PUBLISHED = ROOT / "results" / "published" / "bench"


def load_average() -> float | None:
    """Return the machine's load over one minute, where the system tells."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def make(
    name: str, groups: list[dict[str, Any]], device: str, started: str, load_before: float | None, axis: str | None
) -> dict[str, Any]:
    """Return the record of finished comparisons."""
    return {
        "schema": 1,
        "name": name,
        "axis": axis,
        "environment": {**environment(device, started), **rivals.versions()},
        "load": {"before": load_before, "after": load_average()},
        "groups": groups,
    }


def write(record: dict[str, Any], folder: Path = LOCAL) -> Path:
    """Write a record and return its path."""
    path = folder / f"{record['name']}.json"
    atomic_write_json(path, record)
    return path


def newest(folder: Path = LOCAL) -> Path:
    """Return the newest record that is no sweep.

    Raises:
        RecordError: There is none.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        if read_speed(path)["axis"] is None:
            return path
    raise RecordError(f"no record in {folder}; run `make bench`, or name a file")
