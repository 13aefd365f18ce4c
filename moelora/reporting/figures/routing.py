"""How well the chosen expert tells the task, per layer, against permuted labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import GRID, Figure, Palette, canvas, to_svg
from moelora.reporting.runs import Run, Suite


def draw(suite: Suite, panels: Sequence[Panel], *, palette: Palette, **_: object) -> list[Figure]:
    """Return one figure a mixture and regime, one pair of axes a routed variant."""
    figures = []
    for panel in panels:
        for regime, _indexes in panel.regimes:
            runs = [r for r in panel.runs if r.regime == regime and r.finished and _measured(r)]
            if runs:
                figures.append(_figure(suite, panel, regime, runs, palette))
    return figures


def _measured(run: Run) -> bool:
    return any(entry.get("nmi") is not None for entry in run.record.get("routing") or [])


def _figure(suite: Suite, panel: Panel, regime: str, runs: Sequence[Run], palette: Palette) -> Figure:
    variants = suite.variants(runs)
    with canvas(8.6, 2.8, 1, len(variants), sharey=True) as (drawing, grid):
        for axes, variant in zip(grid[0], variants, strict=True):
            nmi: dict[int, list[float]] = defaultdict(list)
            permuted: dict[int, list[float]] = defaultdict(list)
            for run in (r for r in runs if r.variant == variant):
                for entry in run.record["routing"]:
                    if entry.get("nmi") is not None:
                        nmi[entry["layer"]].append(entry["nmi"])
                        permuted[entry["layer"]].append(entry["nmi_permuted_p95"] or 0.0)
            layers = sorted(nmi)
            axes.fill_between(
                layers, 0, [float(np.mean(permuted[x])) for x in layers], color=GRID, alpha=0.8, linewidth=0
            )
            for layer in layers:
                axes.plot(
                    [layer] * len(nmi[layer]),
                    nmi[layer],
                    ".",
                    color=palette.colour(variant),
                    alpha=0.35,
                    markersize=5,
                )
            means = [float(np.mean(nmi[x])) for x in layers]
            axes.plot(layers, means, linewidth=1.4, **palette.marker(variant))
            axes.set_title(suite.label(variant))
            axes.set_xlabel("layer")
            axes.set_xticks(layers)
        grid[0][0].set_ylabel("NMI of task and expert")
        grid[0][0].set_ylim(0, None)
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"routing--{panel.name}--{regime}",
        family="routing",
        title=f"Routing by task: {panel.title}{regime_words}",
        caption="Normalised mutual information of task and chosen expert: 1 means that the expert names the task; "
        "the grey band is what permuted labels reach (95 %), small dots are single modules and seeds.",
        svg=svg,
    )
