"""What each variant forgot, by the way it was trained."""

from __future__ import annotations

from collections.abc import Sequence

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import MUTED, Figure, Palette, canvas, draw_interval, hide_unused, to_svg
from moelora.reporting.forgetting import Change, summaries
from moelora.reporting.runs import Suite


def draw(suite: Suite, panels: Sequence[Panel], *, palette: Palette, **_: object) -> list[Figure]:
    """Return one figure a model, regime and kind of measure, one pair of axes a way of training."""
    found = summaries(panels)
    keys = list(dict.fromkeys((c.model, c.regime, c.is_text) for c in found))
    return [_figure(suite, [c for c in found if (c.model, c.regime, c.is_text) == key], palette) for key in keys]


def _figure(suite: Suite, found: Sequence[Change], palette: Palette) -> Figure:
    model, regime, is_text = found[0].model, found[0].regime, found[0].is_text
    ways = list(dict.fromkeys(c.trained_on for c in found))
    variants = [v for v in suite.variants(suite.runs) if any(c.variant == v for c in found)]
    columns = min(3, len(ways))
    rows = -(-len(ways) // columns)
    scale = 1 if is_text else 100
    with canvas(8.6, rows * (0.75 + 0.23 * len(variants)), rows, columns, sharey=True, sharex=True) as (drawing, grid):
        flat = list(grid.ravel())
        for axes, way in zip(flat, ways, strict=False):
            axes.axvline(0, color=MUTED, linewidth=1)
            for change in (c for c in found if c.trained_on == way):
                draw_interval(axes, variants.index(change.variant), change.estimate, change.variant, palette, scale)
            axes.set_title(way or "one task each, mean")
            axes.set_xlabel("nats a token" if is_text else "points")
            axes.grid(axis="y", visible=False)
        for row in grid:
            row[0].set_yticks(range(len(variants)), [suite.label(v) for v in variants])
            row[0].set_ylim(len(variants) - 0.5, -0.5)
        hide_unused(flat, len(ways))
        svg = to_svg(drawing)
    kind = "text" if is_text else "probes"
    measured = "rise of the loss on held-out text" if is_text else "drop of frozen probes of other tasks"
    return Figure(
        name=f"forgetting--{model}--{regime}--{kind}",
        family="forgetting",
        title=f"Forgetting: {suite.model_title(model)}, {measured}"
        + (f" ({words.regime_label(regime).lower()})" if len(suite.regimes) > 1 else ""),
        caption="Right of zero something was lost against the base model; bars are 95 % intervals over seeds and "
        + ("documents." if is_text else "items."),
        svg=svg,
    )
