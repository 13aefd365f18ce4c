"""Multi-task minus single-task score, by variant and task."""

from __future__ import annotations

from collections.abc import Sequence

from moelora.reporting import words
from moelora.reporting.cells import Interference
from moelora.reporting.figures.style import MUTED, Figure, Palette, canvas, draw_interval, hide_unused, to_svg
from moelora.reporting.runs import Suite


def draw(
    suite: Suite, panels: object, *, effects: Sequence[Interference], palette: Palette, **_: object
) -> list[Figure]:
    """Return one figure a model, mixture and regime, one pair of axes a task."""
    keys = list(dict.fromkeys((e.model, e.mixture, e.regime) for e in effects))
    return [_figure(suite, key, [e for e in effects if (e.model, e.mixture, e.regime) == key], palette) for key in keys]


def _figure(suite: Suite, key: tuple[str, str, str], effects: Sequence[Interference], palette: Palette) -> Figure:
    model, mixture, regime = key
    tasks = list(dict.fromkeys(e.task for e in effects))
    variants = list(dict.fromkeys(v for v in suite.variants(suite.runs) if any(e.variant == v for e in effects)))
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    with canvas(8.6, rows * (0.75 + 0.23 * len(variants)), rows, columns, sharey=True) as (drawing, grid):
        flat = list(grid.ravel())
        for axes, task in zip(flat, tasks, strict=False):
            axes.axvline(0, color=MUTED, linewidth=1)
            for e in effects:
                if e.task != task:
                    continue
                draw_interval(axes, variants.index(e.variant), e.difference, e.variant, palette)
            axes.set_title(suite.task_title(task))
            axes.set_xlabel("points")
            axes.grid(axis="y", visible=False)
        for row in grid:
            row[0].set_yticks(range(len(variants)), [suite.label(v) for v in variants])
            row[0].set_ylim(len(variants) - 0.5, -0.5)
        hide_unused(flat, len(tasks))
        svg = to_svg(drawing)
    return Figure(
        name=f"interference--{model}--{mixture}--{regime}",
        family="interference",
        title=f"Interference: {suite.model_title(model)}, multi-task minus single-task"
        + (f" ({words.regime_label(regime).lower()})" if len(suite.regimes) > 1 else ""),
        caption="Left of zero, a variant loses by learning all tasks in one adapter; bars are 95 % intervals of the "
        "paired difference.",
        svg=svg,
    )
