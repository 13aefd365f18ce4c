"""What layers cost beside the public implementations: the records of the bench as tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from moelora.reporting.table import Entry, Row, Table, number

COLUMNS = (
    ("variant", ""), ("time / LoRA", "median"), ("quartiles", ""), ("ms", ""), ("tokens/s", ""),
    ("kept / LoRA", "bytes"), ("peak / LoRA", "bytes"), ("trainable", "parameters"), ("/ ours", "time"),
)  # fmt: skip
CLOCKS = {
    "cpu": "CPU time of the process",
    "wall": "wall time",
    "device": "time between two CUDA events",
}
LIBRARIES = ("torch", "transformers", "peft", "moe-peft", "mixlora")


def conditions(record: Mapping[str, Any]) -> str:
    """Return where and when a record was measured, in a sentence."""
    found, load = record["environment"], record["load"]
    libraries = ", ".join(f"{name} {found[name]}" for name in LIBRARIES if found.get(name, "absent") != "absent")
    burden = "" if load["before"] is None else f"; load {load['before']} before and {load['after']} after"
    return (
        f"{found['device_name']}, {found['cores']} cores, {found['threads']} thread(s); "
        f"{libraries}; {found['started'][:10]}{burden}."
    )


def heading(group: Mapping[str, Any]) -> str:
    """Return what a comparison is, in a line."""
    work, settings = group["workload"], group["settings"]
    shape = f"{work['hidden']}/{work['inner']}" + ("" if work["kind"] == "block" else f", {work['layers']} layers")
    numbers = f"{settings['experts']} experts, {settings['per_token']} per token, rank {settings['rank']}"
    if group["mode"] == "training":
        numbers += f", dropout {settings['dropout']:g}"
    if work["dtype"] != "float32":
        numbers += ", adapters in " + ("float32" if settings["adapters_in_float32"] else work["dtype"])
    return (
        f"{work['name']} {shape}, {work['batch'] * work['length']} tokens, {work['dtype']}, {group['mode']}; {numbers}"
    )


def speed_tables(record: Mapping[str, Any]) -> list[Table]:
    """Return one table a comparison, one row a variant."""
    return [_table(record["name"], position, group) for position, group in enumerate(record["groups"])]


def _table(name: str, position: int, group: Mapping[str, Any]) -> Table:
    rows = {row["name"]: row for row in group["rows"]}
    note = (
        f"{CLOCKS[group['clock']]}, {group['rounds']} rounds after {group['warmup']} of warm-up. "
        "Ratios are taken round by round; 1 is PEFT's LoRA. Kept: for the backward pass. "
        "/ ours: a rival's time over that of our variant which computes the same."
    )
    body = [Row(_entries(row, rows, group)) for row in rows.values()]
    return Table(heading(group), [("", len(COLUMNS))], COLUMNS, body, note, name=f"speed--{name}--{position}")


def _entries(row: Mapping[str, Any], rows: Mapping[str, Any], group: Mapping[str, Any]) -> list[Entry]:
    clock, reference = group["clock"], rows[group["reference"]]
    if row["status"] != "measured":
        reason = Entry(f"{row['status']}: {row['reason']}", marks=frozenset({"lost"}))
        return [Entry(row["title"]), reason, *[Entry("")] * (len(COLUMNS) - 2)]
    low, high = row["ratio_quartiles"]
    return [
        Entry(row["title"]),
        number(f"{row['ratio']:.2f}"),
        number(f"{low:.2f}–{high:.2f}"),
        number(_milliseconds(row["median_seconds"][clock])),
        number(f"{row['tokens_per_second']:.0f}"),
        number(_share(row["saved_bytes"], reference["saved_bytes"])),
        number(_share(row["peak_bytes"], reference["peak_bytes"])),
        number(f"{row['trainable']:,}" if row["trainable"] else "–"),
        number(_advantage(row, rows, clock)),
    ]


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _share(mine: int | None, theirs: int | None) -> str:
    return f"{mine / theirs:.2f}" if mine is not None and theirs else "–"


def _advantage(row: Mapping[str, Any], rows: Mapping[str, Any], clock: str) -> str:
    """Return the median over rounds of a rival's time divided by that of ours."""
    peer = rows.get(row["peer"] or "")
    if not peer or peer["status"] != "measured":
        return ""
    return f"{statistics.median(a / b for a, b in zip(row['seconds'][clock], peer['seconds'][clock], strict=True)):.2f}"
