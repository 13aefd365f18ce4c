"""Sensitivity: what a small sample of training examples says of each frozen weight matrix of a model.

Scores are per example: the loss is the sum over examples of each example's own mean (over its answer tokens, or its
single label), so they do not depend on how the sample is cut into micro-batches. Accumulation is in float64 over
float32 at the least.

Source: LoRA-SMoE (arXiv 2505.06272), whose code sums grad² over a weight matrix; per example and float32 are ours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moelora.allocation.as_coded import measure_as_coded, usable_steps
from moelora.allocation.gradients import ExampleScores, frozen
from moelora.allocation.labels import sampled_labels
from moelora.methods import Linear
from moelora.training.encode import IGNORED, Encoded, collate

MEANINGS = {
    "sum": "sum over examples of the squared gradient norm of each example's mean loss",
    "mean": "sum over examples of the squared gradient norm of each example's mean loss, divided by the weights",
    "taylor": "sum over examples and weights of |weight x gradient| of each example's mean loss",
    "fisher": "sum over examples of the squared gradient norm of each example's mean loss under a label sampled from "
    "the model",
    "as_coded": "as the public code: float16 sums of squared gradients, one example and layer a step, weights updated "
    "between; null where the sum overflowed",
}


def example_mean_losses(
    model: nn.Module,
    tensors: dict[str, Tensor],
    kind: str,
    relabel: "Callable[[Tensor, Tensor], Tensor] | None" = None,
) -> Tensor:
    """Return the sum over examples of each example's mean loss, in float32 at the least.

    Args:
        model: a model with the task's head.
        tensors: a batch as `collate` makes it.
        kind: the task's kind.
        relabel: from logits and labels to the labels that the loss is taken of; the batch's own by default.
    """
    labels = tensors["labels"]
    logits = model(**{name: tensor for name, tensor in tensors.items() if name != "labels"}).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if relabel is not None:
        labels = relabel(logits, labels)
    if kind == "classification":
        return functional.cross_entropy(logits, labels, reduction="sum")
    if kind == "regression":
        return (logits.squeeze(-1) - labels).square().sum()
    targets = labels[:, 1:]
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return (losses.sum(1) / (targets != IGNORED).sum(1)).sum()


def measure_examples(
    model: nn.Module,
    modules: Sequence[str],
    examples: Sequence[Encoded],
    kind: str,
    pad_id: int,
    device: Any,
    batch_size: int,
    score: str = "sum",
    seed: int = 0,
    checkpointing: bool = False,
) -> Tensor:
    """Return the score of each module for each example by itself, (N, M) in float64; their sum is the sensitivity.

    Args:
        model: the base model; nothing in it is changed.
        modules: full names of linears.
        examples: the sample, tokenised.
        kind: the task's kind.
        pad_id: token id of padding; padded positions have zero gradient because nothing attends to them.
        device: where the model is.
        batch_size: examples per backward pass; no score depends on it.
        score: ``sum``, ``mean``, ``taylor`` or ``fisher`` (see `MEANINGS`); 4-bit weights are taken dequantised.
        seed: of the labels that ``fisher`` samples.
        checkpointing: recompute activations in the backward pass.
    """
    rows = []
    what = "taylor" if score == "taylor" else "squares"
    with frozen(model, checkpointing), ExampleScores(model, modules, what) as scores:
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            relabel = sampled_labels(batch, kind, seed) if score == "fisher" else None
            example_mean_losses(model, collate(batch, pad_id, kind, device), kind, relabel).backward()
            rows.append(scores.take())
    found = torch.cat(rows)
    if score == "mean":
        widths = [model.get_submodule(name) for name in modules]
        found /= torch.tensor([one.in_features * one.out_features for one in widths], device=found.device)
    return found


def measure(
    model: nn.Module,
    modules: Sequence[str],
    examples: Sequence[Encoded],
    kind: str,
    pad_id: int,
    device: Any,
    batch_size: int,
    **options: Any,
) -> dict[str, float]:
    """Return the sensitivity of each module: the sum of `measure_examples`, which describes the arguments."""
    found = measure_examples(model, modules, examples, kind, pad_id, device, batch_size, **options)
    return dict(zip(modules, found.sum(0).tolist(), strict=True))


def measure_coded(
    model: nn.Module, linears: Sequence[Linear], examples: Sequence[Encoded], kind: str, pad_id: int, device: Any
) -> tuple[dict[str, float], int]:
    """Return the score ``as_coded`` of each linear, and how many of the examples it took. The model is changed."""
    used = usable_steps(len(examples), len({linear.layer for linear in linears}))

    def loss_of(example: Encoded) -> Callable[[nn.Module], Tensor]:
        return lambda one: example_mean_losses(one, collate([example], pad_id, kind, device), kind)

    scores = measure_as_coded(model, linears, [loss_of(example) for example in examples[:used]])
    return dict(zip([linear.name for linear in linears], scores, strict=True)), used
