"""A routed mixture of LoRAs on a frozen linear layer, its router included, as one autograd function.

The rows of the router and of the first factors multiply the same input: without dropout one product gives the logits
and the rank-R products, one product their factors' gradients, and one the gradient of the input. Renormalised top-k
weights are the softmax over the chosen logits alone, so forward and backward of the routing are one softmax each over
(E, T) numbers: with g = 0 where an expert is not chosen, dz = g ∘ (dg − Σ g dg).

Notation: T tokens (any leading axes), D input width, O output width, R rank, E experts, K experts per token.
Source: ours.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moelora.ops.low_rank import (
    add_product,
    drop,
    drop_again,
    project_plus,
    scaled_product,
    second_gradient,
    widen,
)
from moelora.ops.precision import as_rows, autocasts, like_rows_of, without_autocast


class Routed(NamedTuple):
    """What a routed layer gives.

    Attributes:
        output: The layer's output, (..., O).
        logits: The router's, (E, T), for a balance loss.
        chosen: Experts of each token, most probable first, (K, T); None where all are used.
    """

    output: Tensor
    logits: Tensor
    chosen: Tensor | None


def takes_router(x: Tensor, a: Tensor, b: Tensor, router: Tensor) -> bool:
    """Say whether `routed_lora` computes what a router and `gated_wide_lora` would one after the other.

    Routing runs in the dtype of x and the router promoted, float32 at the least; the function has one dtype for
    routing and factors. Under autocast and torch.compile the two run apart.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, router.dtype), torch.float32)
    return a.dtype == b.dtype == router.dtype == dtype and not autocasts(x) and not torch.compiler.is_compiling()


def routed_lora(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    router: Tensor,
    scaling: float,
    per_token: int | None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    base: Tensor | None = None,
    dropout: float = 0.0,
) -> Routed:
    """Apply a frozen linear layer with a routed mixture of LoRAs; call it where it `takes_router`.

    Exactly one of ``weight`` and ``base`` is given, as in `moelora.ops.lora.lora_linear`. Softmax runs over all
    experts; with ``per_token`` the most probable are kept and divided by their sum.

    Args:
        x: Input, (..., D); the router reads it before dropout.
        a: First factors of all experts stacked, (E * R, D), or one shared by all experts, (R, D).
        b: Second factors side by side, (O, E * R).
        router: Router weight, (E, D).
        scaling: The factor s, alpha / R.
        per_token: K; None uses every expert.
        weight: Frozen weight, (O, D).
        bias: Frozen bias, (O,), only with ``weight``.
        base: Output of the frozen layer, (..., O).
        dropout: Probability of dropping an element of the increments' input, one mask for all experts.

    Raises:
        ValueError: Neither or both of ``weight`` and ``base`` are given.
    """
    if (weight is None) == (base is None):
        raise ValueError("routed_lora takes the frozen weight or the frozen layer's output: give exactly one")
    base = None if base is None else as_rows(base)
    with without_autocast(x):
        output, logits, chosen = _RoutedLinear.apply(base, x, a, b, router, weight, bias, scaling, per_token, dropout)
    return Routed(output if base is None else output.view(*x.shape[:-1], -1), logits, chosen)


def routed_lora_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    router: Tensor,
    scaling: float,
    per_token: int | None,
) -> Tensor:
    """Compute `routed_lora` token by token and expert by expert, from the definition; x is (T, D)."""
    experts = len(router)
    rank = b.shape[1] // experts
    outputs = []
    for row in x:
        probabilities = torch.softmax(router @ row, dim=0)
        used = torch.argsort(probabilities, descending=True).tolist()[: per_token or experts]
        total = sum(probabilities[expert] for expert in used) if per_token else 1.0
        output = functional.linear(row, weight, bias)
        for expert in used:
            part = slice(expert * rank, (expert + 1) * rank)
            first = a if len(a) == rank else a[part]
            output = output + scaling * probabilities[expert] / total * (b[:, part] @ (first @ row))
        outputs.append(output)
    return torch.stack(outputs)


class _RoutedLinear(torch.autograd.Function):
    """See `routed_lora`; kept for the backward pass: input, rank-R products, weights, dropout mask."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor | None,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        router: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        scaling: float,
        per_token: int | None,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        rows, experts = as_rows(x), len(router)
        dropped, kept = drop(rows, dropout)
        if kept is None:
            stacked = torch.cat([router, a]) @ rows.to(a.dtype).T
            logits, products = stacked[:experts], stacked[experts:]
        else:
            logits, products = router @ rows.to(router.dtype).T, a @ dropped.to(a.dtype).T
        del dropped
        chosen = None
        if per_token is None:
            weights = torch.softmax(logits, dim=0)
        else:
            values, chosen = logits.topk(min(per_token, experts), dim=0)
            weights = torch.zeros_like(logits).scatter_(0, chosen, torch.softmax(values, dim=0))
            ctx.mark_non_differentiable(chosen)
        widened = widen(weights, products, b.shape[1] // experts)
        if weight is not None:
            output = like_rows_of(project_plus(rows, weight.T, widened.T, b.T, scaling, bias), x)
        elif base.dtype == b.dtype:
            output = torch.addmm(base, widened.T, b.T, alpha=scaling)
        else:
            output = base + scaled_product(widened.T, b.T, scaling)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, kept, a, b, router, weights, products, weight)
        ctx.scaling, ctx.dropout, ctx.shape = scaling, dropout, x.shape
        ctx.base_dtype = None if base is None else base.dtype
        return output, logits, chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, d_logits: Tensor | None, _: None):
        rows, kept, a, b, router, weights, products, weight = ctx.saved_tensors
        need_base, need_x, need_a, need_b, need_router = ctx.needs_input_grad[:5]
        experts = len(router)
        rank = b.shape[1] // experts
        d_base = d_x = d_a = d_b = d_router = None
        with without_autocast(rows):
            dy = None if gradient is None else as_rows(gradient)
            # The gradients of the logits and of the rank-R products lie as the two do in the forward product.
            shape = experts + len(a), len(rows)
            stacked = b.new_zeros(shape) if dy is None else b.new_empty(shape)
            of_logits, of_products = stacked[:experts], stacked[experts:]
            if dy is not None:
                low = dy.to(b.dtype)
                if need_base:
                    d_base = gradient.to(ctx.base_dtype)
                if need_b:
                    d_b = second_gradient(widen(weights, products, rank), low, ctx.scaling)
                d_widened = scaled_product(b.T, low.T, ctx.scaling).view(experts, rank, -1)
                d_weights = (d_widened * products.view(len(a) // rank, rank, len(rows))).sum(1)
                of_logits.copy_(torch._softmax_backward_data(d_weights, weights, 0, weights.dtype))
                if len(a) == len(d_widened) * rank:
                    torch.mul(d_widened, weights.unsqueeze(1), out=of_products.view(d_widened.shape))
                else:
                    torch.sum(d_widened * weights.unsqueeze(1), 0, out=of_products)
            if d_logits is not None:
                of_logits += d_logits
            if kept is None:
                if need_a or need_router:
                    d_both = stacked @ rows.to(a.dtype)
                    d_router, d_a = d_both[:experts], d_both[experts:]
            else:
                d_router = of_logits @ rows.to(a.dtype) if need_router else None
                d_a = of_products @ drop_again(rows, kept, ctx.dropout).to(a.dtype) if need_a else None
            if need_x:
                if kept is not None:
                    d_x = drop_again((of_products.T @ a).to(rows.dtype), kept, ctx.dropout)
                    d_x = add_product(d_x, of_logits.T, router)
                    if weight is not None and dy is not None:
                        d_x = d_x.addmm_(dy, weight.to(dy.dtype))
                elif weight is not None and dy is not None:
                    d_x = project_plus(dy, weight, stacked.T, torch.cat([router, a]))
                else:
                    d_x = (stacked.T @ torch.cat([router, a])).to(rows.dtype)
                d_x = d_x.view(ctx.shape)
        return d_base, d_x, d_a, d_b, d_router, None, None, None, None, None
