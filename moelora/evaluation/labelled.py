"""Predictions of an encoder with a head."""

import torch

from moelora.evaluation.batching import in_batches
from moelora.models import select_head
from moelora.training.encode import Encoded, collate


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    examples: list[Encoded],
    kind: str,
    pad_id: int,
    batch_size: "int | str",
    device,
    *,
    precision: str = "fp32",
) -> list[float]:
    """Return one prediction per example, in their order: a class index, or a grade for regression.

    Examples are scored in order of length so that little is padded.
    """
    model.eval()
    found: list[float] = [0.0] * len(examples)
    batches = []

    def answer(rows: list[int]) -> None:
        tensors = collate([examples[index] for index in rows], pad_id, kind, device)
        tensors.pop("labels")
        logits = model(**tensors).logits.float()
        batches.append((rows, logits.squeeze(-1) if kind == "regression" else logits.argmax(-1)))

    with (
        select_head(model, examples[0].task),
        torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        in_batches([len(example.ids) for example in examples], batch_size, answer, f"scoring {examples[0].task}")
    values = torch.cat([predicted for _, predicted in batches]).tolist()  # once: a GPU need not be waited for
    for row, value in zip((row for rows, _ in batches for row in rows), values, strict=True):
        found[row] = value
    return found
