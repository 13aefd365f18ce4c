"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moelora.reporting.cells import Panel
from moelora.reporting.escape import CsvWriter, markdown_text
from moelora.reporting.table import Entry, Row, Table

SYNTHETIC = "Synthetic tasks, made by a generator to show mechanism; they do not rank methods."


def markdown(tables: Iterable[Table]) -> str:
    """Return tables as GitHub Markdown, one after the other."""
    return "\n".join(_markdown(t) for t in tables)


def latex(tables: Iterable[Table]) -> str:
    """Return tables as LaTeX that needs `booktabs` and `graphicx` and compiles as it is."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(_latex(t) for t in tables)


def csv_of(tables: Iterable[Table]) -> str:
    """Return plain tables as CSV; what stands beneath a number gets a column of its own."""
    writer = CsvWriter()
    header: list[str] = []
    for table in tables:
        detailed = [any(r.entries[i].detail for r in table.rows) for i in range(len(table.columns))]
        names = []
        for (label, below), more in zip(table.columns, detailed, strict=True):
            names += [f"{label} ({below})" if below else label] + ([f"{label}, interval"] if more else [])
        if names != header:
            writer.writerow(names)
            header = names
        for row in table.rows:
            line = []
            for entry, more in zip(row.entries, detailed, strict=True):
                line += [entry.text, entry.detail] if more else [entry.text]
            writer.writerow(line)
    return writer.getvalue()


def headline_csv(found: Iterable[Panel]) -> str:
    """Return the headline tables in long form with full digits: one row a model × variant × task × regime."""
    writer = CsvWriter()
    writer.writerow(
        (
            "model,trained_on,regime,task,metric,synthetic,variant,method,trainable,active,mean,low,high,seeds,"
            "n_items,chance,chance_low,chance_high,within_chance,best,borrowed,lost,reason"
        ).split(",")
    )
    for panel in found:
        for variant in panel.variants:
            counts = [panel.parameters(variant, w) for w in ("trainable", "active")]
            shown = ["" if c is None else str(c[0]) if c[0] == c[1] else f"{c[0]}-{c[1]}" for c in counts]
            for index, column in enumerate(panel.columns):
                cell = panel.cells[variant, index]
                e = cell.estimate
                numbers = [f"{e.mean:.6f}", f"{e.low:.6f}", f"{e.high:.6f}", e.n_seeds] if e else ["", "", "", 0]
                known = (column.chance, *(column.bounds or (None, None)))
                chance = ["" if value is None else f"{value:.6f}" for value in known]
                reasons = sorted({f"{r.status}: {r.reason or ''}".strip() for r in cell.lost})
                writer.writerow(
                    [
                        *(panel.model, panel.mixture or "", column.regime, column.task, column.metric),
                        *(int(column.synthetic), variant, panel.suite.method(variant), *shown, *numbers),
                        *(column.n_items or "", *chance, int(cell.within_chance), int(cell.best), int(cell.borrowed)),
                        *(len(cell.lost), "; ".join(reasons)),
                    ]
                )
    return writer.getvalue()


def _markdown(table: Table) -> str:
    lines = [f"### {markdown_text(table.title)}", ""]
    if table.synthetic:
        lines += [f"*{SYNTHETIC}*", ""]
    if not table.rows:
        return "\n".join([*lines, "None.", ""])
    groups = [label for label, width in table.groups for _ in range(width)]
    several = len([g for g, _ in table.groups if g]) > 1
    header = []
    for (label, below), group in zip(table.columns, groups, strict=True):
        header.append("<br>".join(markdown_text(x) for x in (group if several else "", label, below) if x))
    numeric = [any("number" in r.entries[i].marks for r in table.rows) for i in range(len(table.columns))]
    lines.append("| " + " | ".join(header) + " |")
    lines.append("|" + "|".join("---:" if n else "---" for n in numeric) + "|")
    for row in table.rows:
        cells = [_markdown_entry(e) for e in row.entries]
        cells[0] = f"↳ {cells[0]}" if row.kind == "matched" else cells[0]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *([markdown_text(table.note), ""] if table.note else [])])


def _markdown_entry(entry: Entry) -> str:
    text = markdown_text(entry.text)
    if entry.marks & {"best", "clear"}:
        text = f"**{text}**"
    if "single" in entry.marks:
        text = f"*{text}*†"
    if "chance" in entry.marks:
        text += "°"
    if "lost" in entry.marks:
        text = f"*{text}*"
    return f"{text} {markdown_text(entry.detail)}".rstrip()


def _latex(table: Table) -> str:
    numeric = [any("number" in r.entries[i].marks for r in table.rows) for i in range(len(table.columns))]
    note = " ".join(x for x in (SYNTHETIC if table.synthetic else "", table.note) if x)
    lines = [
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{_tex(table.title)}. {_tex(note)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        "\\toprule",
    ]
    if len([g for g, _ in table.groups if g]) > 1:
        lines.append(_tex_groups(table.groups))
    lines.append(" & ".join(_tex(label) for label, _ in table.columns) + r" \\")
    if any(below for _, below in table.columns):
        lines.append(" & ".join(f"{{\\scriptsize {_tex(below)}}}" for _, below in table.columns) + r" \\")
    lines.append("\\midrule")
    lines += [_tex_row(row) for row in table.rows]
    lines += ["\\bottomrule", "\\end{tabular}}", "\\end{table}", ""]
    return "\n".join(lines)


def _tex_groups(groups: Sequence[tuple[str, int]]) -> str:
    heads, rules, start = [], [], 1
    for label, width in groups:
        heads.append(f"\\multicolumn{{{width}}}{{c}}{{{_tex(label)}}}")
        if label:
            rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return " & ".join(heads) + " \\\\\n" + "".join(rules)


def _tex_row(row: Row) -> str:
    cells = []
    for entry in row.entries:
        text = _tex(entry.text)
        if entry.marks & {"best", "clear"}:
            text = f"\\textbf{{{text}}}"
        if "single" in entry.marks:
            text = f"\\textit{{{text}}}$^{{\\dagger}}$"
        if "chance" in entry.marks:
            text += "$^{\\circ}$"
        if "lost" in entry.marks:
            text = f"\\textit{{{text}}}"
        cells.append(f"{text} {{\\scriptsize {_tex(entry.detail)}}}" if entry.detail else text)
    if row.kind == "matched":
        cells[0] = f"\\quad {cells[0]}"
    return " & ".join(cells) + r" \\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "×": r"$\times$", "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "°": r"$^{\circ}$", "–": "--", "“": "``", "”": "''", "↳": r"$\hookrightarrow$", "→": r"$\to$", "<": r"$<$",
    ">": r"$>$", "…": r"\dots{}", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "√": r"$\surd$",
}  # fmt: skip


def _tex(text: str) -> str:
    # A blank line would end the cell's paragraph. Two hyphens are a dash in TeX, and an option in a command line.
    text = " ".join(text.split("\n"))
    return "-{}-".join("".join(_TEX.get(character, character) for character in part) for part in text.split("--"))
