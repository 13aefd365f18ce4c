"""The plan of a run that a bench measures: what is said of it on the command line, and a copy of it to run."""

import argparse
from pathlib import Path


def plan_parser(program: str, description: "str | None", steps: int) -> argparse.ArgumentParser:
    """Return a parser for a plan, the folders that the suite built, and how many steps to measure."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data", type=Path, help="built-in data, as `moelora train` takes it")
    parser.add_argument("--base", type=Path, help="base model that the suite built, as `moelora train` takes it")
    parser.add_argument("--steps", type=int, default=steps)
    return parser


def copy_plan(path: Path, folder: Path, steps: int, limit: int) -> Path:
    """Write the plan with fewer steps and items as a run of its own; return its path.

    Raises:
        ConfigError: The plan waits for an allocation or for another run.
    """
    from moelora.errors import ConfigError
    from moelora.files import atomic_write_json, read_json

    plan = read_json(path, "plan")
    resolved = path.with_name("resolved.json")
    if plan.get("pending") and resolved.is_file():
        plan = read_json(resolved, "plan")
        plan.pop("pending", None)
    if plan.get("pending"):
        raise ConfigError(f"{path} waits for {', '.join(plan['pending'])}; profile it after its run, or another plan")
    plan["training"].pop("epochs", None)
    plan["training"]["max_steps"] = steps
    plan["evaluation"]["limit"] = limit
    target = folder / "suite" / "model" / "task" / "variant" / "seed0" / "plan.json"
    atomic_write_json(target, plan)
    return target
