"""Ratios of a record beside those that were committed. Seconds belong to a machine and are never compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.variants import VARIANTS

EXPECTED = Path(__file__).with_name("expected.json")
MARGIN = 0.15


def key_of(group: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return the name of a ratio: shape, tokens, mode, settings and variant, but no machine."""
    work, settings = group["workload"], group["settings"]
    parts = [
        f"{work['name']} {work['hidden']}/{work['inner']} x{work['layers']}",
        f"{work['batch']}x{work['length']} tokens {work['dtype']} {work['device']}",
        f"{group['mode']} {group['clock']}",
        f"E{settings['experts']} K{settings['per_token']} R{settings['rank']} dropout {settings['dropout']:g}",
        row["name"],
    ]
    return " | ".join(parts)


def ratios_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratios of our own variants and the base; those of other packages are theirs to guard."""
    return {
        key_of(group, row): round(row["ratio"], 3)
        for group in record["groups"]
        for row in group["rows"]
        if row["status"] == "measured"
        and row["name"] != group["reference"]
        and getattr(VARIANTS.get(row["name"]), "package", None) is None
    }


def compare(record: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return a warning for each ratio beyond the margin, and how many were compared.

    Args:
        record: What was measured.
        expected: ``margin``, a share of the expected ratio, and ``ratios`` by `key_of`.
    """
    margin, found = expected["margin"], ratios_of(record)
    common = sorted(set(found) & set(expected["ratios"]))
    warnings = []
    for key in common:
        was, now = expected["ratios"][key], found[key]
        if abs(now / was - 1) > margin:
            change = "slower" if now > was else "faster"
            warnings.append(f"{key}: {now:.3f} of a LoRA step, expected {was:.3f} ({now / was - 1:+.0%}, {change})")
    return warnings, len(common)
