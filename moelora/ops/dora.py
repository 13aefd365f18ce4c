"""DoRA on a frozen linear layer as one autograd function.

y = (m / n) ∘ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias with n the row norms of W + s B A, a constant for the gradient.

Notation: T tokens (any leading axes), D input width, O output width, R rank.
Source: DoRA, arXiv 2402.09353; semantics of dropout and of the detached norm as in PEFT.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moelora.ops.dora_norm import DoraNorm, project_with, row_norms
from moelora.ops.lora import lora_linear
from moelora.ops.low_rank import add_product, drop, drop_again, project_plus
from moelora.ops.precision import as_rows, cast_operands, like_rows_of, without_autocast


def dora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    magnitude: Tensor,
    scaling: float,
    norm: DoraNorm | None = None,
    dropout: float = 0.0,
    low_rank_only: bool = False,
) -> Tensor:
    """Apply a frozen linear layer with a DoRA.

    With dropout y = x Wᵀ + bias + (m / n − 1) ∘ x' Wᵀ + (m / n) ∘ s (x' Aᵀ) Bᵀ, where x' is the dropped input: the
    frozen product runs twice, as PEFT's semantics need. With ``low_rank_only`` the frozen product reads x alone,
    y = (m / n) ∘ (x Wᵀ + s (x' Aᵀ) Bᵀ) + bias, and runs once: another method in training, the same one without dropout.

    Args:
        x: Input, (..., D).
        weight: Frozen weight, (O, D); of a quantised layer, the dequantised one.
        bias: Frozen bias, (O,). It is not scaled.
        a: First factor, (R, D).
        b: Second factor, (O, R).
        magnitude: m, (O,).
        scaling: s.
        norm: Keeps the squared row norms of the weight between passes; without it they are computed each time.
        dropout: Probability of dropping an element of the input; 0 outside training.
        low_rank_only: Dropout acts on the input of the low-rank path only.

    Returns:
        (..., O).
    """
    norm = norm or DoraNorm()
    x, a, b = cast_operands(x, a, b)
    with without_autocast(x):
        # Kept outside the function: torch.compile traces no function that changes an object.
        squares = norm.squares(weight)
        return _DoraLinear.apply(x, a, b, magnitude, weight, bias, scaling, squares, dropout, low_rank_only)


def dora_called_layer(
    x: Tensor,
    layer: Callable[[Tensor], Tensor],
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    magnitude: Tensor,
    scaling: float,
    squares: Tensor,
    dropout: float = 0.0,
    low_rank_only: bool = False,
) -> Tensor:
    """Apply a frozen linear layer that must be called (quantised, say) with a DoRA; arguments as in `dora_linear`.

    The layer is called once, on everything that it must multiply: x, with dropout also the dropped x, and the rows of
    A, whose images the norm needs. So a quantised weight is dequantised once forward, and once backward.

    Args:
        x: Input, (..., D).
        layer: Maps rows (N, D) to (N, O), its bias included.
        bias: The layer's bias, (O,).
        a: First factor, (R, D). For the norm it is rounded to the dtype of x.
        b: Second factor, (O, R).
        magnitude: m, (O,).
        scaling: s.
        squares: Squared row norms of the layer's dense weight, (O,), from `DoraNorm.squares`.
        dropout: Probability of dropping an element of the input; 0 outside training.
        low_rank_only: Dropout acts on the input of the low-rank path only.

    Returns:
        (..., O), in the dtype that the layer gives.
    """
    rows = as_rows(x)
    dropped = functional.dropout(rows, dropout) if dropout else rows
    twice = dropout > 0 and not low_rank_only
    inputs = [rows, dropped] if twice else [rows]
    outputs = layer(torch.cat([*inputs, a.detach().to(rows.dtype)]))
    with without_autocast(rows):
        unbiased = outputs if bias is None else outputs - bias.to(outputs.dtype)
        *projected, cross = unbiased.split([*(len(one) for one in inputs), len(a)])
        norms = row_norms(squares, cross.detach(), a, b, scaling)[0]
    unscaled = lora_linear(dropped.to(a.dtype), a, b, scaling, base=projected[-1])
    # Magnitudes move by far less than half precision resolves near 1, so they act in float32.
    output = unscaled * (magnitude.to(norms.dtype) / norms)
    if twice:
        output = output - projected[-1] + projected[0]
    if bias is not None:
        output = output + bias
    return output.to(outputs.dtype).view(*x.shape[:-1], output.shape[-1])


def dora_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    magnitude: Tensor,
    scaling: float,
    dropped: Tensor | None = None,
    low_rank_only: bool = False,
) -> Tensor:
    """Compute `dora_linear` from the whole weight W + s B A; ``dropped`` is the input after dropout."""
    adapted = weight + scaling * b @ a
    scale = magnitude / adapted.detach().norm(dim=1)
    if dropped is None:
        return functional.linear(x, scale[:, None] * adapted, bias)
    if low_rank_only:
        return functional.linear(x, scale[:, None] * weight, bias) + functional.linear(
            dropped, scale[:, None] * (scaling * b @ a)
        )
    correction = (scale - 1) * (dropped @ weight.T) + scale * scaling * (dropped @ a.T @ b.T)
    return functional.linear(x, weight, bias) + correction


class _DoraLinear(torch.autograd.Function):
    """See `dora_linear`. Kept for the backward pass: input, rank-R products and, for d m, the unscaled output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        magnitude: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        squares: Tensor,
        dropout: float,
        low_rank_only: bool,
    ) -> Tensor:
        rows = as_rows(x)
        dropped, kept = drop(rows, dropout)
        products = a @ dropped.to(a.dtype).T
        twice = kept is not None and not low_rank_only
        if twice:
            base, through, cross = project_with([rows, dropped], a, weight)
            unscaled = add_product(through.clone(), products.T, b.T, scaling)
        else:
            unscaled, cross = project_with([rows], a, weight, products, b, scaling)
        norms = row_norms(squares, cross, a, b, scaling)[0]
        # Magnitudes move by far less than half precision resolves near 1, so they act in float32.
        scale = magnitude.to(norms.dtype) / norms
        output = unscaled * scale if bias is None else torch.addcmul(bias.to(scale.dtype), unscaled, scale)
        if twice:
            output = output.sub_(through).add_(base)
        ctx.save_for_backward(
            rows, kept, a, b, weight, products, scale, norms, unscaled if ctx.needs_input_grad[3] else None
        )
        ctx.scaling, ctx.dropout, ctx.twice = scaling, dropout, twice
        ctx.magnitude_dtype, ctx.shape = magnitude.dtype, x.shape
        return like_rows_of(output.to(rows.dtype), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor):
        rows, kept, a, b, weight, products, scale, norms, unscaled = ctx.saved_tensors
        need_x, need_a, need_b, need_magnitude = ctx.needs_input_grad[:4]
        d_x = d_a = d_b = d_magnitude = None
        with without_autocast(rows):
            dy = as_rows(dy)
            if need_magnitude:
                d_magnitude = (torch.linalg.vecdot(dy, unscaled, dim=0) / norms).to(ctx.magnitude_dtype)
            scaled = dy * scale
            low = scaled.to(b.dtype)
            d_frozen = (scaled - dy if ctx.twice else scaled).to(dy.dtype)
            if need_b:
                d_b = (products @ low).T * ctx.scaling
            if need_a or need_x:
                d_products = (b.T @ low.T).mul_(ctx.scaling)
            if need_a:
                d_a = d_products @ drop_again(rows, kept, ctx.dropout).to(a.dtype)
            if need_x and kept is None:
                d_x = project_plus(d_frozen, weight, d_products.T, a)
            elif need_x and not ctx.twice:
                d_x = drop_again((d_products.T @ a).to(dy.dtype), kept, ctx.dropout)
                d_x = d_x.addmm_(d_frozen, weight.to(dy.dtype))
            elif need_x:
                d_dropped = add_product(d_frozen @ weight.to(dy.dtype), d_products.T, a)
                d_x = drop_again(d_dropped, kept, ctx.dropout).addmm_(dy, weight.to(dy.dtype))
            if need_x:
                d_x = d_x.view(ctx.shape)
        return d_x, d_a, d_b, d_magnitude, None, None, None, None, None, None
