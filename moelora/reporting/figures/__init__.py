"""Figures, one module a family. Each takes panels and returns figures; none reads a file."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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
    workers: int = 1,
) -> list[Figure]:
    """Return every figure that the records have something to show in, in the order of the page.

    Args:
        suite: The runs.
        panels: Its panels.
        effects: Multi-task minus single-task differences.
        costs: Cost measurements, one a model.
        stabilities: How sensitivities agree between samples, one a model and task.
        workers: Processes that draw side by side.
    """
    palette = Palette(suite)
    families = (
        pareto, placements, tasks, rates, interference, forgetting, routing, overlap, routers, experts, load,
        allocation, stability, curves,
    )  # fmt: skip
    material = {"effects": effects, "costs": costs, "stabilities": stabilities, "palette": palette}
    drawings = [functools.partial(family.draw, suite, panels, **material) for family in families]
    return [figure for drawn in _side_by_side(drawings, workers) for figure in drawn]


_drawings: list[Callable[[], list[Figure]]] = []


def _side_by_side(drawings: list[Callable[[], list[Figure]]], workers: int) -> list[list[Figure]]:
    """Return what each function draws, in order."""
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        return [draw() for draw in drawings]
    _drawings[:] = drawings  # the workers are copies of this process, so nothing has to be sent to them
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            return list(pool.map(_draw, range(len(drawings))))
    finally:
        _drawings.clear()


def _draw(number: int) -> list[Figure]:
    return _drawings[number]()
