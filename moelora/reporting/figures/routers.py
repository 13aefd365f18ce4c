"""How the routers decide, per layer and module type: entropy, and experts that nobody uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.diagnostics import Router, dead_words, diagnosed, routers
from moelora.reporting.figures.allocation import grid_of
from moelora.reporting.figures.style import Figure, canvas, heat, to_svg
from moelora.reporting.runs import Run, Suite


def draw(suite: Suite, panels: Sequence[Panel], **_: object) -> list[Figure]:
    """Return one figure a panel and regime: a row of two heat maps for each diagnosed variant."""
    figures = []
    for panel in panels:
        for regime, _indexes in panel.regimes:
            runs = diagnosed(r for r in panel.runs if r.regime == regime)
            if runs:
                figures.append(_figure(suite, panel, regime, runs))
    return figures


def entropy_of(router: Router) -> float:
    """Return the mean entropy over ln E of a router's runs."""
    return float(np.mean(router.entropy))


def dead_share_of(router: Router) -> float:
    """Return the share of a router's experts that are dead, the mean over its runs."""
    return float(np.mean(router.dead)) / router.experts


def _figure(suite: Suite, panel: Panel, regime: str, runs: Sequence[Run]) -> Figure:
    variants = suite.variants(runs)
    found = {v: routers([r for r in runs if r.variant == v]) for v in variants}
    model = runs[0].record["plan"].get("model")
    document = model if isinstance(model, dict) else None
    depths = [max(len({r.layer for r in found[v]}), 2) for v in variants]
    with canvas(
        8.6, sum(1.0 + 0.2 * depth for depth in depths), len(variants), 2, height_ratios=[3 + d for d in depths]
    ) as (drawing, grid):
        for row, variant in zip(grid, variants, strict=True):
            for axes, (title, value) in zip(
                row, (("entropy / ln E", entropy_of), ("dead experts, share", dead_share_of)), strict=True
            ):
                layers, kinds, at = grid_of({r.module: value(r) for r in found[variant]}, document)
                values = [[at.get((layer, kind)) for kind in kinds] for layer in layers]
                heat(axes, values, 1.0, 2)
                axes.set_xticks(range(len(kinds)), kinds, rotation=20 if len(kinds) > 2 else 0)
                axes.set_yticks(range(len(layers)), layers)
                axes.set_xlabel(title)
            row[0].set_ylabel("layer")
            row[0].set_title(suite.label(variant), fontweight="bold")
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"routers--{panel.name}--{regime}",
        family="routers",
        title=f"Routers: {panel.title}{regime_words}",
        caption="Left, 1 means that the router has no opinion and 0 that it always is sure; right, the share of "
        f"experts that get less than {dead_words(runs)} of the balanced load; means over runs.",
        svg=svg,
    )
