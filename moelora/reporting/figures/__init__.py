"""Figures, one module a family. Each takes panels and returns figures; none reads a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moelora.reporting.cells import Interference, Panel
from moelora.reporting.figures import (
    allocation,
    curves,
    experts,
    forgetting,
    interference,
    load,
    overlap,
    pareto,
    placements,
    rates,
    routers,
    routing,
    stability,
    tasks,
)
from moelora.reporting.figures.search import draw_search
from moelora.reporting.figures.style import Figure, Palette
from moelora.reporting.runs import Suite

__all__ = ["Figure", "draw_all", "draw_search"]


def draw_all(
    suite: Suite,
    panels: Sequence[Panel],
    effects: Sequence[Interference],
    costs: Sequence[Mapping[str, Any]],
    stabilities: Sequence[Mapping[str, Any]] = (),
) -> list[Figure]:
    """Return every figure that the records have something to show in, in the order of the page.

    Args:
        suite: The runs.
        panels: Its panels.
        effects: Multi-task minus single-task differences.
        costs: Cost measurements, one a model.
        stabilities: How sensitivities agree between samples, one a model and task.
    """
    palette = Palette(suite)
    figures: list[Figure] = []
    families = (
        pareto, placements, tasks, rates, interference, forgetting, routing, overlap, routers, experts, load,
        allocation, stability, curves,
    )  # fmt: skip
    for family in families:
        figures += family.draw(suite, panels, effects=effects, costs=costs, stabilities=stabilities, palette=palette)
    return figures
