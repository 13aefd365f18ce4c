"""A LoRA, or a weighted mixture of LoRAs, on a frozen linear layer as one autograd function.

Plain autograd runs a LoRA as five operations forward, each with a pass over the wide output or input in both
directions. Here the increments are added by the matrix products themselves, and only the input and the (T, R)
products are kept for the backward pass: y = x W^T + bias + s (g ∘ x A^T) B^T and dx = dy W + s (g ∘ dy B) A.

Notation: T tokens (any leading axes), D input width, O output width, R rank, E experts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moelora.ops.low_rank import add_product, drop, drop_again, project_plus, scaled_product, second_gradient, widen
from moelora.ops.precision import as_rows, cast_operands, like_rows_of, without_autocast


def lora_linear(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    scaling: float,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    base: Tensor | None = None,
    weights: Tensor | None = None,
    dropout: float = 0.0,
    overwrite: bool = False,
) -> Tensor:
    """Apply a frozen linear layer with a LoRA, or with a weighted mixture of them, in one autograd function.

    Exactly one of ``weight`` and ``base`` is given. With the frozen weight the whole layer is one function; with
    the layer's output (a quantised or offloaded layer called as a module) the increment is added to it.
    Nothing flows to ``weight`` and ``bias``: they are frozen.

    Args:
        x: Input, (..., D).
        a: First factors of all experts stacked, (E * R, D), or one shared by all experts, (R, D).
        b: Second factors side by side, (O, E * R).
        scaling: The factor s, alpha / R.
        weight: Frozen weight, (O, D).
        bias: Frozen bias, (O,), only with ``weight``.
        base: Output of the frozen layer, (..., O).
        weights: Router weights, (..., E); None is a plain LoRA of rank E * R.
        dropout: Probability of dropping an element of the increments' input, one mask for all experts; pass 0
            outside training. The frozen layer sees the whole input, and the random numbers are those of `nn.Dropout`.
        overwrite: The increment may be written into ``base``: a fresh tensor that nobody else reads.

    Returns:
        The layer's output, (..., O), in the dtype of x, or of ``base`` and the factors promoted.

    Raises:
        ValueError: Neither or both of ``weight`` and ``base`` are given.
    """
    if (weight is None) == (base is None):
        raise ValueError("lora_linear takes the frozen weight or the frozen layer's output: give exactly one")
    x, a, b = cast_operands(x, a, b)
    weights = None if weights is None else as_rows(weights)
    if base is None:
        with without_autocast(x):
            return _LowRankLinear.apply(None, x, a, b, weights, weight, bias, scaling, dropout, False)
    overwrite = overwrite and base.is_contiguous() and base.dtype == b.dtype
    with without_autocast(x):
        output = _LowRankLinear.apply(
            base if overwrite else as_rows(base), as_rows(x), a, b, weights, None, None, scaling, dropout, overwrite
        )
    return output.view(*x.shape[:-1], output.shape[-1])


def lora_linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
) -> Tensor:
    """Compute `lora_linear` from the merged weight W + s B A."""
    return functional.linear(x, weight + scaling * b @ a, bias)


class _LowRankLinear(torch.autograd.Function):
    """See `lora_linear`; kept for the backward pass: input, rank-R products, router weights, dropout mask."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor | None,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        weights: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        scaling: float,
        dropout: float,
        overwrite: bool,
    ) -> Tensor:
        rows = as_rows(x)
        dropped, kept = drop(rows, dropout)
        products = a @ dropped.to(a.dtype).T
        widened, factor = _weigh(products, weights, b, scaling)
        if weight is not None:
            output = like_rows_of(project_plus(rows, weight.T, widened.T, b.T, factor, bias), x)
        elif overwrite:
            ctx.mark_dirty(base)
            add_product(base.view(-1, base.shape[-1]), widened.T, b.T, factor)
            output = base
        elif base.dtype == b.dtype:
            output = torch.addmm(base, widened.T, b.T, alpha=factor)
        else:
            output = base + factor * (widened.T @ b.T)
        ctx.save_for_backward(rows, kept, a, b, weights, products, weight)
        ctx.scaling, ctx.dropout, ctx.shape = scaling, dropout, x.shape
        ctx.base_dtype = None if base is None else base.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):
        rows, kept, a, b, weights, products, weight = ctx.saved_tensors
        need_base, need_x, need_a, need_b, need_weights = ctx.needs_input_grad[:5]
        with without_autocast(rows):
            dy = as_rows(gradient)
            low = dy.to(b.dtype)
            d_base = d_x = d_a = d_b = d_weights = None
            if need_base:
                d_base = gradient.to(ctx.base_dtype)
            if need_b:
                widened, factor = _weigh(products, weights, b, ctx.scaling)
                d_b = second_gradient(widened, low, factor)
            if need_x or need_a or need_weights:
                d_products, factor, d_weights = _unweigh(b.T @ low.T, products, weights, ctx.scaling, need_weights)
            if need_a:
                d_a = scaled_product(d_products, drop_again(rows, kept, ctx.dropout).to(a.dtype), factor)
            if need_x:
                if weight is not None and kept is None:
                    d_x = project_plus(dy, weight, d_products.T, a, factor)
                else:
                    d_x = scaled_product(d_products.T, a, factor).to(rows.dtype)
                    d_x = drop_again(d_x, kept, ctx.dropout)
                    if weight is not None:
                        d_x = d_x.addmm_(dy, weight.to(dy.dtype))
                d_x = d_x.view(ctx.shape)
        return d_base, d_x, d_a, d_b, d_weights, None, None, None, None, None


def _weigh(products: Tensor, weights: Tensor | None, b: Tensor, scaling: float) -> tuple[Tensor, float]:
    """Return what b multiplies, (E * R, T), and a factor still to be multiplied in."""
    if weights is None:
        return products, scaling
    # The scaling goes on the weights: the smallest tensor it can be multiplied into.
    by_expert = weights.T.contiguous() * scaling
    return widen(by_expert, products, b.shape[1] // by_expert.shape[0]).to(b.dtype), 1.0


def _unweigh(
    gradient: Tensor, products: Tensor, weights: Tensor | None, scaling: float, need_weights: bool
) -> tuple[Tensor, float, Tensor | None]:
    """Return the adjoint of `_weigh`: gradient of the products, a factor still to be multiplied in, d weights."""
    if weights is None:
        return gradient, scaling, None
    by_expert = weights.T.contiguous() * scaling
    experts = by_expert.shape[0]
    rank = gradient.shape[0] // experts
    grouped = gradient.view(experts, rank, gradient.shape[-1])
    d_weights = None
    if need_weights:
        each = (grouped * products.view(products.shape[0] // rank, rank, products.shape[-1])).sum(
            1, dtype=weights.dtype
        )
        d_weights = each.T * scaling
    d_products = grouped * by_expert.unsqueeze(1)
    shared = products.shape[0] != gradient.shape[0]
    d_products = d_products.sum(0) if shared else d_products.flatten(0, 1)
    return d_products.to(products.dtype), 1.0, d_weights
