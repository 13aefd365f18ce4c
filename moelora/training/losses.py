"""Task losses as sums, so that one division by the effective batch makes accumulation exact."""

from typing import Any

import torch
from torch.nn import functional

from moelora.training.encode import ANSWERS, IGNORED, PADDING, Encoded


def summed_loss(model: Any, tensors: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Return the loss summed over what :func:`loss_items` counts, in float32 at the least.

    Classification: cross-entropy per example. Regression: squared error per example. Multiple choice: cross-entropy
    per token that carries a label.
    """
    labels = tensors["labels"]
    inputs = {name: tensor for name, tensor in tensors.items() if name != "labels"}
    logits = model(**inputs).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if kind == "classification":
        return functional.cross_entropy(logits, labels, reduction="sum")
    if kind == "regression":
        return functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="sum")
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def loss_items(batch: list[Encoded], kind: str, loss_on: str = ANSWERS) -> int:
    """Return by how much a batch's summed loss is divided: examples, or the tokens that count for multiple choice.

    Nothing stands before the first token to predict it from. Padding depends on what is padded together, so with it
    ``batch`` is a micro-batch; the other counts add up over parts.
    """
    if kind != "multiple_choice":
        return len(batch)
    if loss_on == PADDING:
        return len(batch) * (max(len(example.ids) for example in batch) - 1)
    return sum(len(example.ids) - (int(example.label) if loss_on == ANSWERS else 1) for example in batch)
