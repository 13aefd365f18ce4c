"""Commands and files that the documents name exist."""

import re
import shlex
from pathlib import Path

import pytest

from moelora import cli

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])


def commands(text: str) -> list[list[str]]:
    """Return the words of every command line in a bash block."""
    found = []
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_a_document_are_understood(path):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for words in commands(path.read_text(encoding="utf-8")):
        while "=" in words[0] and not words[0].startswith("-"):  # NAME=value before a command
            words = words[1:]
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert set(named) <= targets, words
        elif words[0] == "moelora" and not {"<", "…"} & set("".join(words)):
            if "--help" not in words and len(words) > 1:
                cli.build_parser().parse_args(words[1:])
        elif words[0] == "snakemake" and "--configfile" in words:
            suite = words[words.index("--configfile") + 1]
            assert (REPOSITORY / suite).is_file(), words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_links_exist(path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target
