"""`moelora claims`: tables and page of published claims beside what records say."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from moelora.claims import (
    Judgement,
    check_claims,
    check_counts,
    gains_over_lora,
    judge,
    judge_words,
    load_claims,
    load_documents,
)
from moelora.config import ConfigDir
from moelora.files import atomic_write_text
from moelora.reporting import claims as tables
from moelora.reporting import render
from moelora.reporting.claims_part import PART, claims_part, write_part
from moelora.reporting.collect import read_records
from moelora.reporting.command import read_costs
from moelora.reporting.page import read_script
from moelora.reporting.runs import Suite
from moelora.reporting.table import Table


def run(args: argparse.Namespace) -> None:
    """Carry out `moelora claims --out DIR [--records FILE...] [--costs FILE...] [--config-dir DIR]`."""
    suites = [Suite.from_frame(read_records(path)) for path in sorted(map(Path, args.records))]
    costs = [read_costs(path) for path in sorted(map(Path, args.costs))]
    write_claims(suites, costs, ConfigDir(Path(args.config_dir)), Path(args.out))


def write_claims(
    suites: Sequence[Suite], costs: Sequence[Mapping[str, Any]], config: ConfigDir, out: Path
) -> list[Judgement]:
    """Write `claims.html`, its tables and what the report shows of them under `out`; return the judgements.

    Args:
        suites: What was collected; may be none.
        costs: Cost measurements; may be none.
        config: Configuration folder with `claims/`.
        out: The folder.

    Raises:
        ConfigError: A claim file does not follow its schema or names what is not there.
        OutputError: The folder can't be written.
    """
    documents = load_documents(config)
    claims = load_claims(documents)
    counts = check_counts(claims)
    remarks = check_claims(claims, documents)
    judgements = judge(claims, tables.measured_from(suites, claims), counts, config)
    verdicts = judge_words(claims, documents, tables.resources_from(suites, costs))
    shown = [
        tables.words_table(verdicts),
        tables.checks_table(remarks, claims),
        tables.measured_table(judgements),
        tables.counts_table(counts),
        tables.notes_table(documents),
    ]
    for table in shown:
        atomic_write_text(out / "tables" / f"{table.name}.md", render.markdown([table]))
        atomic_write_text(out / "tables" / f"{table.name}.tex", render.latex(tables.pages(table)))
        if table.name != "claims":
            atomic_write_text(out / "tables" / f"{table.name}.csv", render.csv_of([table]))
    atomic_write_text(out / "tables" / "claims.csv", tables.claims_csv(judgements, remarks))
    said = tables.findings(judgements, remarks, gains_over_lora(claims), counts)
    write_part(out / PART, claims_part(judgements))
    atomic_write_text(out / "claims.html", claims_page(said, shown, _by_document(judgements)))
    return judgements


def claims_page(said: Sequence[str], shown: Sequence[Table], documents: Sequence[tuple[str, str, Table]]) -> str:
    """Return the page as HTML; the same content gives the same bytes.

    Args:
        said: Sentences at its top.
        shown: Tables in order.
        documents: For each document its title, the command that would run its claims, and all of them.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("claims.html.j2")
    return template.render(said=said, shown=shown, documents=documents, script=Markup(read_script()))


def _by_document(judgements: Sequence[Judgement]) -> list[tuple[str, str, Table]]:
    groups: dict[str, list[Judgement]] = {}
    for j in judgements:
        groups.setdefault(j.claim.document, []).append(j)
    found = []
    for title, mine in groups.items():
        commands = sorted({j.command for j in mine if j.command})
        found.append((title, "; ".join(commands), tables.document_table(mine, title)))
    return [entry for entry in found if entry[2].rows]
