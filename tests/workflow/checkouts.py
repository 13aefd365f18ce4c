"""A throw-away copy of the repository, and Snakemake in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PARTS = (
    "Snakefile",
    "moelora",
    "workflow",
    "profiles",
    "docs",
    "tests/battery",
    "results/published/bench",
    "pyproject.toml",
)


class Checkout:
    """A throw-away copy of the repository, and Snakemake in it."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True)
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, path / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, path / part)
        shutil.copy(REPOSITORY / "tests" / "grid.yaml", path / "grid.yaml")

    @property
    def environment(self) -> dict[str, str]:
        """The commands of this Python's environment, and the copy's own package."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        return environment | {"PATH": path, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1"}

    def run(self, command: "list[str] | str", check: bool = True) -> str:
        """Run a command in the checkout; return what it printed, stdout and stderr together."""
        process = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            shell=isinstance(command, str),
            executable="/bin/bash" if isinstance(command, str) else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or process.returncode == 0, f"{command}\n{process.stdout}"
        return process.stdout

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake on two cores."""
        return self.run([sys.executable, "-m", "snakemake", "--cores", "2", *arguments], check)

    def start(self, output: Path, *arguments: str) -> subprocess.Popen:
        """Start Snakemake on two cores in a session of its own; what it prints goes to a file."""
        with open(output, "w", encoding="utf-8") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
                cwd=self.path,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def dry_run(self, *arguments: str) -> dict[str, int]:
        """Return how many jobs of each rule are to be done."""
        return job_counts(self.snakemake("-n", "--quiet", "rules", *arguments))


def job_counts(output: str) -> dict[str, int]:
    """Return the first table of jobs that Snakemake printed."""
    _, found, table = output.partition("Job stats:\n")
    if not found:
        assert "Nothing to be done" in output, output
        return {}
    counts = dict(re.findall(r"^(\w+) +(\d+)$", table.split("\n\n")[0], flags=re.MULTILINE))
    counts.pop("total", None)
    return {rule: int(count) for rule, count in counts.items()}
