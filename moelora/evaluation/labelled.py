"""Predictions of an encoder with a head."""

import torch

from moelora.models import select_head
from moelora.progress import Progress
from moelora.training.encode import Encoded, collate


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    examples: list[Encoded],
    kind: str,
    pad_id: int,
    batch_size: int,
    device,
    *,
    precision: str = "fp32",
) -> list[float]:
    """Return one prediction per example, in their order: a class index, or a grade for regression.

    Examples are scored in order of length so that little is padded.
    """
    model.eval()
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index].ids))
    found = []
    bar = Progress(-(-len(order) // batch_size), f"scoring {examples[0].task}")
    with (
        select_head(model, examples[0].task),
        torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tensors = collate([examples[index] for index in rows], pad_id, kind, device)
            tensors.pop("labels")
            logits = model(**tensors).logits.float()
            found.append(logits.squeeze(-1) if kind == "regression" else logits.argmax(-1))
            bar.advance()
    bar.close()
    values = torch.cat(found).tolist()  # once: a GPU need not be waited for after every batch
    return [value for _, value in sorted(zip(order, values, strict=True))]
