"""Which tasks of a mixture share experts."""

from __future__ import annotations

from collections.abc import Sequence

from moelora.reporting import words
from moelora.reporting.by_task import TaskRouting, routing_by_task
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import Figure, canvas, heat, hide_unused, to_svg
from moelora.reporting.runs import Suite


def draw(suite: Suite, panels: Sequence[Panel], **_: object) -> list[Figure]:
    """Return one figure a mixture and regime, one pair of axes a routed variant."""
    found = list(routing_by_task(panels))
    keys = list(dict.fromkeys((f.panel.name, f.regime) for f in found))
    return [_figure(suite, [f for f in found if (f.panel.name, f.regime) == key]) for key in keys]


def _figure(suite: Suite, found: Sequence[TaskRouting]) -> Figure:
    panel, regime = found[0].panel, found[0].regime
    tasks = suite.tasks(task for f in found for pair in f.overlap for task in pair)
    titles = [suite.task_title(task) for task in tasks]
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    with canvas(8.6, rows * (1.3 + 0.3 * len(tasks)), rows, columns, sharey=True) as (drawing, grid):
        flat = list(grid.ravel())
        for axes, one in zip(flat, found, strict=False):
            values = [
                [one.overlap.get((min(a, b), max(a, b))) if place > at else None for at, b in enumerate(tasks)]
                for place, a in enumerate(tasks)
            ]
            heat(axes, values, 1.0, digits=2)
            axes.set_title(suite.label(one.variant))
            axes.set_xticks(range(len(tasks)), titles, rotation=60, ha="right")
        for row in grid:
            row[0].set_yticks(range(len(tasks)), titles)
        hide_unused(flat, len(found))
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"overlap--{panel.name}--{regime}",
        family="overlap",
        title=f"Tasks that share experts: {panel.title}{regime_words}",
        caption="Share of their load that two tasks give to the same experts, the mean over routers and seeds: 1 is "
        "the same routing for both, 0 no expert in common.",
        svg=svg,
    )
