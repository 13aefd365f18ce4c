"""What the start of a run costs where a job carries several: ``python -m bench.start_up PLAN --seeds 5``.

A copy of the plan is made for each seed: one optimiser step, a few scored items, nothing watched. ``moelora train
--evaluate`` carries them out in a process of its own, once the first alone and once all together; nearly all that it
does is start-up. Processor seconds a run, and their ratio.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.pipeline_scale import timed
from bench.plans import copy_plan


def copy_seeds(plan: Path, seeds: int, folder: Path) -> list[Path]:
    """Write a short copy of the plan for each seed; return their paths.

    Raises:
        ConfigError: the plan waits for an allocation or for another run.
    """
    from moelora.files import atomic_write_json, read_json

    paths = []
    for seed in range(seeds):
        path = copy_plan(plan, folder / f"copy{seed}", steps=1, limit=16)
        document = read_json(path, "plan") | {"seed": seed}
        for watched in ("diagnostics", "forgetting"):
            document.pop(watched, None)
        atomic_write_json(path, document)
        paths.append(path)
    return paths


def cpu_seconds(plans: Sequence[Path], sources: Sequence[str], folder: Path) -> float:
    """Return the processor seconds of one job that carries out these plans."""
    command = [sys.executable, "-m", "moelora", "train", "--evaluate", "--plans", *map(str, plans), *sources]
    return timed(command, folder)[0]


def main(words: "list[str] | None" = None) -> int:
    """Time a job of one run and a job of several; print seconds a run."""
    parser = argparse.ArgumentParser(prog="python -m bench.start_up", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data", type=Path, help="built-in data, as `moelora train` takes it")
    parser.add_argument("--base", type=Path, help="base model that the suite built, as `moelora train` takes it")
    parser.add_argument("--seeds", type=int, default=5, help="runs of the second job")
    arguments = parser.parse_args(words)
    from moelora.errors import MoeloraError

    given = {"--data": arguments.data, "--base": arguments.base}
    sources = [word for key, path in given.items() if path for word in (key, os.path.abspath(path))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            plans = copy_seeds(arguments.plan, arguments.seeds, folder)
        except MoeloraError as error:
            raise SystemExit(f"error: {error}") from error
        alone = cpu_seconds(copy_seeds(arguments.plan, 1, folder / "alone"), sources, folder)
        together = cpu_seconds(plans, sources, folder) / arguments.seeds
    print(f"a job of 1 run: {alone:.1f} s of CPU")
    print(f"a job of {arguments.seeds} runs: {together:.1f} s of CPU a run, {together / alone:.2f} of that")
    return 0


if __name__ == "__main__":
    sys.exit(main())
