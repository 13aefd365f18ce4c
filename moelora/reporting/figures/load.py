"""Expert load per layer and task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import MUTED, Figure, canvas, heat, to_svg
from moelora.reporting.runs import Run, Suite


def draw(suite: Suite, panels: Sequence[Panel], **_: object) -> list[Figure]:
    """Return one figure a panel and regime: a row of axes for each routed variant, a column for each task.

    Where a model was trained on a mixture of tasks, only that panel is drawn: with one task a router has
    no task to tell apart.
    """
    figures = []
    mixed = {p.model for p in panels if p.mixture and any(r.record.get("routing") for r in p.runs)}
    for panel in (p for p in panels if p.mixture or p.model not in mixed):
        for regime, _indexes in panel.regimes:
            runs = [r for r in panel.runs if r.regime == regime and r.finished and r.record.get("routing")]
            if runs:
                figures.append(_figure(suite, panel, regime, runs))
    return figures


def loads(runs: Iterable[Run], task: str) -> tuple[list[int], list[list[float | None]]]:
    """Return layers and, for each, the mean load of its experts on a task, busiest first.

    Experts of two modules (or two seeds) have nothing to do with each other but their number. So in
    each module they are ordered by their load over all tasks, and the ordered loads are averaged.
    """
    ordered: dict[int, list[list[float]]] = defaultdict(list)
    for run in runs:
        for entry in run.record["routing"]:
            if task not in entry["load"]:
                continue
            overall = np.mean([entry["load"][t] for t in sorted(entry["load"])], axis=0)
            order = np.argsort(-overall, kind="stable")
            ordered[entry["layer"]].append([entry["load"][task][i] for i in order])
    layers = sorted(ordered)
    width = max((len(row) for rows in ordered.values() for row in rows), default=0)
    values: list[list[float | None]] = []
    for layer in layers:
        columns = [[row[i] for row in ordered[layer] if i < len(row)] for i in range(width)]
        values.append([float(np.mean(c)) if c else None for c in columns])
    return layers, values


def _figure(suite: Suite, panel: Panel, regime: str, runs: Sequence[Run]) -> Figure:
    variants = suite.variants(runs)
    tasks = suite.tasks(t for r in runs for e in r.record["routing"] for t in e["load"])
    found = {(v, t): loads([r for r in runs if r.variant == v], t) for v in variants for t in tasks}
    top = max((x for _, rows in found.values() for row in rows for x in row if x is not None), default=1.0)
    depth = max((len(layers) for layers, _ in found.values()), default=1)
    height = len(variants) * (0.55 + 0.22 * max(depth, 2)) + 0.3
    with canvas(min(8.6, 1.2 + 2.6 * len(tasks)), height, len(variants), len(tasks)) as (drawing, grid):
        for y, variant in enumerate(variants):
            for x, task in enumerate(tasks):
                axes, (layers, values) = grid[y][x], found[variant, task]
                if not values:
                    axes.set_axis_off()
                    continue
                heat(axes, values, top)
                axes.set_xticks([])
                axes.set_yticks(range(len(layers)), layers if x == 0 else [""] * len(layers))
                if x == 0:
                    axes.set_ylabel("layer")
                    axes.set_title(suite.label(variant), fontweight="bold")
                axes.set_xlabel(suite.task_title(task), fontsize=7.5, color=MUTED)
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"load--{panel.name}--{regime}",
        family="load",
        title=f"Expert load: {panel.title}{regime_words}",
        caption="Rows are layers, columns experts from busiest to idlest; full colour is a share of "
        f"{top:.2f} of the tokens"
        + (
            ", and blocks that look alike mean that the router does not tell the tasks apart."
            if len(tasks) > 1
            else "."
        ),
        svg=svg,
    )
