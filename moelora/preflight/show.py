"""An estimate as text."""

from collections.abc import Iterable, Sequence
from typing import Any

from moelora.preflight.devices import GIB

HEAD = ("model", "variant", "regime", "runs", "trained", "training GiB", "scoring GiB", "steps", "GPU hours", "by")


def show(found: dict[str, Any]) -> str:
    """Return an estimate as a page of text."""
    device = found["device"]
    memory = "memory unknown, so nothing is refused: say --device or --device-memory-gib"
    if device["memory"]:
        memory = f"{device['memory'] / GIB:.0f} GiB, {device['usable'] / GIB:.1f} of them for tensors"
    lines = [
        f"Suite {found['suite']}: {found['runs']} runs in {found['jobs']} jobs",
        f"Device: {device['devices']} × {device['name']} ({memory}; {device['teraflops']:g} teraflops, of which "
        f"{found['utilisation']:.0%} are taken to be reached where nothing was measured)",
        "",
        *_table(
            HEAD,
            (
                (row["model"], row["variant"], row["regime"], str(row["runs"]), f"{row['trainable']:,}",
                 _gib(row["training_bytes"]), _gib(row["scoring_bytes"]), f"{row['steps']:,}", f"{row['hours']:.2f}",
                 row["basis"])
                for row in found["rows"]
            ),
        ),
        "",
        f"In all about {found['hours']:.1f} GPU hours ({found['days']:.1f} days on {device['devices']} such)",
        f"Disk: {found['results_bytes'] / 1e9:.1f} GB of adapters and training states where "
        f"{found['free_bytes'] / 1e9:.1f} GB are free, and {found['fetched_bytes'] / 1e9:.1f} GB to be fetched",
    ]  # fmt: skip
    lines += ["", "Models", *(f"  {_model(row)}" for row in found["models"])]
    if found["data"]:
        lines += ["", f"Data, about {sum(row['megabytes'] for row in found['data']):.0f} MB"]
        lines += [f"  {row['name']}: {row['licence'] or 'no licence stated: look before use'}" for row in found["data"]]
    for name in found["unknown"]:
        lines.append(f"Not estimated: {name}, whose file states no sizes")
    lines += ["", *([f"Cannot work: {text}" for text in found["refused"]] or ["Nothing stands in the way."])]
    return "\n".join(lines) + "\n"


def _gib(number: int) -> str:
    return f"{number / GIB:.1f}" if number else "-"


def _model(row: dict[str, Any]) -> str:
    """Return one line about a model."""
    if row["built"]:
        return f"{row['name']}: built by the suite"
    where = "a copy is here" if row["here"] else "to be fetched"
    if row["parameters"] is None:
        return f"{row['name']} ({row['hub']}): size unknown, {where}"
    form = f"{row['form']} and {row['dtype']}" if row["form"] else row["dtype"]
    words = (
        f"{row['name']} ({row['hub']}): {row['parameters']:,} parameters, {row['weight_bytes'] / 1e9:.1f} GB as {form}"
    )
    words += (
        f", {row['download_bytes'] / 1e9:.1f} GB {where}, licence {row['licence'] or 'not stated: look before use'}"
    )
    if row["gated"]:
        words += f"; gated: agree at https://huggingface.co/{row['hub']} and log in with `hf auth login`"
    return words


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    rows = [head, *body]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = {index for index, name in enumerate(head) if name not in ("model", "variant", "regime", "by")}
    return [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
