"""MixLoRA's feed-forward blocks as one autograd function.

Expert e of a gated block is ``W2_e (act(W1_e x) * W3_e x)`` with ``W_e = W + s B_e A_e``; of a two-matrix
block it is ``W2_e act(W1_e x)``. A token's output is the weighted sum of its K experts. The frozen first projections
are shared; because W2 is linear, ``sum_k g_k (W2 h_k + b2 + s B2_k A2_k h_k)`` is
``W2 (sum_k g_k h_k) + b2 sum_k g_k + s sum_k g_k B2_k A2_k h_k``: the frozen products run once a token, forward and
backward, and only rank-R work is done once a (token, expert). The gradient of a weight is
dg_k = <W2^T dy + s A2_k^T B2_k^T dy, h_k> + <dy, b2>. The weights need not sum to 1.

Notation: T tokens (any leading axes), D width, F feed-forward width, R rank, E experts, K experts per token.
Source: MixLoRA, arXiv 2404.15159; the linear form and the backward pass are ours.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moelora.ops.activations import Elementwise, elementwise
from moelora.ops.blocks import Assignment, Frozen, LowRank, Settings
from moelora.ops.expert_rows import ExpertRows, RowGradients, mix_rows, unmix_rows
from moelora.ops.low_rank import add_product, drop, drop_again
from moelora.ops.mixed_experts import mix_experts, sum_inputs, weigh_last
from moelora.ops.precision import as_rows, cast_operands, without_autocast
from moelora.ops.shares import make_shares, weights_by_expert
from moelora.ops.triton import uses_kernels


def mixlora_gated(
    x: Tensor,
    gate: Frozen,
    up: Frozen,
    down: Frozen,
    factors: tuple[LowRank, LowRank, LowRank],
    assignment: Assignment,
    settings: Settings,
) -> Tensor:
    """Compute a gated block of MixLoRA.

    Args:
        x: Tokens, (..., D).
        gate: Frozen gate projection, F x D. Where one of the three is a callable, the function covers what is
            between the frozen layers, and they are called as they are; ``settings.chunk`` is not used then.
        up: Frozen up projection, F x D.
        down: Frozen down projection, D x F.
        factors: The experts' factors on gate, up and down.
        assignment: Experts of each token and their weights; -1 with weight 0 for unused slots.
        settings: Activation, scaling, dropout, chunk.

    Returns:
        (..., D).
    """
    return _block(x, [gate, up], down, factors, assignment, settings)


def mixlora_two_matrix(
    x: Tensor,
    inner: Frozen,
    outer: Frozen,
    factors: tuple[LowRank, LowRank],
    assignment: Assignment,
    settings: Settings,
) -> Tensor:
    """Compute a two-matrix block (BERT) of MixLoRA; arguments as in `mixlora_gated`."""
    return _block(x, [inner], outer, factors, assignment, settings)


def _block(
    x: Tensor,
    firsts: list[Frozen],
    last: Frozen,
    factors: tuple[LowRank, ...],
    assignment: Assignment,
    settings: Settings,
) -> Tensor:
    if any(one.module is not None for one in (*firsts, last)):
        outputs = [one(x) for one in firsts]
        mixed, products = mix_experts(outputs, x, factors[:-1], factors[-1].a, assignment, settings)
        base = last(mixed)
        output = base + functional.linear((products * settings.scaling).to(factors[-1].b.dtype), factors[-1].b)
        if last.bias is not None:
            output = output + (assignment.weights.sum(1, keepdim=True) - 1) * last.bias
        return output.to(base.dtype).view(*x.shape[:-1], output.shape[-1])
    rank = factors[-1].a.shape[0] // assignment.experts
    if uses_kernels(x, settings.activation, rank, *(matrix for pair in factors for matrix in pair)):
        from moelora.ops.triton.function import block_by_kernels

        return block_by_kernels(x, firsts, last, factors, assignment, settings)
    rows, *flat = cast_operands(as_rows(x), *(matrix for pair in factors for matrix in pair))
    frozen = [tensor for one in (*firsts, last) for tensor in (one.weight, one.bias)]
    with without_autocast(rows):
        output = _Block.apply(
            elementwise(settings.activation), settings, assignment.experts, rows, assignment.chosen, assignment.weights,
            *frozen, *flat,
        )  # fmt: skip
    return output.view(*x.shape[:-1], output.shape[-1])


class _Block(torch.autograd.Function):
    """See `mixlora_gated`. Kept for the backward pass: x, the frozen first projections and the rank-R products."""

    @staticmethod
    def forward(
        ctx: Any,
        activation: Elementwise,
        settings: Settings,
        experts: int,
        x: Tensor,
        chosen: Tensor,
        weights: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        layers = len(tensors) // 4  # per frozen layer its weight, bias, a and b
        frozen, bias = tensors[: 2 * layers : 2], tensors[1 : 2 * layers : 2]
        first, second = tensors[2 * layers :: 2], tensors[2 * layers + 1 :: 2]
        output = x.new_empty(x.shape[0], frozen[-1].shape[0])
        kept_tensors, layout = [], []
        for part in _chunks(x.shape[0], settings.chunk):
            own = x[part]
            dropped, kept = drop(own, settings.dropout)
            dropped = dropped.to(first[0].dtype)
            lows = [(a @ dropped.T).mul_(settings.scaling) for a in first[:-1]]
            projections = [_apply(own, w, b) for w, b in zip(frozen[:-1], bias[:-1], strict=True)]
            rows = ExpertRows(projections, lows, second[:-1], first[-1], activation, settings.dropout)
            rank, width = first[-1].shape[0] // experts, first[-1].shape[1]
            shares = make_shares(chosen[part], weights[part], experts, rank, settings.grouped, width)
            mixed, last, masks = mix_rows(rows, shares)
            by_expert = weights_by_expert(chosen[part], weights[part], experts)
            result = torch.mm(mixed.to(own.dtype), frozen[-1].to(own.dtype).T, out=output[part])
            add_product(result, weigh_last(last, by_expert).T, second[-1].T, settings.scaling)
            if bias[-1] is not None:
                result.addr_(by_expert.sum(0).to(own.dtype), bias[-1].to(own.dtype))
            kept_tensors += [kept, last, *projections, *lows, *masks]
            layout.append(2 + 2 * len(lows) + len(masks))
        ctx.save_for_backward(x, chosen, weights, *tensors, *kept_tensors)
        ctx.layers, ctx.layout = layers, layout
        ctx.activation, ctx.settings, ctx.experts = activation, settings, experts
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):
        x, chosen, weights, *others = ctx.saved_tensors
        layers, settings, experts = ctx.layers, ctx.settings, ctx.experts
        tensors, others = others[: 4 * layers], others[4 * layers :]
        frozen, bias = tensors[: 2 * layers : 2], tensors[1 : 2 * layers : 2]
        first, second = tensors[2 * layers :: 2], tensors[2 * layers + 1 :: 2]
        need_x = ctx.needs_input_grad[3]
        with without_autocast(x):
            dy = as_rows(gradient)
            d_x = torch.empty_like(x) if need_x else None
            d_weights = torch.empty_like(weights)
            d_first = [torch.zeros_like(one) for one in first]
            d_second = [torch.zeros_like(one.T, memory_format=torch.contiguous_format) for one in second]
            for part, size in zip(_chunks(x.shape[0], settings.chunk), ctx.layout, strict=True):
                (kept, last, *saved), others = others[:size], others[size:]
                projections, lows, masks = (
                    saved[: layers - 1],
                    saved[layers - 1 : 2 * layers - 2],
                    saved[2 * layers - 2 :],
                )
                own, own_dy = x[part], dy[part]
                low_dy = own_dy.to(second[-1].dtype)
                rows = ExpertRows(projections, lows, second[:-1], first[-1], ctx.activation, settings.dropout)
                rank, width = first[-1].shape[0] // experts, first[-1].shape[1]
                shares = make_shares(chosen[part], weights[part], experts, rank, settings.grouped, width)
                own_weights = weights.new_zeros(weights[part].numel())
                gradients = RowGradients(
                    [torch.zeros_like(one) for one in projections], [torch.zeros_like(one) for one in lows],
                    d_second[:-1], d_first[-1], own_weights,
                )  # fmt: skip
                d_mixed = own_dy @ frozen[-1].to(own_dy.dtype)
                d_products = (second[-1].T @ low_dy.T).mul_(settings.scaling)
                unmix_rows(rows, shares, masks, d_mixed, d_products, gradients)
                by_expert = weights_by_expert(chosen[part], weights[part], experts)
                d_second[-1].addmm_(weigh_last(last, by_expert), low_dy, alpha=settings.scaling)
                d_weights[part] = own_weights.view(-1, weights.shape[1])
                if bias[-1] is not None:
                    d_weights[part] += (own_dy @ bias[-1].to(own_dy.dtype)).unsqueeze(1)
                dropped = drop_again(own, kept, settings.dropout).to(first[0].dtype)
                for place, d_low in enumerate(gradients.lows):
                    d_first[place].addmm_(d_low, dropped, alpha=settings.scaling)
                if need_x:
                    through = torch.mm(gradients.firsts[0].to(own.dtype), frozen[0].to(own.dtype), out=d_x[part])
                    for d_projection, weight in zip(gradients.firsts[1:], frozen[1:-1], strict=True):
                        through.addmm_(d_projection.to(own.dtype), weight.to(own.dtype))
                    sum_inputs(gradients.lows, first[:-1], kept, settings, through)
            d_weights = d_weights.masked_fill_(chosen < 0, 0)
        d_factors = [one for a, b in zip(d_first, d_second, strict=True) for one in (a, b.T)]
        return None, None, None, d_x, None, d_weights, *[None] * (2 * layers), *d_factors


def _apply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))


def _chunks(tokens: int, size: int | None) -> list[slice]:
    size = size or max(tokens, 1)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
