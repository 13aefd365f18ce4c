"""Strategies of placing experts side by side: score against budget, and where each puts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import NullFormatter

from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Panel
from moelora.reporting.figures.allocation import grid_of
from moelora.reporting.figures.style import MUTED, Figure, canvas, heat, hide_unused, hue, to_svg
from moelora.reporting.placed import Placed, placed
from moelora.reporting.runs import Suite

_COLUMNS = 4
_CONTROL = "LoRA of equal parameters"


def draw(suite: Suite, panels: Sequence[Panel], **_: object) -> list[Figure]:
    """Return one figure of scores a panel and regime, and one of maps a model and budget."""
    figures = []
    for panel in panels:
        for regime, _indexes in panel.regimes:
            lines = budget_lines(suite, panel, regime)
            if len([name for name in lines if name != _CONTROL]) > 1:
                figures.append(_scores(suite, panel, regime, lines))
    return figures + _all_maps(suite)


def budget_lines(suite: Suite, panel: Panel, regime: str) -> dict[str, list[tuple[int, str]]]:
    """Return (trainable parameters, variant) by rising parameters for each strategy, and for the matched LoRA."""
    index = panel.summary_column(regime)
    lines: dict[str, list[tuple[int, str]]] = {}
    for variant in panel.variants:
        kind, matched = suite.control(variant) or (None, None)
        if kind not in (None, "equal_trainable"):
            continue
        placement = suite.placement(matched or variant)
        size = panel.parameters(variant)
        if placement and size and index is not None and panel.cells[variant, index].estimate:
            lines.setdefault(_CONTROL if matched else str(placement["strategy"]), []).append((size[1], variant))
    return {name: sorted(points) for name, points in lines.items()}


def _scores(suite: Suite, panel: Panel, regime: str, lines: Mapping[str, Sequence[tuple[int, str]]]) -> Figure:
    index = panel.summary_column(regime)
    column = panel.columns[index]
    names = [name for name in lines if name != _CONTROL] + ([_CONTROL] if _CONTROL in lines else [])
    with canvas(8.6, 3.8) as (drawing, grid):
        axes = grid[0][0]
        for place, name in enumerate(names):
            # At equal budgets the marks would cover each other: a step of one in a hundred to the side is no budget.
            shift = 1 + 0.012 * (place - (len(names) - 1) / 2)
            estimates = [panel.cells[variant, index].estimate for _, variant in lines[name]]
            colour = MUTED if name == _CONTROL else hue(place)
            style = {"linestyle": "--", "markerfacecolor": "none"} if name == _CONTROL else {"linestyle": "-"}
            axes.errorbar(
                [size * shift for size, _ in lines[name]],
                [100 * e.mean for e in estimates],
                yerr=[[100 * (e.mean - e.low) for e in estimates], [100 * (e.high - e.mean) for e in estimates]],
                color=colour, marker="osD^"[place // 8 % 4], markersize=4.5, linewidth=1.3, elinewidth=0.8, label=name,
                **style,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(*_ticks(suite, lines))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Trainable parameters")
        what = "Average score" if column.task == AVERAGE else f"{suite.task_title(column.task)}, "
        what += "" if column.task == AVERAGE else words.metric_label(column.metric)
        axes.set_ylabel(f"{what} × 100")
        drawing.legend(loc="outside right upper")
        svg = to_svg(drawing)
    regime_words = f" ({words.regime_label(regime).lower()})" if len(panel.regimes) > 1 else ""
    return Figure(
        name=f"placements--{panel.name}--{regime}",
        family="placements",
        title=f"Score against budget: {panel.title}{regime_words}",
        caption="One line a strategy; bars are 95 % intervals. Marks of one budget are moved apart a little so that "
        "all can be seen; a strategy without a budget stands at the total that it came to.",
        svg=svg,
    )


def _ticks(suite: Suite, lines: Mapping[str, Sequence[tuple[int, str]]]) -> tuple[list[float], list[str]]:
    """Return a place for each budget, the mean of what was spent of it, and the count that stands there."""
    spent: dict[str | None, list[int]] = {}
    for size, variant in (point for points in lines.values() for point in points):
        spent.setdefault(suite.placement(suite.matched_to(variant) or variant)["budget"], []).append(size)
    named = {budget: sizes for budget, sizes in spent.items() if budget is not None} or spent
    places = sorted(sum(sizes) / len(sizes) for sizes in named.values())
    return places, [words.count(place) for place in places]


def _all_maps(suite: Suite) -> list[Figure]:
    groups: dict[tuple[str, str], list[Placed]] = {}
    for one in placed(suite):
        placement = suite.placement(one.variant)
        if placement and one.task is None:
            groups.setdefault((one.model, placement["budget"] or "own total"), []).append(one)
    return [_maps(suite, model, budget, ones) for (model, budget), ones in groups.items()]


def _maps(suite: Suite, model: str, budget: str, ones: Sequence[Placed]) -> Figure:
    document = ones[0].model_document
    panels = [(f"{suite.placement(one.variant)['strategy']}: {sum(one.experts.values())}", one.experts) for one in ones]
    top = max(count for _, counts in panels for count in counts.values())
    layers, kinds, _ = grid_of(ones[0].experts, document)
    shares = {module: 100 * share for module, share in next(filter(None, (one.shares() for one in ones)), {}).items()}
    maps = [(title, counts, top, 0) for title, counts in panels]
    if shares:
        maps.insert(0, ("sensitivity, % of the sum", shares, max(shares.values()), 1))
    columns = min(_COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    with canvas(9.2, (0.9 + 0.22 * len(layers)) * rows, rows, columns) as (drawing, grid):
        flat = list(grid.ravel())
        for place, (axes, (title, values, most, digits)) in enumerate(zip(flat, maps, strict=False)):
            _, _, found = grid_of(values, document)
            heat(axes, [[found.get((layer, kind)) for kind in kinds] for layer in layers], most, digits)
            axes.set_title(title)
            last = place + columns >= len(maps)
            axes.set_xticks(
                range(len(kinds)), kinds if last else [""] * len(kinds), rotation=40, ha="right", fontsize=7
            )
            axes.set_yticks(range(len(layers)), layers if place % columns == 0 else [""] * len(layers), fontsize=7)
        hide_unused(flat, len(maps))
        svg = to_svg(drawing)
    return Figure(
        name=f"maps--{model}--{budget.replace(' ', '-')}",
        family="placements",
        title=f"Where each strategy puts its experts: {suite.model_title(model)}, {budget}",
        caption="Layers from the top row downwards, types of module across, one opacity for equal counts in all maps; "
        "beside the name of the strategy the experts in total. The sensitivity is the mean over tasks.",
        svg=svg,
    )
