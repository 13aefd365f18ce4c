"""Sensitivity: the sum of squared gradients of each frozen weight over a small sample of training examples.

One backward pass a micro-batch. Squares are per example: the loss is the sum over examples of each example's own mean
(over its answer tokens, or its single label), so the result does not depend on how the sample is cut into
micro-batches. No weight gradient is kept: see `moelora.ops.squared_gradient_norm`.

Source: LoRA-SMoE (arXiv 2505.06272), whose code sums grad² over a weight matrix; per example and float32 are ours.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from moelora.errors import ConfigError, nearest
from moelora.ops import input_gram, prefers_grams, squared_gradient_norm
from moelora.seeds import derive_seed
from moelora.training.encode import IGNORED, Encoded, collate, encode


def example_mean_losses(model: torch.nn.Module, tensors: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Return the sum over examples of each example's mean loss, in float32 at the least."""
    labels = tensors["labels"]
    logits = model(**{name: tensor for name, tensor in tensors.items() if name != "labels"}).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if kind == "classification":
        return functional.cross_entropy(logits, labels, reduction="sum")
    if kind == "regression":
        return (logits.squeeze(-1) - labels).square().sum()
    targets = labels[:, 1:]
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return (losses.sum(1) / (targets != IGNORED).sum(1)).sum()


def measure(
    model: torch.nn.Module,
    modules: list[str],
    examples: list[Encoded],
    kind: str,
    pad_id: int,
    device: Any,
    batch_size: int,
) -> dict[str, float]:
    """Return the sensitivity of each module: Σ over examples of ‖∂L_example/∂W‖²_F.

    Args:
        model: the base model; nothing in it is changed.
        modules: full names of linears.
        examples: the sample, tokenised.
        kind: the task's kind.
        pad_id: token id of padding; padded positions have zero gradient because nothing attends to them.
        device: where the model is.
        batch_size: examples per backward pass.
    """
    scores = {name: torch.zeros((), device=device, dtype=torch.float64) for name in modules}
    inputs: dict[str, torch.Tensor] = {}
    grams: dict[int, torch.Tensor] = {}  # by the storage of an input that several modules have (query, key, value)
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def keep_input(_, arguments, output):
            inputs[name] = arguments[0].detach()
            output.register_hook(lambda gradient: add(gradient))

        def add(gradient):
            kept = inputs.pop(name)
            place = kept.data_ptr()
            gram = grams.pop(place, None)
            shared = any(one.data_ptr() == place and one.shape == kept.shape for one in inputs.values())
            if shared and gram is None and prefers_grams(*kept.shape[1:], gradient.shape[-1], shared=True):
                gram = input_gram(kept)
            scores[name] += squared_gradient_norm(kept, gradient.detach(), gram).double().sum()
            if shared and gram is not None:
                grams[place] = gram

        handles.append(module.register_forward_hook(keep_input))

    model.eval()  # dropout would make the scores depend on its draw
    model.requires_grad_(False)
    embeddings = model.get_input_embeddings()

    def require_gradient(_, arguments, output):
        # weights are frozen, so the gradient needs somewhere to start from
        return output.requires_grad_(True)

    handles.append(embeddings.register_forward_hook(require_gradient))
    for name in modules:
        watch(name, model.get_submodule(name))
    try:
        for start in range(0, len(examples), batch_size):
            tensors = collate(examples[start : start + batch_size], pad_id, kind, device)
            example_mean_losses(model, tensors, kind).backward()
            inputs.clear()  # of modules that the loss does not depend on
            grams.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(score) for name, score in scores.items()}


def run(options: argparse.Namespace) -> int:
    """Measure tasks' sensitivities on their plans' base model, one process for all, and write a file for each.

    Raises:
        ConfigError: there are other numbers of plans or files than tasks, or a plan has not its task.
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
    for plan, task, output in zip(plans, tasks, outputs, strict=True):
        _measure_task(plan, task, output, options)
    return 0


def _measure_task(plan_path: Path, name: str, output: Path, options: argparse.Namespace) -> None:
    from moelora.files import atomic_write_json, read_json
    from moelora.models import load_base_model
    from moelora.progress import logger
    from moelora.tasks import load_task
    from moelora.training.device import choose_device

    plan = read_json(plan_path, "plan")
    document = next((task for task in plan["tasks"] if task["name"] == name), None)
    if document is None:
        names = [task["name"] for task in plan["tasks"]]
        raise ConfigError(f"plan {plan_path} has no task '{name}'{nearest(name, names)}")
    task = load_task(document, options.data)
    base = load_base_model(plan["model"], [task], options.seed, options.base)
    device = choose_device()
    sample = random.Random(derive_seed("sensitivity sample", task.name, options.seed))
    chosen = sample.sample(range(len(task.train)), min(options.examples, len(task.train)))
    examples = encode(
        task, [task.train[index] for index in sorted(chosen)], base.tokenizer, plan["training"]["max_length"]
    )
    names = [linear.name for linear in base.shapes.linears]
    pad_id = base.tokenizer.pad_token_id
    scores = measure(base.model.to(device), names, examples, task.kind, pad_id, device, options.batch_size)
    atomic_write_json(
        output,
        {
            "schema": 2,
            "model": plan["model"]["name"],
            "task": task.name,
            "examples": len(examples),
            "seed": options.seed,
            "score": "sum",
            "meaning": "sum over examples of the squared gradient norm of each example's mean loss",
            "modules": [
                {"module": x.name, "layer": x.layer, "type": x.kind, "part": x.part, "shape": [x.outputs, x.inputs],
                 "score": scores[x.name]}
                for x in base.shapes.linears
            ],
        },
    )  # fmt: skip
    logger.info("sensitivity of %d modules to %s from %d examples", len(names), task.name, len(examples))
