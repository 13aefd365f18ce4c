"""The report's page: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from moelora.reporting import provenance
from moelora.reporting.claims_part import ClaimsPart
from moelora.reporting.figures import Figure
from moelora.reporting.render import SYNTHETIC
from moelora.reporting.runs import Suite
from moelora.reporting.summary import Finding
from moelora.reporting.table import Table
from moelora.reporting.tables import LEGEND

_FAMILIES = {
    "pareto": "Score against cost",
    "placements": "Where to put a budget of experts",
    "tasks": "Scores by task",
    "routing": "Does the router tell the tasks apart?",
    "overlap": "Which tasks share experts?",
    "routers": "Does the router decide, and are all experts used?",
    "experts": "Do the experts differ, and do seeds agree?",
    "load": "Expert load",
    "allocation": "Where the experts went",
    "stability": "Do small samples agree on what is sensitive?",
    "curves": "Training curves",
}

_DATA = {
    "pareto": ("headline", "costs"),
    "placements": ("headline", "experts"),
    "tasks": ("headline",),
    "interference": ("interference",),
    "routing": ("loads",),
    "routers": ("routers",),
    "experts": ("routers",),
    "overlap": ("loads",),
    "load": ("loads",),
    "forgetting": ("forgetting-details",),
    "allocation": ("experts", "sensitivity"),
    "stability": ("stability",),
    "curves": ("curves",),
    "rates": ("rates",),
    "search": ("search",),
}
"""Tables, below `tables/`, that hold what the figures of a family show; a figure may name its own instead."""

QUESTION = {
    "why": "Why it is asked",
    "holds": "What stays the same",
    "reads": "How to read it",
    "limits": "What it can't show",
}
"""The parts of a suite's question after what it asks and what varies, and their headings."""

_FOLDED = frozenset({"overlap", "routers", "experts", "load", "allocation", "curves"})
"""Families of which the page opens the first figure only: there are many, and they are looked up."""


@dataclass(frozen=True)
class Comparison:
    """A record of the bench as the page shows it.

    Attributes:
        name: Of the record.
        conditions: Where and when it was measured.
        tables: One a comparison.
        figure: That of a sweep.
    """

    name: str
    conditions: str
    tables: Sequence[Table]
    figure: Figure | None


@dataclass(frozen=True)
class Content:
    """Everything the page shows.

    Attributes:
        suite: The runs and their titles.
        title: Heading of the page.
        findings: The summary.
        headlines: One table a panel.
        tables: The other tables by name.
        figures: All figures.
        files: Names of the CSV files beside the page, without their ending.
        compared: Records of the bench.
        claims: What papers claim about runs of this suite, where the suite asks for it.
        warnings: What a reader must know about the records themselves.
    """

    suite: Suite
    title: str
    findings: Sequence[Finding]
    headlines: Sequence[Table]
    tables: Mapping[str, Table]
    figures: Sequence[Figure]
    files: Collection[str] = ()
    compared: Sequence[Comparison] = ()
    claims: ClaimsPart | None = None
    warnings: Sequence[str] = ()


def page(content: Content) -> str:
    """Return the page as HTML; the same content gives the same bytes."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    runs = content.tables["runs"].rows if "runs" in content.tables else []
    families = [
        (family, heading, [f for f in content.figures if f.family == family]) for family, heading in _FAMILIES.items()
    ]
    return environment.get_template("page.html.j2").render(
        content=content,
        suite=content.suite,
        families=[f for f in families if f[2]],
        folded=_FOLDED,
        interference_figures=[f for f in content.figures if f.family == "interference"],
        forgetting_figures=[f for f in content.figures if f.family == "forgetting"],
        rates_figures=[f for f in content.figures if f.family == "rates"],
        question_words=QUESTION,
        search_figures=[f for f in content.figures if f.family == "search"],
        environments=provenance.environments(content.suite),
        facts=_facts(content.suite),
        legend=LEGEND,
        synthetic_words=SYNTHETIC,
        data=lambda figure: [name for name in figure.data or _DATA.get(figure.family, ()) if name in content.files],
        linked={row.record for row in runs},
        script=Markup(read_script()),
        inline=lambda figure: Markup(figure.inline),
    )


def read_script() -> str:
    """Return the script of the pages: sorting tables, opening what a link leads to."""
    return (Path(__file__).parent / "sort.js").read_text(encoding="utf-8")


def _facts(suite: Suite) -> list[tuple[str, str]]:
    counts = {
        "run": len(suite.runs),
        "variant": len({r.variant for r in suite.runs}),
        "task": len({t for r in suite.runs for t in r.tasks}),
        "model": len(suite.models),
        "seed": len({r.seed for r in suite.runs}),
    }
    return [(str(n), noun if n == 1 else f"{noun}s") for noun, n in counts.items()]
