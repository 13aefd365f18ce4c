"""What saving the training state costs: ``python -m bench.state_saving PLAN``.

A copy of the plan is trained twice without scoring: with the state due after every step, which is the worst that a plan
can ask for, and as often as the plan asks. Printed is the time inside `save_state` as a share of the time of training,
and how many states were due, saved and put off. Wall time on purpose: most of a save is waiting for the disk.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.plans import copy_plan, plan_parser


@dataclass
class Saves:
    """What one training saved, in what time, and how long it took without that."""

    every: int
    due: int
    seconds: "list[float]"
    training: float
    bytes: int

    @property
    def share(self) -> float:
        """Return the time of saving as a part of the time of training."""
        return sum(self.seconds) / self.training


def measure(plan: Path, data: "Path | None", base: "Path | None", steps: int, every: "int | None") -> Saves:
    """Train a copy of a plan and return what saving took.

    Args:
        plan: the plan.
        data: built-in data.
        base: a base model that the suite built.
        steps: how many steps are trained.
        every: after how many steps a state is due; as the plan says where it is none.
    """
    import moelora.training.loop as loop
    from moelora.files import atomic_write_json, read_json
    from moelora.training.identity import open_run
    from moelora.training.run import train_run

    seconds, sizes, real = [], [0], loop.save_state

    def timed(path: Path, *rest: object) -> None:
        began = time.perf_counter()
        real(path, *rest)
        seconds.append(time.perf_counter() - began)
        sizes.append(path.stat().st_size)

    with tempfile.TemporaryDirectory(dir=plan.parent) as folder:  # on the disk that the run itself would use
        copy = copy_plan(plan, Path(folder), steps, 1)
        document = read_json(copy, "plan")
        every = every or document["training"].get("checkpoint_every_steps") or steps
        document["training"]["checkpoint_every_steps"] = every
        atomic_write_json(copy, document)
        loop.save_state = timed
        try:
            _, trained = train_run(open_run(copy, "bench", data, base))
        finally:
            loop.save_state = real
    return Saves(every, (steps - 1) // every, seconds, trained["training"]["seconds"], max(sizes))


def table(found: list[Saves]) -> str:
    """Return the measurements as a Markdown table."""
    rows = [
        "| state due every | due | saved | MB | s a save | s of training | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for saves in found:
        count = len(saves.seconds)
        rows.append(
            f"| {saves.every} steps | {saves.due} | {count} | {saves.bytes / 1e6:.2f} | "
            f"{sum(saves.seconds) / max(1, count):.4f} | {saves.training:.2f} | {saves.share:.2%} |"
        )
    return "\n".join(rows)


def main(words: "list[str] | None" = None) -> int:
    """Measure a plan and print the table."""
    parser = plan_parser("bench.state_saving", __doc__, 200)
    options = parser.parse_args(words)
    from moelora.errors import MoeloraError

    try:
        found = [measure(options.plan, options.data, options.base, options.steps, every) for every in (1, None)]
    except MoeloraError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
