"""The training loop: one visible loop on accelerate.

Task losses are summed over a micro-batch and divided by what the whole effective batch counts, so the update does not
depend on how the batch was cut. A balance loss enters as the mean over micro-batches, weighted by their examples; what
is not linear in the batch still depends on the cut, and the record declares it.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from moelora.memory import free_cached, is_out_of_memory
from moelora.methods import Hooks
from moelora.models import select_head
from moelora.progress import Progress, logger
from moelora.training.encode import ANSWERS, Encoded, collate
from moelora.training.launch import crew_of
from moelora.training.losses import loss_items, summed_loss
from moelora.training.preemption import agree, leave
from moelora.training.state import Pace, load_state, random_state, save_state, set_random_state, trainable_tensors
from moelora.tuners.sharding import local_part

NO_HOOKS = Hooks()
RESUMED_FIELDS = (
    "seconds",
    "cpu_seconds",
    "tokens",
    "examples",
    "examples_by_task",
    "loss_curve",
    "balance_curve",
    "micro_batch_size",
    "declarations",
)


@dataclasses.dataclass
class LoopResult:
    """What a training loop leaves beside the trained parameters.

    ``seconds`` (of the wall clock) and ``cpu_seconds`` (of this process, all its threads) leave out saving and
    scoring. On a busy machine the second is the steadier; on a GPU it counts the host alone.
    """

    status: str = "finished"
    reason: "str | None" = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    examples: int = 0
    examples_by_task: dict = dataclasses.field(default_factory=dict)
    loss_curve: list = dataclasses.field(default_factory=list)
    balance_curve: list = dataclasses.field(default_factory=list)
    micro_batch_size: int = 0
    accumulation_steps: int = 0
    resumed: int = 0
    declarations: list = dataclasses.field(default_factory=list)

    def add_time(self, began: "tuple[float, float]") -> None:
        """Add what has passed since ``began``, a reading of :func:`_clocks`."""
        wall, cpu = _clocks()
        self.seconds += wall - began[0]
        self.cpu_seconds += cpu - began[1]


def _clocks() -> "tuple[float, float]":
    """Return the wall clock and the processor time of this process, in seconds."""
    return time.monotonic(), time.process_time()


def make_optimizer(model: torch.nn.Module, training: dict[str, Any], total_steps: int) -> tuple[Any, Any]:
    """Return AdamW over the trainable parameters and the schedule from transformers.

    Weight decay acts on matrices only: biases, norms and DoRA's magnitudes are left alone, also where a mixture has
    them for each expert as the rows of one tensor.
    """
    from transformers import get_scheduler

    decayed, spared = [], []
    for name, tensor in trainable_tensors(model).items():
        (decayed if tensor.ndim > 1 and "magnitude" not in name else spared).append(tensor)
    groups = [{"params": decayed, "weight_decay": training["weight_decay"]}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=training["learning_rate"], fused=True)
    warmup = training.get("warmup_steps")
    if warmup is None:
        warmup = round(training["warmup_ratio"] * total_steps)
    scheduler = get_scheduler(training["scheduler"], optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)
    return optimizer, scheduler


def one_step(
    model: torch.nn.Module,
    batch: list[Encoded],
    kind: str,
    micro_batch_size: int,
    pad_id: int,
    accelerator: Any,
    balance: "Callable[[torch.nn.Module], torch.Tensor | None] | None",
    hooks: Hooks = NO_HOOKS,
    loss_on: str = ANSWERS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accumulate the gradients of one effective batch; return its mean task loss and its balance loss (detached).

    Several processes share each micro-batch, and all end with the same gradients and losses.
    """
    crew = crew_of(accelerator)
    micro_batches = cut_batch(batch, micro_batch_size)
    items = sum(loss_items(micro, kind, loss_on) for micro in micro_batches)
    task_sum = torch.zeros((), device=accelerator.device)
    balance_sum = torch.zeros((), device=accelerator.device)
    with crew.together(stepping=True):
        for micro in micro_batches:
            part = crew.part(micro)
            tensors = collate(part.examples, pad_id, kind, accelerator.device, loss_on, part.length)
            if hooks.before_batch is not None:
                hooks.before_batch(model, part.examples)
            with select_head(model, micro[0].task):
                loss = summed_loss(model, tensors, kind) * (part.weight / items)
                task_sum = task_sum + loss.detach()
                share = len(micro) / len(batch)
                extra = crew.balance(balance, model, part)
                if extra is not None:
                    loss = loss + extra * share
                    balance_sum = balance_sum + extra.detach() * share
                if hooks.extra_loss is not None and (penalty := hooks.extra_loss(model)) is not None:
                    loss = loss + penalty * (share / crew.world)
                accelerator.backward(loss)
    crew.sum_gradients(model)
    return crew.total(task_sum), balance_sum


def cut_batch(batch: list[Encoded], size: int) -> list[list[Encoded]]:
    """Return a batch in parts of at most ``size`` examples."""
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def train_loop(
    model: torch.nn.Module,
    steps: list[list[Encoded]],
    kinds: dict[str, str],
    training: dict[str, Any],
    pad_id: int,
    accelerator: Any,
    *,
    balance: "Callable | None" = None,
    hooks: Hooks = NO_HOOKS,
    state_path: "Path | None" = None,
    label: str = "training",
) -> LoopResult:
    """Train the model in place, one batch an optimiser step.

    Args:
        model: what to train; its trainable parameters are those with ``requires_grad``.
        steps: the batches, in order (see :mod:`moelora.training.order`).
        kinds: task name → kind.
        training: the plan's training settings.
        pad_id: token id of padding.
        accelerator: an ``accelerate.Accelerator``.
        balance: returns the balance loss of the last forward pass, or ``None``.
        hooks: what the method adds to the loop.
        state_path: where the state is kept; without it nothing is saved and nothing resumed.
        label: shown beside the progress.
    """
    crew = crew_of(accelerator)
    optimizer, scheduler = make_optimizer(model, training, len(steps))
    model, optimizer = crew.prepare(accelerator, model, optimizer)
    model.train()
    result = LoopResult(
        micro_batch_size=min(training["micro_batch_size"] or training["batch_size"], training["batch_size"])
    )
    running, running_balance, start, trained_by = 0.0, 0.0, 0, 1
    bare = accelerator.unwrap_model(model)
    trained = list(trainable_tensors(model).values())
    if state_path is not None and (progress := crew.restore(load_state, state_path, bare, optimizer, scheduler)):
        if hooks.load_state is not None:
            hooks.load_state(bare, progress["method"])
        start, running, running_balance = progress["step"], progress["running"], progress["running_balance"]
        for name in RESUMED_FIELDS:
            setattr(result, name, progress[name])
        result.resumed = progress["resumed"] + 1
        trained_by = len(progress.get("generators", ())) or 1
        logger.info("%s: resumed at step %d of %d", label, start, len(steps))
    crew.note(result.declarations, trained_by, start)
    loss_on = training.get("loss_on", ANSWERS)
    log_every, pace = training["log_every_steps"], Pace(training.get("checkpoint_every_steps"))
    bar = Progress(len(steps), label, start, shown=crew.main)
    began = _clocks()
    for step in range(start, len(steps)):
        batch = steps[step]
        kind = kinds[batch[0].task]
        drawn = random_state()
        while True:
            try:
                loss, extra = one_step(
                    model, batch, kind, result.micro_batch_size, pad_id, accelerator, balance, hooks, loss_on
                )
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                optimizer.zero_grad(set_to_none=True)
                set_random_state(drawn)  # the step is as it would have been, had it begun with the smaller size
                if result.micro_batch_size <= crew.world:  # every process had one example, or none
                    size = result.micro_batch_size
                    return _stopped(result, "out_of_memory", f"micro-batch of {size} did not fit: {error}", step, began)
                result.micro_batch_size //= 2
                result.declarations.append(
                    f"out of memory at step {step + 1}: micro-batch halved to {result.micro_batch_size}, "
                    "same effective batch"
                )
                logger.warning("%s: %s", label, result.declarations[-1])
            free_cached()  # what the attempt held is free only here, where its error is gone
        if training["max_grad_norm"]:
            accelerator.clip_grad_norm_(trained, training["max_grad_norm"])
        optimizer.step()
        if hooks.after_step is not None:
            hooks.after_step(bare, step + 1, len(steps))
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        running, running_balance = running + loss, running_balance + extra
        result.tokens += sum(len(example.ids) for example in batch)
        result.examples += len(batch)
        for example in batch:
            result.examples_by_task[example.task] = result.examples_by_task.get(example.task, 0) + 1
        done = step + 1
        if done % log_every == 0 or done == len(steps):
            since = (done - 1) % log_every + 1  # counted from the last logged step, also after resuming
            mean, mean_balance = float(running) / since, float(running_balance) / since
            for name, value in (("loss", mean), ("balance loss", mean_balance)):
                if not math.isfinite(value):
                    reason = f"the {name} is {value} within steps {done - since + 1}–{done}"
                    return _stopped(result, "diverged", reason, done, began)
            result.loss_curve.append([done, mean])
            if balance is not None:
                result.balance_curve.append([done, mean_balance])
            running, running_balance = 0.0, 0.0
        bar.advance(f"loss {result.loss_curve[-1][1]:.3f}" if result.loss_curve else "")
        asked, due = agree(crew, pace.due(done) and done < len(steps))
        if state_path is not None and (asked or due):
            result.add_time(began)
            with pace.saving():
                crew.save(
                    save_state,
                    state_path,
                    bare,
                    optimizer,
                    scheduler,
                    {
                        "step": done,
                        "running": float(running),
                        "running_balance": float(running_balance),
                        "resumed": result.resumed,
                        "method": {} if hooks.state is None else hooks.state(bare),
                        **{name: getattr(result, name) for name in RESUMED_FIELDS},
                    },
                )
            began = _clocks()
        if asked:
            leave(f" at step {done} of {len(steps)}{', its state saved' if state_path is not None else ''}")
    bar.close()
    broken = _not_finite(bare)
    if any(crew.vote(broken is not None)):  # the last steps have no loss after them that would show it
        reason = f"'{broken or 'a trained parameter'}' is not finite after the last step"
        return _stopped(result, "diverged", reason, len(steps), began)
    if not crew.are_same(bare):
        result.declarations.append("the processes ended with different parameters; those of the main one are kept")
        logger.warning("%s: %s", label, result.declarations[-1])
    result.add_time(began)
    result.steps = len(steps)
    result.accumulation_steps = -(-training["batch_size"] // result.micro_batch_size)
    return result


def _not_finite(model: torch.nn.Module) -> "str | None":
    """Return the name of a trained parameter that holds NaN or infinity here, or ``None``."""
    finite = {name: torch.isfinite(local_part(tensor)).all() for name, tensor in trainable_tensors(model).items()}
    if not finite or bool(torch.stack(list(finite.values())).all()):
        return None
    return next(name for name, good in finite.items() if not good)


def _stopped(result: LoopResult, status: str, reason: str, step: int, began: "tuple[float, float]") -> LoopResult:
    """Return a result that says why training ended early."""
    result.status, result.reason, result.steps = status, reason.splitlines()[0], step
    result.add_time(began)
    logger.warning("training ended early: %s, %s", status, result.reason)
    return result
