"""Step time of layers against the axis of a sweep of the bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moelora.reporting.figures.style import MUTED, Figure, canvas, to_svg

_COLOURS = ("#3a7fc1", "#e08a00", "#1f9e78", "#cf6aa0", "#d2552b", "#7d6fd0", "#8a8f2a", "#3fa9bf")
_MARKERS = "osD^vPX<"
AXES = {"tokens": "tokens of a step", "experts": "experts", "rank": "rank", "depth": "layers"}


def place_of(group: Mapping[str, Any], axis: str) -> int:
    """Return where a comparison stands on the axis of its sweep."""
    work = group["workload"]
    return {"tokens": work["batch"] * work["length"], "depth": work["layers"], **group["settings"]}[axis]


def lines_of(record: Mapping[str, Any]) -> dict[str, list[tuple[int, float, float, float]]]:
    """Return title → (place, lower quartile, median, upper quartile) of the time ratio."""
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for group in record["groups"]:
        for row in group["rows"]:
            if row["status"] == "measured":
                low, high = row["ratio_quartiles"]
                found.setdefault(row["title"], []).append((place_of(group, record["axis"]), low, row["ratio"], high))
    return {title: sorted(points) for title, points in found.items()}


def draw_sweep(record: Mapping[str, Any]) -> Figure:
    """Return a sweep as a figure: one line a variant, the band is between the quartiles."""
    axis, group = record["axis"], record["groups"][0]
    work = group["workload"]
    with canvas(8.6, 3.6) as (drawing, grid):
        axes = grid[0][0]
        for position, (title, points) in enumerate(lines_of(record).items()):
            places, low, middle, high = zip(*points, strict=True)
            colour = MUTED if position == 0 else _COLOURS[(position - 1) % len(_COLOURS)]
            marker = _MARKERS[position % len(_MARKERS)]
            axes.plot(places, middle, marker=marker, markersize=5, linewidth=1.3, color=colour, label=title)
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        places = sorted({place_of(one, axis) for one in record["groups"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, places)
        axes.minorticks_off()
        axes.set_xlabel(AXES[axis])
        axes.set_ylabel(f"{group['mode']} time / LoRA (PEFT)")
        axes.set_ylim(bottom=0)
        axes.set_title(f"{work['name']} {work['hidden']}/{work['inner']}, {work['dtype']}, {work['device']}")
        drawing.legend(loc="outside right upper")
        svg = to_svg(drawing)
    return Figure(
        name=f"speed--{record['name']}",
        family="speed",
        title=f"Step time against {AXES[axis]}",
        caption="A step's time over that of PEFT's LoRA in the same round; bands are between the quartiles.",
        svg=svg,
    )
