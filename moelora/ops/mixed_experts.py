"""The part of a MixLoRA block between its frozen layers as one autograd function.

Notation: T tokens (any leading axes), D width, F feed-forward width, R rank, E experts, K experts per token.
Source: MixLoRA, arXiv 2404.15159; the backward pass is ours.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moelora.ops.activations import Elementwise, elementwise
from moelora.ops.blocks import Assignment, LowRank, Settings
from moelora.ops.chunks import choose_chunks
from moelora.ops.expert_rows import ExpertRows, RowGradients, mix_in_chunks, unmix_in_chunks
from moelora.ops.low_rank import add_product, drop, drop_again, widen
from moelora.ops.precision import as_rows, cast_operands, without_autocast
from moelora.ops.shares import weights_by_expert
from moelora.ops.triton import uses_kernels


def mix_experts(
    firsts: list[Tensor],
    x: Tensor,
    factors: tuple[LowRank, ...],
    last_a: Tensor,
    assignment: Assignment,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Compute the part of a block between its frozen layers, given the output of the first ones.

    Whoever holds the last frozen layer finishes with ``last(mixed) + s * products @ b^T``, and, where the weights of a
    token do not sum to 1 and that layer has a bias, with ``(sum_k g_k - 1) * bias``.

    Args:
        firsts: Outputs of the frozen first projections, one or two (gate, up), each (..., F).
        x: Tokens, (..., D).
        factors: The experts' factors on the first projections.
        last_a: The experts' first factors on the last projection, (E * R, F).
        assignment: Experts of each token and their weights.
        settings: Activation, scaling, dropout, and the tokens whose rows are worked on at a time.

    Returns:
        Mixed hidden rows, (T, F), and weighted rank-R products, (T, E * R).
    """
    if uses_kernels(x, settings.activation, last_a.shape[0] // assignment.experts, *firsts, last_a):
        from moelora.ops.triton.function import mix_experts_by_kernels

        return mix_experts_by_kernels(firsts, x, factors, last_a, assignment, settings)
    x, last_a, *flat = cast_operands(as_rows(x), last_a, *(matrix for pair in factors for matrix in pair))
    with without_autocast(x):
        return _Experts.apply(
            elementwise(settings.activation), settings, assignment.experts, x, assignment.chosen, assignment.weights,
            *(as_rows(one) for one in firsts), *flat, last_a,
        )  # fmt: skip


def weigh_last(last: Tensor, by_expert: Tensor) -> Tensor:
    """Multiply the last rank-R products (E * R, T) by the weights (E, T), in the products' dtype."""
    return widen(by_expert.to(last.dtype), last, last.shape[0] // by_expert.shape[0])


def sum_inputs(
    d_lows: list[Tensor], firsts_a: list[Tensor], kept: Tensor | None, settings: Settings, frozen: Tensor | None
) -> Tensor:
    """Return the gradient of x through the increments, plus ``frozen``, the one through the frozen layers."""
    if kept is None and frozen is not None:
        total = frozen
        for d_low, a in zip(d_lows, firsts_a, strict=True):
            total = add_product(total, d_low.T, a, settings.scaling)
        return total
    total = d_lows[0].T @ firsts_a[0]
    for d_low, a in zip(d_lows[1:], firsts_a[1:], strict=True):
        total.addmm_(d_low.T, a)
    total = drop_again(total.mul_(settings.scaling), kept, settings.dropout)
    return total if frozen is None else frozen.add_(total)


class _Experts(torch.autograd.Function):
    """See `mix_experts`."""

    @staticmethod
    def forward(
        ctx: Any,
        activation: Elementwise,
        settings: Settings,
        experts: int,
        x: Tensor,
        chosen: Tensor,
        weights: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        count = len(tensors) // 3  # per first projection its output, a and b; and last_a
        last_a = tensors[-1]
        firsts = list(tensors[:count])
        firsts_a, seconds = tensors[count:-1:2], tensors[count + 1 : -1 : 2]
        dropped, kept = drop(x, settings.dropout)
        dropped = dropped.to(last_a.dtype)
        lows = [(a @ dropped.T).mul_(settings.scaling) for a in firsts_a]
        rows = ExpertRows(firsts, lows, seconds, last_a, activation, settings.dropout)
        ctx.chunk = choose_chunks(settings.chunk, x.device.type == "cpu").rows
        last = lows[0].new_zeros(last_a.shape[0], x.shape[0])
        assignment = Assignment(chosen, weights, experts)
        mixed, masks = mix_in_chunks(rows, assignment, settings, ctx.chunk, last, keeps=True)
        ctx.save_for_backward(x, kept, chosen, weights, last_a, *firsts, *lows, *firsts_a, *seconds, *masks)
        ctx.count, ctx.activation, ctx.settings, ctx.experts = count, activation, settings, experts
        return mixed, weigh_last(last, weights_by_expert(chosen, weights, experts)).T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed: Tensor, d_products: Tensor):
        x, kept, chosen, weights, last_a, *others = ctx.saved_tensors
        count, settings = ctx.count, ctx.settings
        firsts, lows, firsts_a, seconds = (others[place * count : (place + 1) * count] for place in range(4))
        masks = others[4 * count :]
        with without_autocast(x):
            rows = ExpertRows(firsts, lows, seconds, last_a, ctx.activation, settings.dropout)
            assignment = Assignment(chosen, weights, ctx.experts)
            gradients = RowGradients(
                [torch.zeros_like(one) for one in firsts], [torch.zeros_like(one) for one in lows],
                [torch.zeros_like(one.T, memory_format=torch.contiguous_format) for one in seconds],
                torch.zeros_like(last_a), weights.new_zeros(weights.numel()),
            )  # fmt: skip
            unmix_in_chunks(
                rows, assignment, settings, ctx.chunk, iter(masks), as_rows(d_mixed), d_products.T, gradients
            )
            d_weights = gradients.weights.view(weights.shape).masked_fill_(chosen < 0, 0)
            d_x = sum_inputs(gradients.lows, firsts_a, kept, settings, None).to(x.dtype)
            dropped = drop_again(x, kept, settings.dropout).to(last_a.dtype)
            d_factors = []
            for d_low, d_second in zip(gradients.lows, gradients.seconds, strict=True):
                d_factors += [(d_low @ dropped).mul_(settings.scaling), d_second.T]
        return None, None, None, d_x, None, d_weights, *gradients.firsts, *d_factors, gradients.last_a
