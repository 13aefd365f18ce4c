"""``moelora plan``: show what a suite asks for, and write its plans."""

import argparse
import json

from moelora.plans.expand import expand
from moelora.plans.hashing import plan_hash


def run(options: argparse.Namespace) -> int:
    """Print the runs of a suite, one line each; write plans where asked.

    Raises:
        ConfigError: the suite says something that cannot be meant.
        OutputError: a plan cannot be written.
    """
    expansion = expand(options.suite, options.config_dir)
    root = options.results / expansion.suite["name"]
    if options.json:
        for item in expansion.runs:
            print(json.dumps(item.plan, sort_keys=True))
    else:
        rows = [("model", "task", "variant", "regime", "seed", "waits for", "plan")]
        for item in expansion.runs:
            waits = ", ".join(sorted(item.plan["pending"])) or "-"
            rows.append(
                (
                    item.model,
                    item.task,
                    item.variant.name,
                    item.regime,
                    str(item.seed),
                    waits,
                    plan_hash(item.plan),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(f"{len(expansion.runs)} runs in {len(expansion.jobs)} jobs")
    if options.write:
        written = expansion.write(root)
        files = len(expansion.planned) + 1 + (expansion.search is not None)
        print(f"{len(written)} files written under {root}, {files - len(written)} unchanged")
    return 0
