"""How far small samples agree on which modules are sensitive, against the size of the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moelora.reporting.allocation_tables import mean_of
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import MUTED, Figure, canvas, hue, to_svg
from moelora.reporting.runs import Suite

_MEASURES = (("spearman_in_pools", "Rank correlation within pools"), ("corrected", "Overlap of the chosen, corrected"))


def draw(
    suite: Suite, panels: Sequence[Panel], *, stabilities: Sequence[Mapping[str, Any]] = (), **_: object
) -> list[Figure]:
    """Return one figure a model."""
    models = sorted({str(document["model"]) for document in stabilities})
    return [_figure(suite, model, [d for d in stabilities if d["model"] == model]) for model in models]


def _figure(suite: Suite, model: str, documents: Sequence[Mapping[str, Any]]) -> Figure:
    tasks = suite.tasks(str(document["task"]) for document in documents)
    by_task = {document["task"]: document for document in documents}
    sizes = sorted({row["examples"] for document in documents for row in document["rows"]})
    with canvas(8.6, 3.6, 1, len(_MEASURES), sharey=True) as (drawing, grid):
        handles = {}
        for axes, (key, label) in zip(grid[0], _MEASURES, strict=True):
            for place, task in enumerate(tasks):
                for against, style in (("same_size", "-"), ("largest", ":")):
                    points = [
                        (size, found)
                        for size in sizes
                        if (found := mean_of(_rows(by_task[task], against, size), key)) is not None
                    ]
                    if not points:
                        continue
                    xs, means = [size for size, _ in points], [found[0] for _, found in points]
                    (line,) = axes.plot(xs, means, style, color=hue(place), marker="o", markersize=3.5, linewidth=1.3)
                    if against == "same_size":
                        handles[task] = line
                        low, high = [found[1] for _, found in points], [found[2] for _, found in points]
                        axes.fill_between(xs, low, high, color=hue(place), alpha=0.12, linewidth=0)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, sizes)
            axes.set_xlabel("examples")
            axes.set_title(label)
        drawing.legend(
            [handles[t] for t in tasks if t in handles], [suite.task_title(t) for t in tasks if t in handles],
            loc="outside right upper",
        )  # fmt: skip
        svg = to_svg(drawing)
    score = documents[0]["score"]
    return Figure(
        name=f"stability--{model}",
        family="stability",
        title=f"Agreement of small samples: {suite.model_title(model)}, score “{score}”",
        caption="Solid: two samples of the same size from different seeds, mean and range over pairs; dotted: a sample "
        "and the largest one of another seed. One is full agreement, nought on the right is that of blind choices.",
        svg=svg,
    )


def _rows(document: Mapping[str, Any], against: str, size: int) -> list[Mapping[str, Any]]:
    return [row for row in document["rows"] if (row["against"], row["examples"]) == (against, size)]
