"""Scores by task, with intervals and the range of chance."""

from __future__ import annotations

from collections.abc import Sequence

from moelora import stats
from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Panel
from moelora.reporting.figures.style import GRID, MUTED, Figure, Palette, canvas, draw_interval, hide_unused, to_svg
from moelora.reporting.runs import Suite


def draw(suite: Suite, panels: Sequence[Panel], *, palette: Palette, **_: object) -> list[Figure]:
    """Return one figure a panel and regime, one pair of axes a task."""
    return [
        _figure(suite, panel, regime, indexes, palette)
        for panel in panels
        for regime, indexes in panel.regimes
        if any(panel.cells[v, i].estimate for v in panel.variants for i in indexes)
    ]


def _figure(suite: Suite, panel: Panel, regime: str, indexes: Sequence[int], palette: Palette) -> Figure:
    shown = [i for i in indexes if panel.columns[i].task != AVERAGE]
    variants = [v for v in panel.variants if any(panel.cells[v, i].estimate or panel.cells[v, i].lost for i in shown)]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with canvas(8.6, rows * (0.75 + 0.21 * len(variants)), rows, columns, sharey=True) as (drawing, grid):
        flat = list(grid.ravel())
        for axes, index in zip(flat, shown, strict=False):
            _axes(axes, panel, index, variants, palette)
            axes.set_title(f"{suite.task_title(panel.columns[index].task)}")
            axes.set_xlabel(f"{words.metric_label(panel.columns[index].metric)} × 100")
        for row in grid:
            row[0].set_yticks(range(len(variants)), [panel.label(v) for v in variants])
            row[0].set_ylim(len(variants) - 0.5, -0.5)
        hide_unused(flat, len(shown))
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"tasks--{panel.name}--{regime}",
        family="tasks",
        title=f"Scores by task: {panel.title}{regime_words}",
        caption="Dots are means over seeds with 95 % intervals over seeds and items; the grey band is what a "
        "constant answer reaches by luck.",
        svg=svg,
    )


def _axes(axes, panel: Panel, index: int, variants: Sequence[str], palette: Palette) -> None:
    chance = None
    for y, variant in enumerate(variants):
        cell = panel.cells[variant, index]
        if cell.estimate is None:
            if cell.lost:
                axes.text(
                    0.02, y, cell.reason, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5,
                    style="italic", color=MUTED,
                )  # fmt: skip
            continue
        score = cell.runs[0].scores[panel.columns[index].task]
        if score.chance is not None and stats.is_proportion(score.main_metric):
            chance = stats.chance_interval(score.chance, score.n_items)
        draw_interval(axes, y, cell.estimate, variant, palette)
    if chance:
        axes.axvspan(100 * chance[0], 100 * chance[1], color=GRID, alpha=0.6, linewidth=0, zorder=0)
    axes.grid(axis="y", visible=False)
