"""Score against trainable parameters and against step time, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Panel
from moelora.reporting.figures.style import GRID, INK, MUTED, Figure, Palette, canvas, to_svg
from moelora.reporting.runs import Suite


def draw(
    suite: Suite,
    panels: Sequence[Panel],
    *,
    costs: Sequence[Mapping[str, Any]],
    palette: Palette,
    **_: object,
) -> list[Figure]:
    """Return one figure a panel and regime: parameters on the left, step time on the right."""
    figures = []
    for panel in panels:
        steps = {
            variant: c["step_seconds"]
            for document in costs
            if document["model"] == panel.model
            for variant, c in document["variants"].items()
            if c.get("status", "finished") == "finished"
        }
        for regime, _indexes in panel.regimes:
            figure = _figure(suite, panel, regime, steps, palette)
            if figure:
                figures.append(figure)
    return figures


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names that no other beats in both cost and score, by rising cost.

    Args:
        points: (cost, score) by name.
    """
    best, names = float("-inf"), []
    for name, (_cost, score) in sorted(points.items(), key=lambda kv: (kv[1][0], -kv[1][1], kv[0])):
        if score > best:
            best = score
            names.append(name)
    return names


def _figure(suite: Suite, panel: Panel, regime: str, steps: Mapping[str, float], palette: Palette) -> Figure | None:
    index = panel.summary_column(regime)
    column = panel.columns[index]
    cells = {v: panel.cells[v, index] for v in panel.variants if panel.cells[v, index].estimate}
    sizes = {v: panel.parameters(v)[1] for v in cells if panel.parameters(v) and panel.parameters(v)[1] > 0}
    timed = {v: steps[v] for v in sizes if v in steps}
    if len(sizes) < 2:
        return None
    axes_wanted = [("Trainable parameters", sizes)]
    if len(timed) > 1:
        axes_wanted.append(("Step time in milliseconds", {v: 1000 * s for v, s in timed.items()}))
    what = "Average score" if column.task == AVERAGE else f"{suite.task_title(column.task)}, "
    what += "" if column.task == AVERAGE else words.metric_label(column.metric)
    handles: dict[str, object] = {}
    with canvas(8.6, 3.6, 1, len(axes_wanted), sharey=True) as (drawing, grid):
        for axes, (label, costs) in zip(grid[0], axes_wanted, strict=True):
            handles |= _scatter(axes, cells, costs, palette)
            axes.set_xlabel(label)
            _references(axes, suite, cells, sizes)
        grid[0][0].set_ylabel(f"{what} × 100")
        drawing.legend(
            [handles[v] for v in cells if v in handles],
            [panel.label(v) for v in cells if v in handles],
            loc="outside right upper",
        )
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    missing = [suite.label(v) for v in panel.contenders if v not in cells]
    caption = (
        "The line joins the variants that no other beats in both score and cost; bars are 95 % intervals, "
        "hollow markers are LoRA with as many trainable parameters as the mixture of the same colour"
    )
    caption += f"; without a score on every task: {words.listing(missing)}." if missing else "."
    return Figure(
        name=f"pareto--{panel.name}--{regime}",
        family="pareto",
        title=f"Score against cost: {panel.title}{regime_words}",
        caption=caption,
        svg=svg,
    )


def _scatter(axes: Axes, cells: Mapping[str, Any], costs: Mapping[str, float], palette: Palette) -> dict[str, object]:
    handles = {}
    points = {v: (costs[v], 100 * cells[v].estimate.mean) for v in cells if v in costs}
    edge = front(points)
    axes.plot(
        [points[v][0] for v in edge], [points[v][1] for v in edge],
        color=MUTED, linewidth=1.1, drawstyle="steps-post", zorder=1,
    )  # fmt: skip
    for variant, (cost, score) in points.items():
        e = cells[variant].estimate
        axes.plot([cost, cost], [100 * e.low, 100 * e.high], color=palette.colour(variant), linewidth=1, alpha=0.6)
        handles[variant] = axes.plot([cost], [score], linestyle="none", **palette.marker(variant))[0]
    spread = [c for c, _ in points.values()]
    if max(spread) > 4 * min(spread):
        axes.set_xscale("log")
    else:
        axes.set_xlim(min(spread) - 0.12 * (max(spread) - min(spread) or 1), None)
    axes.xaxis.set_minor_formatter(NullFormatter())
    return handles


def _references(axes: Axes, suite: Suite, cells: Mapping[str, Any], sizes: Mapping[str, float]) -> None:
    # What trains nothing has no place on an axis of parameters; it is the level to be above.
    for variant, cell in cells.items():
        if variant not in sizes:
            level = 100 * cell.estimate.mean
            axes.axhline(level, color=GRID, linewidth=1.2, zorder=0)
            axes.annotate(
                suite.label(variant), (0.995, level), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=7.5, color=INK, alpha=0.8,
            )  # fmt: skip
