"""``moelora costs``: what each variant's training step costs, all variants interleaved in one process.

Jobs that share a machine do not time each other honestly, so the ratios of the report come from here alone. Every round
times one step of each variant, in rotating order; a ratio is taken within a round, and its median over rounds is
reported with the quartiles.
"""

import argparse
import gc
import statistics
import time
from typing import Any

import torch

from moelora.errors import first_line
from moelora.files import write_sealed_json
from moelora.progress import Progress, logger, start_logging
from moelora.records.environment import environment, now
from moelora.training.attach import Attached, attach, recompute_activations
from moelora.training.device import choose_device
from moelora.training.encode import collate
from moelora.training.identity import open_run
from moelora.training.loop import make_optimizer
from moelora.training.losses import loss_items, summed_loss
from moelora.training.order import all_steps
from moelora.training.run import balance_of
from moelora.training.sources import load_tasks

REFERENCE = "lora"
NOMINAL_STEPS = 1000  # what schedules are told; only the first few steps are taken


class Rival:
    """One variant with its optimiser, ready to take a step."""

    def __init__(self, attached: Attached, training: dict[str, Any]):
        self.attached = attached
        recompute_activations(attached.model, training)
        self.optimizer, _ = make_optimizer(attached.model, training, NOMINAL_STEPS)
        self.balance = balance_of(attached.method)
        self.hooks = attached.method.make_hooks(attached.settings)
        self.steps = 0
        attached.model.train()

    def step(self, tensors: dict[str, torch.Tensor], items: int, kind: str, device: Any) -> float:
        """Take one training step and return its seconds."""
        _wait(device)
        began = time.perf_counter()
        loss = summed_loss(self.attached.model, tensors, kind) / items
        if self.balance is not None and (extra := self.balance(self.attached.model)) is not None:
            loss = loss + extra
        if self.hooks.extra_loss is not None and (extra := self.hooks.extra_loss(self.attached.model)) is not None:
            loss = loss + extra
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        if self.hooks.after_step is not None:
            self.hooks.after_step(self.attached.model, self.steps, NOMINAL_STEPS)
        self.optimizer.zero_grad(set_to_none=True)
        _wait(device)
        return time.perf_counter() - began

    def saved_bytes(self, tensors: dict[str, torch.Tensor], items: int, kind: str) -> int:
        """Return the bytes that autograd keeps for backward, parameters left out, storages counted once."""
        parameters = {p.untyped_storage().data_ptr() for p in self.attached.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = summed_loss(self.attached.model, tensors, kind) / items
        total = sum(kept.values())
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def _wait(device: Any) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_of_step(rival: Rival, tensors: dict, items: int, kind: str, device: Any) -> "int | None":
    """Return the peak of GPU memory in one step, or nothing on a CPU, where one process cannot tell variants apart."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    rival.step(tensors, items, kind, device)
    return int(torch.cuda.max_memory_allocated(device))


def measure(
    rivals: dict[str, Rival], tensors: dict, items: int, kind: str, device: Any, rounds: int, warmup: int
) -> dict:
    """Return seconds per round and variant, after ``warmup`` rounds that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    bar = Progress(rounds + warmup, "costs")
    gc.disable()
    try:
        for number in range(rounds + warmup):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                taken = rivals[name].step(tensors, items, kind, device)
                if number >= warmup:
                    seconds[name].append(taken)
            gc.collect()
            bar.advance()
    finally:
        gc.enable()
        bar.close()
    return seconds


def run(options: argparse.Namespace) -> int:
    """Time every plan's variant on one batch of the first plan's first task and write the cost table."""
    import os

    start_logging()
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    started = now()
    device = choose_device()
    opened = [open_run(path, "", options.data, options.base) for path in options.plans]
    plan = opened[0].plan
    tasks = load_tasks(plan, options.data)[:1]
    kind = tasks[0].kind
    rivals: dict[str, Rival] = {}
    variants: dict[str, dict[str, Any]] = {}
    batch: list = []
    for run_ in opened:
        name = run_.plan["variant"]
        try:
            attached = attach(run_.plan, tasks, options.base, device)
            if not any(p.requires_grad for p in attached.model.parameters()):
                continue
            rivals[name] = Rival(attached, run_.plan["training"])
            if not batch:
                batch = cost_batch(tasks[0], attached.base.tokenizer, options.batch_size, options.sequence_length)
        except torch.OutOfMemoryError as error:
            variants[name] = {"status": "failed", "reason": f"out of memory: {first_line(error)}"}
    tensors = collate(batch, attached.base.tokenizer.pad_token_id, kind, device)
    items, tokens = loss_items(batch, kind), int(tensors["attention_mask"].sum())
    seconds = measure(rivals, tensors, items, kind, device, options.rounds, options.warmup)
    reference = REFERENCE if REFERENCE in rivals else sorted(rivals)[0]
    for name, rival in rivals.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds[name], seconds[reference], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        median = statistics.median(seconds[name])
        variants[name] = {
            "status": "finished",
            "reason": None,
            "step_seconds": median,
            "ratio": statistics.median(ratios),
            "ratio_spread": [quartiles[0], quartiles[2]],
            "tokens_per_second": tokens / median,
            "peak_memory_bytes": peak_of_step(rival, tensors, items, kind, device),
            "saved_bytes": rival.saved_bytes(tensors, items, kind),
        }
    write_sealed_json(
        options.out,
        {
            "schema": 1,
            "suite": plan["suite"],
            "model": plan["model"]["name"],
            "task": tasks[0].name,
            "reference": reference,
            "rounds": options.rounds,
            "shape": {"batch": len(batch), "tokens": int(tensors["input_ids"].shape[1])},
            "environment": environment(device, started),
            "variants": variants,
        },
    )
    logger.info("costs of %d variants over %d rounds", len(rivals), options.rounds)
    return 0


def cost_batch(task: Any, tokenizer: Any, batch_size: int, length: int) -> list:
    """Return one batch of real examples, tokenised and cut to ``length`` tokens."""
    from moelora.training.encode import encode

    examples = encode(task, task.train[: batch_size * 4], tokenizer, length)
    return all_steps(examples, batch_size, 0, epochs=None, max_steps=1, by_task=True)[0]
