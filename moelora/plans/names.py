"""Names that runs and jobs get from those in a suite: parts of paths, so they may be too long, or two the same."""

from collections.abc import Iterable
from typing import Any

from moelora.errors import ConfigError, show

LONGEST = 200
"""Characters of one part of a path; file systems take 255, and temporary files have longer names than their targets."""


def check_names(jobs: Iterable[Any], source: str) -> None:
    """Refuse jobs whose name would be no name of a file, or stands for two things.

    Args:
        jobs: of the suite's expansion.
        source: what messages call the suite.

    Raises:
        ConfigError: as said.
    """
    for job in jobs:
        labels = {(run.model, run.label) for run in job.runs}
        if len(labels) > 1:
            pairs = " and ".join(f"variant '{label}' on '{model}'" for model, label in sorted(labels))
            raise ConfigError(f"{source}: {pairs} would both be the job '{job.name}'; rename one, without '--'")
        for part in (job.name, *(part for run in job.runs for part in run.folder.split("/"))):
            if len(part) > LONGEST:
                raise ConfigError(
                    f"{source}: the name {show(part)} has {len(part)} characters, expected {LONGEST} at most, since "
                    "it becomes a file's; shorten the names of model, task, variant, level or regime that it is made of"
                )
