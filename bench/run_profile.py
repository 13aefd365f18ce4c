"""Where one run's time goes: ``python -m bench.run_profile PLAN``.

A copy of the plan is trained for a few steps and scored in this process, as ``moelora train --evaluate`` does it, with
a clock around the named parts. Time inside a part that is inside another counts for the inner one only. Start-up is all
that comes before the first optimiser step.
"""

import argparse
import functools
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.plans import copy_plan, plan_parser
from moelora.startup import leave_out_bitsandbytes

LIBRARIES = ("torch", "transformers", "peft", "datasets", "accelerate", "pandas")

# (module, attribute, part): what `moelora train` calls by these names.
PARTS = (
    ("moelora.training.run", "load_tasks", "load the data"),
    ("moelora.training.run", "make_accelerator", "set up accelerate"),
    ("moelora.training.attach", "load_base_model", "load the base model"),
    ("moelora.training.attach", "attach_method", "attach the method"),
    ("moelora.training.encode", "encode_training", "tokenise"),
    ("moelora.training.order", "all_steps", "order the batches"),
    ("moelora.training.loop", "make_optimizer", "set up the optimiser"),
    ("moelora.training.loop", "collate", "collate a batch"),
    ("moelora.training.loop", "summed_loss", "forward"),
    ("accelerate.Accelerator", "backward", "backward"),
    ("accelerate.Accelerator", "clip_grad_norm_", "clip the gradient"),
    ("torch.optim.AdamW", "step", "optimiser's step"),
    ("moelora.training.loop", "save_state", "save the state"),
    ("moelora.training.attach", "save_adapter", "save the adapter"),
    ("moelora.training.run", "evaluate_run", "score and write the record"),
)
MODEL = ("forward", "backward", "optimiser's step", "clip the gradient")
REST = "everything else"


@dataclass
class Clock:
    """Exclusive processor time and wall time by part."""

    parts: dict[str, list[float]] = field(default_factory=dict)  # part → [CPU seconds, wall seconds, calls]
    open: list[str] = field(default_factory=list)
    last: tuple[float, float] = (0.0, 0.0)
    began_training: "dict[str, list[float]] | None" = None

    def charge(self) -> None:
        """Give the time since the last look to the innermost open part."""
        now = (time.process_time(), time.perf_counter())
        part = self.parts.setdefault(self.open[-1] if self.open else REST, [0.0, 0.0, 0])
        part[0] += now[0] - self.last[0]
        part[1] += now[1] - self.last[1]
        self.last = now

    def start(self, part: str) -> None:
        """Open a part."""
        self.charge()
        self.open.append(part)
        self.parts.setdefault(part, [0.0, 0.0, 0])[2] += 1
        if part == "collate a batch" and self.began_training is None:
            self.began_training = {name: list(values) for name, values in self.parts.items()}

    def stop(self) -> None:
        """Close the innermost part."""
        self.charge()
        self.open.pop()

    def around(self, function: Callable, part: str) -> Callable:
        """Return a function that is timed as a part."""

        @functools.wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            self.start(part)
            try:
                return function(*arguments, **keywords)
            finally:
                self.stop()

        return timed


def import_libraries(clock: Clock) -> None:
    """Import what a run needs, one library after the other; each is charged with what it pulls in first."""
    for name in LIBRARIES:
        clock.start(f"import {name}")
        importlib.import_module(name)
        clock.stop()
    clock.start("import the rest")
    for name in sorted({module for module, _, _ in PARTS if module.startswith("moelora")}):
        importlib.import_module(name)
    clock.stop()


def put_clocks(clock: Clock) -> None:
    """Put the clock around every part."""
    for owner, name, part in PARTS:
        module, _, attribute = owner.rpartition(".")
        holder = (
            importlib.import_module(owner)
            if owner.startswith("moelora")
            else getattr(importlib.import_module(module), attribute)
        )
        setattr(holder, name, clock.around(getattr(holder, name), part))


def profile(arguments: argparse.Namespace) -> Clock:
    """Carry out a copy of the plan and return the clock."""
    clock = Clock(last=(0.0, time.perf_counter()))
    clock.start("start Python")
    clock.stop()
    leave_out_bitsandbytes([arguments.plan])
    import_libraries(clock)
    put_clocks(clock)
    from moelora.training.identity import open_run
    from moelora.training.run import carry_out

    with tempfile.TemporaryDirectory() as folder:
        path = copy_plan(arguments.plan, Path(folder), arguments.steps, arguments.limit)
        run = open_run(path, "profile", arguments.data, arguments.base)
        record = carry_out(run, evaluate=True)
    clock.charge()
    if record is None or record["status"] != "finished":
        raise SystemExit(f"the run ended {record and record['status']}: {record and record['reason']}")
    return clock


def table(clock: Clock, steps: int) -> str:
    """Return start-up and training as Markdown tables, the dearest parts first."""
    before = clock.began_training or {}
    after = {
        name: [value - old for value, old in zip(values, before.get(name, [0.0, 0.0, 0]), strict=True)]
        for name, values in clock.parts.items()
    }
    inside = sum(after[name][0] for name in MODEL if name in after)
    scoring = ("score and write the record", "save the adapter")
    loop = sum(values[0] for name, values in after.items() if name not in scoring)
    lines = [f"**Before the first step: {sum(v[0] for v in before.values()):.1f} s of CPU time.**", ""]
    lines += _rows(before)
    lines += ["", f"**{steps} steps, then scoring.** Of the steps' time {inside / loop:.1%} is the model's own", ""]
    lines += _rows(after)
    return "\n".join(lines)


def _rows(parts: dict[str, list[float]]) -> list[str]:
    rows = ["| part | CPU s | wall s | calls |", "|---|---|---|---|"]
    for name, (cpu, wall, calls) in sorted(parts.items(), key=lambda item: -item[1][0]):
        if cpu >= 0.005 or wall >= 0.005:
            rows.append(f"| {name} | {cpu:.2f} | {wall:.2f} | {calls:.0f} |")
    return rows


def main(words: "list[str] | None" = None) -> int:
    """Profile a plan and print the tables."""
    parser = plan_parser("bench.run_profile", __doc__, 50)
    parser.add_argument("--limit", type=int, default=200, help="items to score")
    arguments = parser.parse_args(words)
    from moelora.errors import MoeloraError

    try:
        clock = profile(arguments)
    except MoeloraError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(clock, arguments.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
