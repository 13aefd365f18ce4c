"""How every figure looks, and how it becomes the same bytes everywhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogFormatter

from moelora.reporting import words
from moelora.reporting.runs import Suite

INK, MUTED, GRID = "#1f2429", "#69727b", "#d8dce1"
"""Colours that the page replaces by its own, so that a figure follows light and dark."""

HEAT = (0.18, 0.45, 0.75)
"""The one colour of heat maps; opacity carries the value, which works on any ground."""

_HUES = ("#3a7fc1", "#e08a00", "#1f9e78", "#cf6aa0", "#d2552b", "#7d6fd0", "#8a8f2a", "#3fa9bf")
_MARKERS = "osD^vPX<"
_NEUTRAL = "#8b939c"

SETTINGS = {
    "svg.hashsalt": "moelora",
    "text.parse_math": False,  # a title with two dollar signs is a title
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and follows the page's font
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_locale": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Attributes:
        name: File name without its ending.
        family: The family it belongs to, for the page's sections.
        title: A few words.
        caption: One sentence on what to see.
        svg: A complete SVG file.
        data: Names of the tables with its numbers, where its family does not say it.
    """

    name: str
    family: str
    title: str
    caption: str
    svg: str
    data: tuple[str, ...] = ()

    @property
    def inline(self) -> str:
        """The figure for a page: no prolog, ids of its own, and the page's colours."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        for plain, variable in ((INK, "--ink"), (MUTED, "--muted"), (GRID, "--grid")):
            body = body.replace(plain, f"var({variable})")
        # Several figures share a page; a clip path or marker must be found in its own.
        prefix = re.sub(r"[^A-Za-z0-9]", "-", self.name)
        body = re.sub(r'\bid="', f'id="{prefix}-', body)
        body = re.sub(r"url\(#", f"url(#{prefix}-", body)
        body = re.sub(r'href="#', f'href="#{prefix}-', body)
        body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
        body = re.sub(r'(<svg[^>]*?) width="([0-9.]+)pt"', rf'\1 style="width:{_width(body)}"', body, count=1)
        return body.replace("<svg", f'<svg role="img" aria-label="{_escape(self.title)}"', 1)


def hue(place: int) -> str:
    """Return the colour of the n-th line of a figure whose lines are no variants."""
    return _HUES[place % len(_HUES)]


class Palette:
    """A colour and marker for each variant, the same in all figures of a suite.

    A LoRA that was matched to a mixture takes the mixture's colour and a hollow marker, a small one where it is matched
    to the active parameters.
    """

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        coloured = [
            v for v in suite.variants(suite.runs) if suite.method(v) not in words.REFERENCES and not suite.matched_to(v)
        ]
        self._index = {v: i for i, v in enumerate(coloured)}

    def colour(self, variant: str) -> str:
        """Return the variant's colour."""
        index = self._index.get(self._suite.matched_to(variant) or variant)
        return _NEUTRAL if index is None else _HUES[index % len(_HUES)]

    def marker(self, variant: str) -> dict[str, object]:
        """Return the variant's marker as keywords for `plot`."""
        index = self._index.get(self._suite.matched_to(variant) or variant)
        colour = self.colour(variant)
        kind, _ = self._suite.control(variant) or (None, None)
        hollow = self._suite.matched_to(variant) is not None
        return {
            # one further round of the colours is one step on among the markers
            "marker": "o" if index is None else _MARKERS[(index + index // len(_HUES)) % len(_MARKERS)],
            "color": colour,
            "markerfacecolor": "none" if hollow else colour,
            "markeredgecolor": colour,
            "markeredgewidth": 1.4,
            "markersize": 4.0 if kind == "equal_active" else 6.5,
        }

    def line(self, variant: str) -> str:
        """Return the variant's line style: broken for controls, dotted for a LoRA of equal active parameters."""
        kind, _ = self._suite.control(variant) or (None, None)
        return {None: "-", "equal_active": ":"}.get(kind, "--")


def draw_interval(axes: Axes, y: float, found: Any, variant: str, palette: Palette, scale: float = 100.0) -> None:
    """Draw a mean as the variant's mark on its interval, lying at height y.

    Args:
        axes: Where.
        y: Height.
        found: Anything with `low`, `mean` and `high`.
        variant: Whose colour and mark it has.
        palette: The suite's.
        scale: Factor of all three.
    """
    colour = palette.colour(variant)
    axes.plot([scale * found.low, scale * found.high], [y, y], color=colour, linewidth=1.6, alpha=0.65)
    axes.plot([scale * found.mean], [y], linestyle="none", **palette.marker(variant))


@contextmanager
def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: object) -> Iterator[tuple]:
    """Open a figure in the house style; it is closed again whatever happens.

    Args:
        width: Inches.
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.
        **options: For `matplotlib.pyplot.subplots`.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure, axes = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options
        )
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def to_svg(figure: Canvas) -> str:
    """Return the figure as SVG without a date, so that the same records give the same bytes."""
    _set_powers(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def _set_powers(figure: Canvas) -> None:
    """Let the labels of logarithmic axes, which matplotlib writes itself, be set as powers."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            for tick in axis.get_major_ticks(len(axis.get_majorticklocs())):
                tick.label1.set_parse_math(True)


def heat(axes: Axes, values: list[list[float | None]], top: float, digits: int | None = None) -> None:
    """Draw a heat map of rectangles whose opacity is value / top; None stays empty.

    Args:
        axes: Where.
        values: Rows from top to bottom.
        top: The value of full colour.
        digits: Write the value into each cell with so many digits.
    """
    height, width = len(values), max((len(r) for r in values), default=0)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is None:
                continue
            strength = 0.0 if top <= 0 else min(max(value / top, 0.0), 1.0)
            axes.add_patch(
                plt.Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=(*HEAT, round(0.75 * strength, 4)))
            )
            if digits is not None:
                axes.text(x, y, f"{value:.{digits}f}", ha="center", va="center", fontsize=7.5)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)


def hide_unused(axes: list[Axes], used: int) -> None:
    """Hide the axes behind the last that is used."""
    for spare in axes[used:]:
        spare.set_visible(False)


def _width(body: str) -> str:
    found = re.search(r'width="([0-9.]+)pt"', body)
    return f"{float(found.group(1)) / 72 * 96:.0f}px" if found else "100%"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
