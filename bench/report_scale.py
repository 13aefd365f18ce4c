"""How long the report of many records takes: ``python -m bench.report_scale --records 2000 --items 1000``.

Records are made up by the tests' generator: nine variants in two regimes, five tasks, and as many seeds as that takes;
with ``--seeds`` so many seeds, and as many tasks as that takes. The clock runs for `collect` and for statistics,
tables, figures and page, as `moelora collect` and `moelora report` do them. ``--only collect`` leaves the report out.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reporting"))

VARIANTS = (
    "majority", "base", "lora", "dora", "dense-moe-lora", "lora-match-dense-moe-lora", "mixlora", "lora-match-mixlora",
    "lora-smoe",
)  # fmt: skip
TASKS = ("mrpc", "rte", "cola", "stsb", "sst2")
REGIMES = ("published", "tuned")


def make_records(root: Path, records: int, items: int, seeds: "int | None" = None) -> tuple[list[Path], Path, Path]:
    """Write about so many records; return manifests, costs and the suite's file."""
    import synthetic_records as synthetic

    from moelora.files import atomic_write_json

    tasks, cells = list(TASKS), len(VARIANTS) * len(REGIMES)
    if seeds is None:
        seeds = max(1, round(records / (cells * len(tasks))))
    else:
        tasks = [f"{TASKS[i % 5]}-{i // 5}" for i in range(max(1, round(records / (cells * seeds))))]
    entries = [
        synthetic.make_run(
            root, "many", "minilm", task, [task], variant, regime, seed, 0.7 + 0.01 * index + 0.002 * (seed % 5),
            n_items=items, layers=6, synthetic=False, regimes=len(REGIMES),
        )
        for task in tasks
        for index, variant in enumerate(VARIANTS)
        for regime in REGIMES
        for seed in range(seeds)
    ]  # fmt: skip
    suite = root / "many" / "suite.json"
    document = {"name": "many", "title": "Many records", "variants": list(VARIANTS)}
    document |= {"regimes": {name: {} for name in REGIMES}, "grid": [{"models": ["minilm"], "tasks": tasks}]}
    atomic_write_json(suite, document)
    costs = synthetic.make_costs(root, "many", "minilm", [v for v in VARIANTS if v != "majority"])
    return synthetic.finish(root, "many", entries), costs, suite


def main(words: "list[str] | None" = None) -> int:
    """Make records, time both verbs, print seconds of CPU and of the clock."""
    parser = argparse.ArgumentParser(prog="python -m bench.report_scale", description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seeds", type=int, help="of each cell; more tasks make up the number")
    parser.add_argument("--only", choices=["collect"], help="stop after this")
    arguments = parser.parse_args(words)
    from moelora.cli import main as moelora

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifests, costs, suite = make_records(root, arguments.records, arguments.items, arguments.seeds)
        found = sum(1 for _ in (root / "many").rglob("record.json"))
        print(f"{found} records of {arguments.items} items")
        table = str(root / "records.parquet")
        report = ["report", "--records", table, "--costs", str(costs), "--suite", str(suite), "--title", "Many records"]
        commands = [["collect", "--manifests", *map(str, manifests), "--out", table]]
        if arguments.only is None:
            commands.append([*report, "--out", str(root / "report")])
        for command in commands:
            cpu, wall = time.process_time(), time.perf_counter()
            if code := moelora(command):
                return code
            print(
                f"{command[0]}: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s, "
                f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at the most so far",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
