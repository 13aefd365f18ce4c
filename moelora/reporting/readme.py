"""The headline table and figure of the README, taken from a published report."""

import os
from pathlib import Path

from moelora.errors import RecordError
from moelora.files import write_if_different

START, END = "<!-- headline -->", "<!-- /headline -->"


def headline(published: Path, readme_folder: Path) -> str:
    """Return what stands between the README's marks: the table's Markdown and a link to the figure.

    Raises:
        RecordError: the report was not published.
    """
    table = published / "tables" / "headline.md"
    if not table.is_file():
        raise RecordError(f"{table} does not exist; run 'moelora publish --report' first")
    lines = [table.read_text(encoding="utf-8").strip()]
    figure = published / "figures" / "headline.svg"
    if figure.is_file():
        lines.append(f"![Score against trainable parameters]({os.path.relpath(figure, readme_folder)})")
    return "\n\n".join(lines)


def update_readme(readme: Path, published: Path) -> bool:
    """Put the headline between the README's marks; return whether anything changed.

    Raises:
        RecordError: the README has no marks, or the report was not published.
    """
    text = readme.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise RecordError(f"{readme} has no '{START}' and '{END}' marks around its headline; add them")
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    return write_if_different(readme, f"{before}{START}\n{headline(published, readme.parent)}\n{END}{after}")
