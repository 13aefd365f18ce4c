"""Task losses as sums, so that one division by the effective batch makes accumulation exact."""

from typing import Any

import torch
from torch.nn import functional

from moelora.training.encode import IGNORED, Encoded


def summed_loss(model: Any, tensors: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Return the loss summed over what :func:`loss_items` counts, in float32.

    Classification: cross-entropy per example. Regression: squared error per example. Multiple choice: cross-entropy
    per answer token.
    """
    labels = tensors["labels"]
    inputs = {name: tensor for name, tensor in tensors.items() if name != "labels"}
    logits = model(**inputs).logits.float()
    if kind == "classification":
        return functional.cross_entropy(logits, labels, reduction="sum")
    if kind == "regression":
        return functional.mse_loss(logits.squeeze(-1), labels, reduction="sum")
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def loss_items(batch: list[Encoded], kind: str) -> int:
    """Return by how much a batch's summed loss is divided: examples, or answer tokens for multiple choice."""
    if kind != "multiple_choice":
        return len(batch)
    return sum(len(example.ids) - int(example.label) for example in batch)
