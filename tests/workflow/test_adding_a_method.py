"""docs/adding-a-method.md, followed word for word."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small import shrink

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


def blocks(text: str) -> list[tuple[str, str, str]]:
    """Return (language, file or nothing, content) of every code block."""
    return [
        (language, file.strip(), content)
        for language, file, content in re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.slow
def test_document_leads_to_a_row_in_the_table(checkout):
    shrink(checkout, ["majority", "lora"])
    central = {path: path.read_bytes() for path in checkout.path.rglob("*") if path.is_file()}
    printed = []
    for language, file, content in blocks(DOCUMENT.read_text(encoding="utf-8")):
        if language == "bash":
            commands = content.replace("--cores all", "--cores 2")
            printed.append(checkout.run(f"set -euo pipefail\n{commands}"))
        else:
            path = checkout.path / file
            assert path.is_file(), f"{file} was not created by the command"
            path.write_text(content, encoding="utf-8")
    assert "lora_fa" in printed[1]  # moelora plan
    # The row carries the mark of a method that is not proven: the battery ran later and entered nothing.
    assert re.search(r"^\| LoRA.FA‡ \|.*\|$", printed[-2], re.MULTILINE | re.IGNORECASE)
    assert re.search(r"\b\d\d passed, \d+ skipped, \d+ deselected", printed[-1])
    # Nothing central was edited.
    changed = {path for path, content in central.items() if path.read_bytes() != content}
    assert not {path for path in changed if path.suffix in (".py", ".smk", ".yaml", ".md") or path.name == "Snakefile"}
    # And there is nothing left to do.
    assert checkout.dry_run() == {}


def test_document_names_only_files_that_its_command_creates(checkout):
    files = [file for language, file, _ in blocks(DOCUMENT.read_text(encoding="utf-8")) if language != "bash"]
    created = checkout.run(["moelora", "new-method", "lora_fa"])
    assert [f"created {file}" for file in files] == created.splitlines()[:-1]


def test_created_files_work_as_they_are(checkout):
    checkout.run(["moelora", "new-method", "mine", "--rule"])
    output = checkout.run(["moelora", "plan", "workflow/config/suites/tiny.yaml"])
    assert re.search(r"^tiny-encoder +\S+ +mine ", output, re.MULTILINE)
    assert "allocate_mine" in checkout.snakemake("--list-rules")
    for file in ("moelora/methods/mine.py", "workflow/config/methods/mine.yaml", "workflow/rules/methods/mine.smk"):
        text = (checkout.path / file).read_text()
        assert "mine" in text and "METHOD_NAME" not in text


def test_refusals(checkout):
    def refusal(*arguments: str) -> str:
        return checkout.run(["moelora", "new-method", *arguments], check=False)

    assert "'Mine' cannot be a method's name" in refusal("Mine")
    assert "'import' cannot be a method's name" in refusal("import")
    assert "there is a method 'lora' already" in refusal("lora")
    assert "is no checkout of moelora" in refusal("mine", "--root", str(checkout.path / "docs"))
    checkout.run(["moelora", "new-method", "mine"])
    assert "there is a method 'mine' already" in refusal("mine")
