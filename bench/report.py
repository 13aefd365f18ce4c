"""Records as Markdown tables."""

from collections.abc import Mapping
from typing import Any

from bench.measure import ratios, spread

HEADINGS = (
    "variant", "time / LoRA", "quartiles", "ms", "tokens/s", "kept / LoRA", "peak / LoRA", "trainable", "/ ours",
)  # fmt: skip
CLOCKS = {
    "cpu": "CPU time of the process",
    "wall": "wall time",
    "device": "time between two CUDA events",
}


def markdown(record: Mapping[str, Any]) -> str:
    """Return a record's tables, one a comparison, under a line on where they were measured."""
    return "\n\n".join([_conditions(record), *(_group(group) for group in record["groups"])]) + "\n"


def _conditions(record: Mapping[str, Any]) -> str:
    found, load = record["environment"], record["load"]
    libraries = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft", "moe-peft", "mixlora")
                          if found.get(name, "absent") != "absent")  # fmt: skip
    burden = "" if load["before"] is None else f"; load {load['before']} before and {load['after']} after"
    return (
        f"`{record['name']}`: {found['device_name']}, {found['cores']} cores, {found['threads']} thread(s); "
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


def _group(group: Mapping[str, Any]) -> str:
    rows = {row["name"]: row for row in group["rows"]}
    reference = rows[group["reference"]]
    lines = [
        f"**{heading(group)}.** {CLOCKS[group['clock']]}, {group['rounds']} rounds after {group['warmup']} of warm-up.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    for row in rows.values():
        lines.append("| " + " | ".join(_cells(row, rows, reference, group["clock"])) + " |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], rows: Mapping[str, Any], reference: Mapping[str, Any], clock: str) -> list[str]:
    if row["status"] != "measured":
        return [row["title"], f"{row['status']}: {row['reason']}", *[""] * (len(HEADINGS) - 2)]
    low, high = row["ratio_quartiles"]
    return [
        row["title"],
        f"{row['ratio']:.2f}",
        f"{low:.2f}–{high:.2f}",
        _milliseconds(row["median_seconds"][clock]),
        f"{row['tokens_per_second']:.0f}",
        _share(row["saved_bytes"], reference["saved_bytes"]),
        _share(row["peak_bytes"], reference["peak_bytes"]),
        f"{row['trainable']:,}" if row["trainable"] else "–",
        _advantage(row, rows, clock),
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
    return f"{spread(ratios(row['seconds'][clock], peer['seconds'][clock]))[1]:.2f}"
