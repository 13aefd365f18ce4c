"""Experts allocated per layer and module type, beside the sensitivity that led to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.figures.style import Figure, canvas, heat, to_svg
from moelora.reporting.placed import BLIND, Placed, placed
from moelora.reporting.runs import Suite

_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


def draw(suite: Suite, panels: Sequence[Panel], **_: object) -> list[Figure]:
    """Return one figure a model, variant and allocation."""
    return [_figure(suite, one) for one in placed(suite)]


def grid_of(
    values: Mapping[str, float], document: Mapping[str, Any] | None = None
) -> tuple[list[int], list[str], dict[tuple[int, str], float]]:
    """Return layers, module types and the value at each, from values by module path.

    Args:
        values: Value by module path, as `encoder.layer.3.attention.self.query`.
        document: The model file, whose names for the types are used where it has them.
    """
    named = {
        path: kind
        for group in ((document or {}).get("modules") or {}).values()
        for kind, path in group.items()
        if isinstance(path, str)
    }
    groups = {path: f"{words.MODULES.get(kind, kind)}" for path, kind in named.items()}
    # Attention and feed-forward both have an "output" in encoders; the group tells them apart.
    if len(set(groups.values())) < len(groups):
        groups = {
            path: f"{group.replace('_', '-')} {kind}"
            for group, kinds in document["modules"].items()
            for kind, path in kinds.items()
        }
    order = list(groups.values())
    result: dict[tuple[int, str], float] = {}
    for path in sorted(values):
        match = _LAYER.search(path)
        layer, rest = (int(match.group(1)), match.group(2)) if match else (0, path)
        result[layer, groups.get(rest, rest)] = values[path]
    kinds = sorted({k for _, k in result}, key=lambda k: (order.index(k) if k in order else len(order), k))
    return sorted({layer for layer, _ in result}), kinds, result


def _figure(suite: Suite, one: Placed) -> Figure:
    layers, kinds, experts = grid_of(one.experts, one.model_document)
    _, _, sensitivity = grid_of(one.shares(), one.model_document)
    maps = [("Experts", experts, 0)] + ([("Sensitivity, % of the sum", sensitivity, 1)] if sensitivity else [])
    with canvas(8.6, 1.1 + 0.26 * len(layers), 1, len(maps)) as (drawing, grid):
        for axes, (title, found, digits) in zip(grid[0], maps, strict=True):
            factor = 100.0 if digits else 1.0
            rows = [[factor * found[layer, k] if (layer, k) in found else None for k in kinds] for layer in layers]
            heat(axes, rows, max(x for row in rows for x in row if x is not None), digits)
            axes.set_title(title)
            axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right")
            axes.set_yticks(range(len(layers)), layers)
        grid[0][0].set_ylabel("layer")
        svg = to_svg(drawing)
    blind = one.strategy in BLIND
    followed = "the sensitivity, which it did not look at," if blind else "the sensitivity it followed,"
    source = f"of {suite.task_title(one.task)}" if one.task else "averaged over the tasks"
    return Figure(
        name="--".join(["allocation", one.model, one.variant, *([one.task] if one.task else [])]),
        family="allocation",
        title=f"Allocation: {suite.label(one.variant)} on {suite.model_title(one.model)}"
        + (f", from {suite.task_title(one.task)}" if one.task else ""),
        caption=f"{words.plural(int(sum(one.experts.values())), 'expert')} placed by “{one.strategy}”; on the right "
        f"{followed} {source}.",
        svg=svg,
    )
