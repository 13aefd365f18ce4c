"""Whether the experts of a module differ, and whether two seeds find the same division of labour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.diagnostics import diagnosed, routers
from moelora.reporting.figures.style import MUTED, Figure, Palette, canvas, to_svg
from moelora.reporting.runs import Run, Suite


def draw(suite: Suite, panels: Sequence[Panel], *, palette: Palette, **_: object) -> list[Figure]:
    """Return one figure a panel and regime: similarity of experts by layer and, for several seeds, their agreement."""
    figures = []
    for panel in panels:
        for regime, _indexes in panel.regimes:
            runs = diagnosed(r for r in panel.runs if r.regime == regime)
            if any(points_by_layer(runs, name) for name in ("similarity", "ami")):
                figures.append(_figure(suite, panel, regime, runs, palette))
    return figures


def points_by_layer(runs: Sequence[Run], name: str) -> dict[int, list[float]]:
    """Return layer → one measure of its routers, a value a run (or a pair of seeds)."""
    found: dict[int, list[float]] = defaultdict(list)
    for router in routers(runs):
        found[router.layer] += getattr(router, name)
    return {layer: values for layer, values in sorted(found.items()) if values}


def _figure(suite: Suite, panel: Panel, regime: str, runs: Sequence[Run], palette: Palette) -> Figure:
    variants = suite.variants(runs)
    measures = [
        (name, title)
        for name, title in (
            ("similarity", "cosine of two experts' increments"),
            ("ami", "adjusted MI of two seeds' routing"),
        )
        if points_by_layer(runs, name)
    ]
    with canvas(8.6, 3.1, 1, len(measures)) as (drawing, grid):
        for axes, (name, title) in zip(grid[0], measures, strict=True):
            axes.axhline(0, color=MUTED, linewidth=1)
            shown = set()
            for variant in variants:
                points = points_by_layer([r for r in runs if r.variant == variant], name)
                for layer, values in points.items():
                    axes.plot(
                        [layer] * len(values), values, ".", color=palette.colour(variant), alpha=0.3, markersize=4
                    )
                if points:
                    axes.plot(
                        list(points),
                        [float(np.mean(values)) for values in points.values()],
                        linewidth=1.4,
                        label=suite.label(variant),
                        **palette.marker(variant),
                    )
                    shown |= set(points)
            axes.set_xticks(sorted(shown))
            axes.set_xlabel("layer")
            axes.set_ylabel(title)
        grid[0][0].legend()
        svg = to_svg(drawing)
    seeds = ", and on the right whether two seeds divide the tokens alike (0 is chance)" if len(measures) > 1 else ""
    return Figure(
        name=f"experts--{panel.name}--{regime}",
        family="experts",
        title=f"Experts: {panel.title}"
        + (f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""),
        caption=f"At 1 the experts of a module do the same, at 0 they have nothing in common{seeds}; "
        "small dots are single modules and runs.",
        svg=svg,
    )
