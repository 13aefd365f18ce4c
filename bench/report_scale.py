"""How long the report of many records takes: ``python -m bench.report_scale --records 2000 --items 1000``.

Records are made up by the tests' generator: nine variants, five tasks, as many seeds as are asked for. The clock runs
for `collect` and for statistics, tables, figures and page, as `moelora collect` and `moelora report` do them.
"""

import argparse
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


def make_records(root: Path, records: int, items: int) -> tuple[list[Path], Path, Path]:
    """Write about so many records; return manifests, costs and the suite's file."""
    import synthetic_records as synthetic

    from moelora.files import atomic_write_json

    seeds = max(1, round(records / (len(VARIANTS) * len(TASKS) * len(REGIMES))))
    entries = [
        synthetic.make_run(
            root, "many", "minilm", task, [task], variant, regime, seed, 0.7 + 0.01 * index + 0.002 * (seed % 5),
            n_items=items, layers=6, synthetic=False, regimes=len(REGIMES),
        )
        for task in TASKS
        for index, variant in enumerate(VARIANTS)
        for regime in REGIMES
        for seed in range(seeds)
    ]  # fmt: skip
    suite = root / "many" / "suite.json"
    document = {"name": "many", "title": "Many records", "variants": list(VARIANTS)}
    document |= {"regimes": {name: {} for name in REGIMES}, "grid": [{"models": ["minilm"], "tasks": list(TASKS)}]}
    atomic_write_json(suite, document)
    costs = synthetic.make_costs(root, "many", "minilm", [v for v in VARIANTS if v != "majority"])
    return synthetic.finish(root, "many", entries), costs, suite


def main(words: "list[str] | None" = None) -> int:
    """Make records, time both verbs, print seconds of CPU and of the clock."""
    parser = argparse.ArgumentParser(prog="python -m bench.report_scale", description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    arguments = parser.parse_args(words)
    from moelora.cli import main as moelora

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifests, costs, suite = make_records(root, arguments.records, arguments.items)
        found = sum(1 for _ in (root / "many").rglob("record.json"))
        print(f"{found} records of {arguments.items} items")
        table = str(root / "records.parquet")
        report = ["report", "--records", table, "--costs", str(costs), "--suite", str(suite), "--title", "Many records"]
        for command in (
            ["collect", "--manifests", *map(str, manifests), "--out", table],
            [*report, "--out", str(root / "report")],
        ):
            cpu, wall = time.process_time(), time.perf_counter()
            if code := moelora(command):
                return code
            print(f"{command[0]}: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
