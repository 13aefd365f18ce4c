"""A mixture of LoRA increments as one wide LoRA with router weights between its two factors.

Notation: T tokens (any leading axes), D input width, O output width, R rank, E experts.
"""

import torch
from torch import Tensor

from moelora.ops.lora import lora_linear


def gated_wide_lora(
    base: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    weights: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    overwrite: bool = False,
) -> Tensor:
    """Add the weighted sum of E LoRA increments to a frozen layer's output.

    Two matrix products whatever E is: ``base + s * ((x a^T) * repeat(weights, R)) b^T``. Experts that a
    token does not use have weight 0 there, so their gradient is zero and never missing.

    Args:
        base: Output of the frozen layer, (..., O).
        x: Input of the increments, (..., D).
        a: First factors of all experts stacked, (E * R, D), or one shared by all experts, (R, D).
        b: Second factors of all experts side by side, (O, E * R).
        weights: Router weights, (..., E), or None for weight 1 everywhere (a plain LoRA of rank E * R).
        scaling: The factor s, alpha / R.
        dropout: Probability of dropping an element of x, one mask for all experts; 0 outside training.
        overwrite: The increments may be written into ``base``.

    Returns:
        The layer's output, (..., O).
    """
    return lora_linear(x, a, b, scaling, base=base, weights=weights, dropout=dropout, overwrite=overwrite)


def gated_wide_lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    weights: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """Apply a frozen dense layer with the weighted sum of E LoRA increments; arguments as in `gated_wide_lora`."""
    return lora_linear(x, a, b, scaling, weight=weight, bias=bias, weights=weights, dropout=dropout)


def gated_wide_lora_reference(
    base: Tensor, x: Tensor, a: Tensor, b: Tensor, weights: Tensor | None, scaling: float
) -> Tensor:
    """Compute `gated_wide_lora` expert by expert, from the definition."""
    experts = 1 if weights is None else weights.shape[-1]
    rank = b.shape[1] // experts
    output = base
    for expert in range(experts):
        rows = slice(expert * rank, (expert + 1) * rank)
        first = a if a.shape[0] == rank else a[rows]
        increment = x @ first.T @ b[:, rows].T
        weight = 1.0 if weights is None else weights[..., expert : expert + 1]
        output = output + scaling * weight * increment
    return output


def wide_lora_delta(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the (O, D) weight increment s * b a of a mixture whose weights are all 1."""
    return torch.matmul(b, a) * scaling
