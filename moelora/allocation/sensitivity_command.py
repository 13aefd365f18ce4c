"""``moelora sensitivity``: from plans to a table of scores per task, or to how such tables agree between samples."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.seeds import derive_seed


def run(options: argparse.Namespace) -> int:
    """Measure tasks on their plans' base model, one process for all, and write a file for each.

    Raises:
        AllocationError: a task cannot be measured as asked.
        ConfigError: there are other numbers of plans or files than tasks, a plan has not its task, or the options
            contradict each other.
    """
    from moelora.progress import start_logging

    start_logging()
    tasks, outputs = options.task, options.out
    plans = options.plan if len(options.plan) > 1 else options.plan * len(tasks)
    if not len(plans) == len(tasks) == len(outputs):
        raise ConfigError(
            f"found {len(tasks)} tasks, {len(options.plan)} plans and {len(outputs)} files to write; "
            "give a file a task, and a plan a task or one for all"
        )
    if options.stability:
        _check_stability(options)
    for plan, name, output in zip(plans, tasks, outputs, strict=True):
        (_write_stability if options.stability else _write_scores)(_Measurement(plan, name, options), output)
    return 0


def _check_stability(options: argparse.Namespace) -> None:
    if options.score == "as_coded":
        raise ConfigError(
            "--stability compares samples of examples that are measured at the same weights; the score 'as_coded' "
            "changes them while it measures. Take another score"
        )
    if len(set(options.seeds)) < 2 or min(options.stability) < 1:
        raise ConfigError(
            f"--stability compares samples of different seeds, found seeds {options.seeds} and sizes "
            f"{options.stability}; give two seeds at least, and sizes from 1"
        )


class _Measurement:
    """One task of one plan, its model and its examples."""

    def __init__(self, plan_path: Path, name: str, options: argparse.Namespace):
        from moelora.models import load_base_model
        from moelora.plans.reading import read_plan
        from moelora.tasks import load_task
        from moelora.training.device import choose_device

        self.plan, self.options = read_plan(plan_path), options
        document = next((task for task in self.plan["tasks"] if task["name"] == name), None)
        if document is None:
            names = [task["name"] for task in self.plan["tasks"]]
            raise ConfigError(f"plan {plan_path} has no task '{name}'{nearest(name, names)}")
        self.task = load_task(document, options.data)
        self.base = load_base_model(self.plan["model"], [self.task], options.seed, options.base)
        self.device = choose_device()
        self.base.model.to(self.device)
        self.linears = self.base.shapes.linears
        self.names = [linear.name for linear in self.linears]

    def sample(self, size: int, seed: int) -> list[int]:
        """Return training examples drawn without replacement, all of them where there are fewer."""
        generator = random.Random(derive_seed("sensitivity sample", self.task.name, seed))
        return generator.sample(range(len(self.task.train)), min(size, len(self.task.train)))

    def encode(self, chosen: Sequence[int]) -> list:
        """Return examples, tokenised."""
        from moelora.training.encode import encode

        examples = [self.task.train[index] for index in chosen]
        return encode(self.task, examples, self.base.tokenizer, self.plan["training"]["max_length"])

    def reseed(self, seed: int) -> None:
        """Give an encoder the untrained head of another seed, as measuring with that seed would have it."""
        from moelora.models import give_heads

        if self.plan["model"]["architecture"] == "encoder":
            give_heads(self.base.model.cpu(), [self.task], seed)
            self.base.model.to(self.device)

    def measure_rows(self, examples: list, seed: int) -> Any:
        """Return scores, (examples, modules)."""
        from moelora.allocation.sensitivity import measure_examples

        return measure_examples(
            self.base.model,
            self.names,
            examples,
            self.task.kind,
            self.base.tokenizer.pad_token_id,
            self.device,
            self.options.batch_size,
            self.options.score,
            seed,
            self.options.checkpointing,
        )

    def document(self, **entries: Any) -> dict[str, Any]:
        """Return what both kinds of file say."""
        from moelora.allocation.sensitivity import MEANINGS

        return {
            "model": self.plan["model"]["name"],
            "task": self.task.name,
            "score": self.options.score,
            "meaning": MEANINGS[self.options.score],
            **entries,
        }


def _write_scores(measurement: _Measurement, output: Path) -> None:
    from moelora.allocation.sensitivity import measure_coded
    from moelora.files import write_sealed_json
    from moelora.progress import logger

    options, base = measurement.options, measurement.base
    examples = measurement.encode(sorted(measurement.sample(options.examples, options.seed)))
    if options.score == "as_coded":
        pad_id, kind = base.tokenizer.pad_token_id, measurement.task.kind
        scores, used = measure_coded(base.model, measurement.linears, examples, kind, pad_id, measurement.device)
    else:
        totals = measurement.measure_rows(examples, options.seed).sum(0).tolist()
        scores, used = dict(zip(measurement.names, totals, strict=True)), len(examples)
    rows = [
        {
            "module": linear.name,
            "layer": linear.layer,
            "type": linear.kind,
            "part": linear.part,
            "shape": [linear.outputs, linear.inputs],
            "score": scores[linear.name] if scores[linear.name] != float("inf") else None,
        }
        for linear in measurement.linears
    ]
    write_sealed_json(output, measurement.document(schema=2, seed=options.seed, examples=used, modules=rows))
    logger.info(
        "sensitivity (%s) of %d modules to %s from %d examples", options.score, len(rows), measurement.task.name, used
    )


def _write_stability(measurement: _Measurement, output: Path) -> None:
    from moelora.allocation.settings import DEFAULTS
    from moelora.allocation.stability import agreement_rows
    from moelora.allocation.votes import POOLS
    from moelora.files import write_sealed_json
    from moelora.progress import logger

    options, task = measurement.options, measurement.task
    votes = {key: options.votes.get(key, DEFAULTS[key]) for key in ("percentile", "pool")}
    if votes["pool"] not in POOLS:
        raise ConfigError(f"unknown pool '{votes['pool']}'{nearest(votes['pool'], set(POOLS))}")
    sizes = sorted({size for size in options.stability if size <= len(task.train)})
    if not sizes:
        raise ConfigError(f"task '{task.name}' has {len(task.train)} training examples, fewer than {options.stability}")
    samples: dict[int, dict[int, dict[str, float]]] = {}
    for seed in sorted(set(options.seeds)):
        # A seed is another sample and, where there is one, another untrained head: both are luck.
        measurement.reseed(seed)
        scores = measurement.measure_rows(measurement.encode(measurement.sample(sizes[-1], seed)), seed).cpu().numpy()
        # the smaller samples are the beginnings of the largest
        totals = {size: scores[:size].sum(0).tolist() for size in sizes}
        samples[seed] = {size: dict(zip(measurement.names, total, strict=True)) for size, total in totals.items()}
    pools = {linear.name: POOLS[votes["pool"]](linear) for linear in measurement.linears}
    rows = agreement_rows(samples, pools, votes["percentile"])
    document = measurement.document(schema=1, votes=votes, seeds=sorted(samples), available=len(task.train), rows=rows)
    write_sealed_json(output, document)
    logger.info("stability of the sensitivity to %s in %d samples of up to %d", task.name, len(samples), sizes[-1])
