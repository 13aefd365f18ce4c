"""Score against learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import Figure, Palette, canvas, hide_unused, to_svg
from moelora.reporting.rates import TOLERANCE, VALIDATION, Curve, curves, good_region
from moelora.reporting.runs import Suite


def draw(suite: Suite, panels: Sequence[Panel], *, palette: Palette, **_: object) -> list[Figure]:
    """Return one figure a model, kind of split and tuned regime, one pair of axes a task."""
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in curves(suite):
        groups.setdefault((curve.model, curve.split, curve.regime), []).append(curve)
    return [_figure(suite, *key, found, palette) for key, found in groups.items()]


def _figure(suite: Suite, model: str, split: str, regime: str, found: Sequence[Curve], palette: Palette) -> Figure:
    tasks = suite.tasks(c.task for c in found)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    handles = {}
    with canvas(8.6, 2.5 * rows if rows > 1 else 3.2, rows, columns) as (drawing, grid):
        flat = list(grid.ravel())
        for axes, task in zip(flat, tasks, strict=False):
            mine = [c for c in found if c.task == task]
            scored = [100 * p.mean for c in mine for p in c.points if p.mean is not None]
            bottom = min(scored, default=0.0) - 0.06 * (max(scored, default=1.0) - min(scored, default=0.0) or 1.0)
            for curve in mine:
                _line(axes, curve, bottom, palette, handles)
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_title(suite.task_title(task))
            axes.set_xlabel("learning rate")
        for row in grid:
            row[0].set_ylabel("score × 100")
        hide_unused(flat, len(tasks))
        variants = [v for v in suite.variants(suite.runs) if v in handles]
        drawing.legend([handles[v] for v in variants], [suite.label(v) for v in variants], loc="outside right upper")
        svg = to_svg(drawing)
    ours = f" ({words.regime_label(regime).lower()})" if regime else ""
    what = "tuning" if split == VALIDATION else "runs"
    return Figure(
        name=f"rates--{model}--{what}{f'--{regime}' if regime else ''}",
        family="rates",
        title=f"Score against learning rate: {suite.model_title(model)}{ours}",
        caption=f"Mean over seeds, scored on the {split}. The thick part of a line is the good region; a cross at the "
        "bottom is a rate at which a run diverged or was lost.",
        svg=svg,
    )


def _line(axes, curve: Curve, bottom: float, palette: Palette, handles: dict) -> None:
    """Draw a curve, the thick part of its good region, and a cross at the bottom for each rate that lost a run."""
    colour = palette.colour(curve.variant)
    usable = [p for p in curve.points if p.mean is not None]
    rates, means = [p.rate for p in usable], [100 * p.mean for p in usable]
    (line,) = axes.plot(
        rates, means, linestyle=palette.line(curve.variant), linewidth=1.3, **palette.marker(curve.variant)
    )
    handles.setdefault(curve.variant, line)
    region = good_region(curve.points)
    if region is not None:
        inside = [(p.rate, 100 * p.mean) for p in usable if region.low <= p.rate <= region.high]
        floor = 100 * (curve.best.mean - TOLERANCE)
        ends = [(region.low, floor)] if region.low < inside[0][0] else []
        more = [(region.high, floor)] if region.high > inside[-1][0] else []
        xs, ys = zip(*ends, *inside, *more, strict=True)
        axes.plot(xs, ys, color=colour, linewidth=5, alpha=0.25, solid_capstyle="round")
    gone = [p.rate for p in curve.points if p.mean is None]
    axes.plot(gone, [bottom] * len(gone), "x", color=colour, markersize=6)
