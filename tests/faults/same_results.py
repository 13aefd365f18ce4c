"""Whether two folders of results say the same: every record, adapter and other product, but for what may differ.

Between equal runs only times, memory, the machine and how often a run was resumed differ. Everything else is compared
byte for byte, or value for value where a file also holds such things.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

VOLATILE = {
    "environment", "seconds", "cpu_seconds", "forgetting_seconds", "forgetting_cpu_seconds", "resumed",
    "peak_memory_bytes", "started",
    "record_sha256",  # of a manifest; whether it fits its own record is looked at apart
    "content_sha256",  # of a sealed document; whoever reads it compares
}  # fmt: skip
"""Keys of JSON documents that differ between equal runs."""

MEASURED = ("costs.json",)
"""Files that hold times and nothing else that could be compared."""


def stable(value: Any) -> Any:
    """Return a document without what differs between equal runs."""
    if isinstance(value, dict):
        return {key: stable(inner) for key, inner in value.items() if key not in VOLATILE}
    return [stable(inner) for inner in value] if isinstance(value, list) else value


def products(folder: Path) -> dict[str, Path]:
    """Return every file that a suite is to leave, by path: no logs, and nothing hidden."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path
        for name, path in found.items()
        if not name.startswith("logs/") and path.name != "log.txt" and not is_hidden(name)
    }


def is_hidden(name: str) -> bool:
    """Return whether a path lies under a name that begins with a dot."""
    return re.search(r"(^|/)\.", name) is not None


def left_over(folder: Path) -> list[str]:
    """Return the kinds of hidden files: temporary files of killed processes, states, locks. Numbers become ``#``."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    # Snakemake marks folders that a rule makes
    names = (name for name in names if not name.endswith("/.snakemake_timestamp"))
    return sorted({re.sub(r"\.\d+(-[0-9a-f]+)?\.tmp$", ".#.tmp", Path(name).name) for name in names if is_hidden(name)})


def content(path: Path) -> str:
    """Return a digest of a file without what differs between equal runs."""
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps(stable(json.loads(data)), sort_keys=True).encode()
    elif path.name == "records.parquet":
        data = json.dumps(table_rows(path), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def table_rows(path: Path) -> list[dict]:
    """Return the rows of the table of all records, without what differs between equal runs."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pylist()
    return [{**row, "record": stable(json.loads(row["record"]))} for row in rows]


def differences(found: Path, expected: Path) -> list[str]:
    """Return in words how a suite's folder differs from another; empty where it says the same.

    Args:
        found: the folder that was disturbed.
        expected: that of an undisturbed run.
    """
    ours, theirs = products(found), products(expected)
    said = [f"missing: {name}" for name in sorted(theirs.keys() - ours.keys())]
    said += [f"not expected: {name}" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if Path(name).name not in MEASURED and content(ours[name]) != content(theirs[name]):
            said.append(f"differs: {name}")
    return said + contradictions(found)


def contradictions(folder: Path) -> list[str]:
    """Return how a suite's folder contradicts itself: a run listed twice, or a record that is not its job's."""
    said = []
    listed: Counter = Counter()
    for manifest in sorted(folder.glob("jobs/*.json")):
        for entry in json.loads(manifest.read_text(encoding="utf-8"))["runs"]:
            listed[entry["folder"]] += 1
            record = folder / entry["folder"] / "record.json"
            if not record.is_file() or hashlib.sha256(record.read_bytes()).hexdigest() != entry["record_sha256"]:
                said.append(f"no longer what its job left: {entry['folder']}/record.json")
    said += [f"in {count} jobs: {run}" for run, count in sorted(listed.items()) if count > 1]
    table = folder / "records.parquet"
    if table.is_file():
        rows = Counter((row["id"], row["scored_task"], row["metric"]) for row in table_rows(table))
        said += [f"{count} rows for: {' '.join(map(str, key))}" for key, count in sorted(rows.items()) if count > 1]
        records = len(list(folder.rglob("record.json")))
        if len({key[0] for key in rows}) != records:
            said.append(f"{records} records, but {len({key[0] for key in rows})} in {table.name}")
    return said
