"""Training loss against step."""

from __future__ import annotations

from collections.abc import Sequence

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import Figure, Palette, canvas, hide_unused, to_svg
from moelora.reporting.long_csv import loss_curve
from moelora.reporting.runs import Run, Suite


def draw(suite: Suite, panels: Sequence[Panel], *, palette: Palette, **_: object) -> list[Figure]:
    """Return one figure a panel and regime, one pair of axes a training task."""
    figures = []
    for panel in panels:
        for regime, _indexes in panel.regimes:
            runs = [r for r in panel.runs if r.regime == regime and loss_curve(r)]
            if runs:
                figures.append(_figure(suite, panel, regime, runs, palette))
    return figures


def _figure(suite: Suite, panel: Panel, regime: str, runs: Sequence[Run], palette: Palette) -> Figure:
    tasks = suite.tasks(r.task for r in runs)
    variants = suite.variants(runs)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    handles = {}
    with canvas(8.6, 2.5 * rows if rows > 1 else 3.0, rows, columns) as (drawing, grid):
        flat = list(grid.ravel())
        for axes, task in zip(flat, tasks, strict=False):
            for run in (r for r in runs if r.task == task):
                steps, losses = zip(*loss_curve(run), strict=True)
                style = "--" if suite.matched_to(run.variant) else "-"
                marker = {**palette.marker(run.variant), "markersize": 4.5, "markevery": [-1]}
                (line,) = axes.plot(steps, losses, style, linewidth=1.2, alpha=0.75, **marker)
                handles.setdefault(run.variant, line)
                if run.status == "diverged":
                    axes.plot(steps[-1:], losses[-1:], "x", color=palette.colour(run.variant))
            axes.set_title(suite.task_title(task) if not panel.mixture else f"mixture “{task}”")
            axes.set_xlabel("step")
        for row in grid:
            row[0].set_ylabel("training loss")
        hide_unused(flat, len(tasks))
        drawing.legend([handles[v] for v in variants], [suite.label(v) for v in variants], loc="outside right upper")
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"curves--{panel.name}--{regime}",
        family="curves",
        title=f"Training curves: {panel.title}{regime_words}",
        caption="One line a seed, the variant's mark at its end; dashed lines are matched LoRA, a cross ends a run "
        "that diverged.",
        svg=svg,
    )
