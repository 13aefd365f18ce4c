"""What must be fetched, agreed to, and looked up before a suite runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moelora.preflight.lengths import Facts
from moelora.preflight.memory import BYTES, weight_bytes
from moelora.shapes import Sizes


def model_row(document: Mapping[str, Any], sizes: "Sizes | None") -> dict[str, Any]:
    """Return what is known of a model: size, download, agreement, licence, and whether a copy is here.

    Args:
        document: The model's file.
        sizes: Its sizes, where the file states them.
    """
    facts, hub = document.get("facts") or {}, document["source"].get("hub")
    stored = facts.get("stored", "fp32")
    dtype = document.get("dtype") or stored
    return {
        "name": document["name"],
        "hub": hub,
        "built": hub is None,
        "parameters": sizes.base_parameters if sizes else None,
        "dtype": dtype,
        "form": document.get("quantisation"),
        "weight_bytes": weight_bytes(sizes, dtype, document.get("quantisation")) if sizes else None,
        "download_bytes": BYTES[stored] * sizes.base_parameters if sizes and hub else None,
        "gated": bool(facts.get("gated")),
        "licence": facts.get("licence"),
        "here": is_here(document["source"]),
    }


def is_here(source: Mapping[str, Any]) -> bool:
    """Return whether a model's files lie in a folder or in the cache of the hub's client; asks no server."""
    hub = source.get("hub")
    if hub is None or Path(hub).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub, "config.json", revision=source.get("revision")), str)


def data_rows(tasks: Iterable[Mapping[str, Any]], facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """Return size and licence of each data set, those that the suite writes itself left out."""
    found = {}
    for task in tasks:
        name = task.get("data", task["name"])
        if name in facts and "builtin" not in task["source"]:
            found[name] = {"name": name, "megabytes": facts[name].megabytes, "licence": facts[name].licence}
    return [found[name] for name in sorted(found)]
