"""Scoring beside lm-eval called by hand: ``python -m bench.evaluation_throughput MODEL``.

One process loads the model and the tasks once and scores them in turns: through `score_model`, as a run does it, and
with lm-eval's own `evaluate` on a fresh `HFLM` around the same weights. Batch size and limit are the same, and whoever
begins changes from round to round. The result is the ratio of items per second, round by round, so that a busy machine
slows both. What it says of is scoring alone: start-up, downloads and the reading of tasks are outside the clock.

On a CPU the clock is the process's own time, on a GPU wall time after it has caught up.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moelora.config import find_config_dir
from moelora.errors import MoeloraError
from moelora.files import atomic_write_json
from moelora.tasks.protocols import LM_EVAL, put_under

OURS, THEIRS = "ours", "lm-eval by hand"
ENOUGH = 0.95  # of lm-eval's throughput


def take_turns(steps: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; who begins a round changes."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        order = list(steps) if number % 2 == 0 else list(reversed(steps))
        for name in order:
            started = clock()
            steps[name]()
            seconds[name].append(clock() - started)
    return seconds


def summarise(seconds: dict[str, list[float]], items: int) -> dict[str, Any]:
    """Return items per second of both, and ours by theirs: the median over rounds, and the lowest and highest."""
    ratios = [theirs / ours for ours, theirs in zip(seconds[OURS], seconds[THEIRS], strict=True)]
    return {
        "items": items,
        "items_per_second": {name: items / statistics.median(found) for name, found in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "enough": statistics.median(ratios) >= ENOUGH,
    }


def prepare(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], dict[str, dict], int, Any]:
    """Return both ways of scoring, what each scored last, the number of items, and the device.

    Raises:
        DataUnavailableError: a task's data cannot be had.
        ModelUnavailableError: the model cannot be had.
    """
    import lm_eval.evaluator
    from lm_eval.models.huggingface import HFLM

    from moelora.evaluation.score import score_model
    from moelora.models import fetch_model
    from moelora.tasks import load_task
    from moelora.tasks.choice import lm_eval_name, lm_eval_task
    from moelora.training.device import choose_device

    config, device = find_config_dir(), choose_device()
    source = {"hub": options.model, "revision": None}
    model, tokenizer = fetch_model({"name": options.model, "architecture": "decoder", "source": source}, 0, None)
    model.to(device).eval()
    tasks = [load_task(put_under(config.load("task", name), LM_EVAL)) for name in options.tasks]
    theirs = {lm_eval_name(task.document): lm_eval_task(task.document, None) for task in tasks}
    plan = {
        "model": {"name": options.model}, "task": "bench", "variant": "base", "regime": "bench", "seed": 0,
        "evaluation": {"batch_size": options.batch_size, "limit": options.limit},
        "training": {"max_length": options.max_length, "precision": "fp32"},
    }  # fmt: skip
    found: dict[str, dict] = {}

    def ours() -> None:
        scores, _ = score_model(model, tokenizer, tasks, plan, data_dir=None, device=device, reads_input=True)
        found[OURS] = {lm_eval_name(task.document): scores[task.name]["metrics"] for task in tasks}

    def by_hand() -> None:
        wrapped = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size, max_length=options.max_length
        )
        outcome = lm_eval.evaluator.evaluate(
            lm=wrapped, task_dict={"tasks": theirs, "groups": {}, "group_map": {}}, limit=options.limit,
            bootstrap_iters=0, verbosity="ERROR",
        )  # fmt: skip
        found[THEIRS] = {
            name: {key: result[f"{key},none"] for key in ("acc", "acc_norm") if f"{key},none" in result}
            for name, result in outcome["results"].items()
        }

    items = sum(len(task.evaluation[: options.limit]) for task in tasks)
    return {OURS: ours, THEIRS: by_hand}, found, items, device


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Take turns and return what was found.

    Raises:
        MoeloraError: both ways do not give the same numbers, so that a comparison of their speed says nothing.
    """
    import torch

    steps, found, items, device = prepare(options)
    on_gpu = torch.device(device).type == "cuda"

    def clock() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    take_turns(steps, options.warmup, clock)
    seconds = take_turns(steps, options.rounds, clock)
    if found[OURS] != found[THEIRS]:
        raise MoeloraError(f"scores differ, ours {found[OURS]}, lm-eval's {found[THEIRS]}; mend that before timing")
    return {
        "model": options.model, "tasks": options.tasks, "limit": options.limit, "batch_size": options.batch_size,
        "device": torch.device(device).type, "clock": "wall" if on_gpu else "process", "seconds": seconds,
        **summarise(seconds, items),
    }  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation_throughput", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="id on the hub, or a folder")
    parser.add_argument("--tasks", nargs="+", default=["arc_easy", "piqa"], help="commonsense tasks, by file name")
    parser.add_argument("--limit", type=int, default=100, help="items per task")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512, help="tokens")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=1, help="rounds before those that count")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    return parser


def main() -> None:
    """Print the result as JSON, and write it where asked."""
    options = make_parser().parse_args()
    result = run(options)
    if options.out:
        atomic_write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
