"""A mixture of LoRA increments as one wide LoRA with router weights between its two factors.

Notation: T tokens (any leading axes), D input width, O output width, R rank, E experts.
"""

import torch
from torch import Tensor
from torch.nn import functional


def gated_wide_lora(base: Tensor, x: Tensor, a: Tensor, b: Tensor, weights: Tensor | None, scaling: float) -> Tensor:
    """Add the weighted sum of E LoRA increments to a frozen layer's output.

    Two matrix products whatever E is: ``base + s * ((x a^T) * repeat(weights, R)) b^T``. Experts that a
    token does not use have weight 0 there, so their gradient is zero and never missing.

    Args:
        base: Output of the frozen layer, (..., O).
        x: Input of the increments, after dropout, (..., D). One dropout mask serves all experts.
        a: First factors of all experts stacked, (E * R, D).
        b: Second factors of all experts side by side, (O, E * R).
        weights: Router weights, (..., E), or None for weight 1 everywhere (a plain LoRA of rank E * R).
        scaling: The factor s, alpha / R.

    Returns:
        The layer's output, (..., O).
    """
    hidden = functional.linear(x, a)
    if weights is None:
        hidden = hidden * scaling
    else:
        experts = weights.shape[-1]
        # The scaling goes on the (T, E) weights: the smallest tensor it can be multiplied into.
        grouped = hidden.unflatten(-1, (experts, -1)) * (weights * scaling).unsqueeze(-1)
        hidden = grouped.flatten(-2)
    return base + functional.linear(hidden.to(b.dtype), b)


def gated_wide_lora_reference(
    base: Tensor, x: Tensor, a: Tensor, b: Tensor, weights: Tensor | None, scaling: float
) -> Tensor:
    """Compute `gated_wide_lora` expert by expert, from the definition."""
    experts = 1 if weights is None else weights.shape[-1]
    rank = a.shape[0] // experts
    output = base
    for expert in range(experts):
        rows = slice(expert * rank, (expert + 1) * rank)
        increment = x @ a[rows].T @ b[:, rows].T
        weight = 1.0 if weights is None else weights[..., expert : expert + 1]
        output = output + scaling * weight * increment
    return output


def wide_lora_delta(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the (O, D) weight increment s * b a of a mixture whose weights are all 1."""
    return torch.matmul(b, a) * scaling
