"""Agreement of routing across the seeds of a run, from the first choices that lie beside the records.

Only `moelora collect` reads those files; what it finds travels with the records from there on, also when published.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moelora.errors import RecordError
from moelora.stats.agreement import agreement

AXES = ("suite", "model", "task", "variant", "regime")
"""What the runs that are compared have in common."""

MOST_OTHERS = 5
"""With how many smaller seeds a run is compared: all pairs of a hundred seeds would be most of what collecting takes,
and most of a record."""


def watched_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a record what `agreements` reads."""
    part = {name: record[name] for name in ("id", *AXES, "seed")}
    part["agreement"] = record.get("agreement")
    part["diagnostics"] = {"choices": (record.get("diagnostics") or {}).get("choices")}
    part["routing"] = [{"module": row["module"], "layer": row["layer"]} for row in record.get("routing") or []]
    return part


def agreements(records: Iterable[tuple[Path, Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return run id → how its routers agree with those of the next smaller seeds, at most `MOST_OTHERS` of them.

    Runs are compared that differ in their seed alone and saw the same items. A record that brings its agreement along,
    as published ones do, keeps it.

    Args:
        records: Records with the files they were read from.

    Returns:
        Rows with ``seed`` (the other one), ``module``, ``layer``, ``tokens``, ``matched``, ``chance`` and ``ami``.

    Raises:
        RecordError: A file of choices is truncated or was changed after its run.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    groups: dict[tuple, list[tuple[Path, Mapping[str, Any]]]] = defaultdict(list)
    for file, record in records:
        if record.get("agreement"):
            found[record["id"]] = list(record["agreement"])
            continue
        declared = (record.get("diagnostics") or {}).get("choices")
        if declared and (file.parent / declared["file"]).is_file():
            axes = tuple(record[name] for name in AXES)
            groups[*axes, declared["items"]].append((file, record))
    for _, members in sorted(groups.items()):
        if len(members) < 2:
            continue
        members = sorted(members, key=lambda member: member[1]["seed"])
        choices = [read_choices(file, record) for file, record in members]
        for other, (_, larger) in enumerate(members):
            for one in range(max(0, other - MOST_OTHERS), other):
                rows = _compare(choices[one], choices[other], members[one][1]["seed"], _layers(larger))
                found.setdefault(larger["id"], []).extend(rows)
    return found


def read_choices(file: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return module → first choices of the run that left a record.

    Raises:
        RecordError: The file is truncated or was changed after its run.
    """
    import hashlib

    from safetensors import SafetensorError
    from safetensors.numpy import load

    declared = record["diagnostics"]["choices"]
    path = file.parent / declared["file"]
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    advice = "delete the run's record and run its job again"
    if found != declared["sha256"]:
        raise RecordError(
            f"choices {path} were truncated or changed after their run: found sha256 {found[:12]}…, "
            f"expected {declared['sha256'][:12]}… from {file.name}; {advice}"
        )
    try:
        return load(content)
    except (SafetensorError, ValueError) as error:
        raise RecordError(f"choices {path} can't be read ({error}); {advice}") from error


def _compare(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], seed: int, layers: Mapping[str, int]
) -> list[dict[str, Any]]:
    rows = []
    for module in sorted(set(first) & set(second)):
        mine, other = first[module], second[module]
        if len(mine) != len(other) or mine.dtype != other.dtype:
            continue  # not the same tokens, or not the same number of experts: nothing to compare
        result = agreement(mine, other, none=np.iinfo(mine.dtype).max, seed=zlib.crc32(module.encode()))
        if result is not None:
            rows.append(
                {
                    "seed": seed,
                    "module": module,
                    "layer": layers.get(module, -1),
                    "tokens": result.tokens,
                    "matched": result.matched,
                    "chance": result.chance,
                    "ami": result.ami,
                }
            )
    return rows


def _layers(record: Mapping[str, Any]) -> dict[str, int]:
    return {entry["module"]: entry["layer"] for entry in record.get("routing") or []}
