"""snakefmt and `snakemake --lint`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# Explained at the top of the Snakefile.
EXCEPTIONS = {
    "Specify a conda environment or container for each rule.",
    "Shell command directly uses variable LAUNCH from outside of the rule",
}


def test_rules_are_formatted():
    pytest.importorskip("snakefmt", reason="formatting is checked with snakefmt: pip install moelora[development]")
    process = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_lint_finds_only_what_is_explained(checkout):
    output = checkout.snakemake("--lint", "--configfile", "workflow/config/suites/glue-minilm.yaml", check=False)
    found = set(re.findall(r"^    \* (.*?):?$", output, flags=re.MULTILINE))
    assert found == EXCEPTIONS
    explained = (REPOSITORY / "Snakefile").read_text()
    assert "conda environment or container" in explained and "LAUNCH" in explained
