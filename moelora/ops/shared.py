"""A mixture of LoRA increments that share their first factor: one A, E second factors (HydraLoRA).

Notation: T tokens (any leading axes), D input width, O output width, R rank, E experts.
Source: arXiv 2404.19245; the stacked form is ours.
"""

import torch
from torch import Tensor
from torch.nn import functional


def shared_wide_lora(base: Tensor, x: Tensor, a: Tensor, b: Tensor, weights: Tensor | None, scaling: float) -> Tensor:
    """Add ``s * sum_e weights_e B_e (A x)`` to a frozen layer's output, in two matrix products whatever E is.

    Args:
        base: Output of the frozen layer, (..., O).
        x: Input of the increments, after dropout, (..., D).
        a: The shared first factor, (R, D).
        b: Second factors of all experts side by side, (O, E * R).
        weights: Router weights, (..., E), or None for weight 1 everywhere.
        scaling: The factor s, alpha / R.

    Returns:
        The layer's output, (..., O).
    """
    hidden = functional.linear(x, a)
    experts = b.shape[-1] // a.shape[0]
    if weights is None:
        weights = hidden.new_ones(experts).expand(*hidden.shape[:-1], experts)
    # The outer product of weights and low-rank row is the wide row that the stacked B expects.
    wide = ((weights * scaling).unsqueeze(-1) * hidden.unsqueeze(-2)).flatten(-2)
    return base + functional.linear(wide.to(b.dtype), b)


def shared_wide_lora_reference(
    base: Tensor, x: Tensor, a: Tensor, b: Tensor, weights: Tensor | None, scaling: float
) -> Tensor:
    """Compute `shared_wide_lora` expert by expert, from the definition."""
    rank = a.shape[0]
    output = base
    for expert in range(b.shape[-1] // rank):
        increment = torch.matmul(x @ a.T, b[:, expert * rank : (expert + 1) * rank].T)
        weight = 1.0 if weights is None else weights[..., expert : expert + 1]
        output = output + scaling * weight * increment
    return output
