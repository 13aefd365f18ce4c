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
from moelora.ops.chunks import choose_chunks, spans
from moelora.ops.expert_rows import ExpertRows, RowGradients, mix_in_chunks, unmix_in_chunks
from moelora.ops.low_rank import add_product, drop, drop_again
from moelora.ops.mixed_experts import mix_experts, sum_inputs, weigh_last
from moelora.ops.precision import as_rows, cast_operands, without_autocast
from moelora.ops.shares import weights_by_expert
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
    keeps = torch.is_grad_enabled() and any(one.requires_grad for one in (rows, assignment.weights, *flat))
    with without_autocast(rows):
        output = _Block.apply(
            elementwise(settings.activation), settings, assignment.experts, keeps, rows, assignment.chosen,
            assignment.weights, *frozen, *flat,
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
        keeps: bool,
        x: Tensor,
        chosen: Tensor,
        weights: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        layers = len(tensors) // 4  # per frozen layer its weight, bias, a and b
        frozen, bias = tensors[: 2 * layers : 2], tensors[1 : 2 * layers : 2]
        first, second = tensors[2 * layers :: 2], tensors[2 * layers + 1 :: 2]
        # A pass that is recomputed with a gradient must draw the same random numbers, so it has the same chunks.
        chunks = choose_chunks(settings.chunk, x.device.type == "cpu", keeps or settings.dropout > 0)
        assignment = Assignment(chosen, weights, experts)
        dropped, kept = drop(x, settings.dropout)
        lows = _low_products(dropped, first[:-1], settings.scaling)
        del dropped
        last = lows[0].new_zeros(first[-1].shape[0], x.shape[0])
        output = x.new_empty(x.shape[0], frozen[-1].shape[0])
        # Kept projections are there for all tokens in any case.
        for block in spans(x.shape[0], x.shape[0] if keeps else chunks.products):
            projections = [_apply(x[block], w, b) for w, b in zip(frozen[:-1], bias[:-1], strict=True)]
            rows = ExpertRows(
                projections, [low[:, block] for low in lows], second[:-1], first[-1], activation, settings.dropout
            )
            mixed, masks = mix_in_chunks(rows, assignment.part(block), settings, chunks.rows, last[:, block], keeps)
            del rows
            torch.mm(mixed.to(x.dtype), frozen[-1].to(x.dtype).T, out=output[block])
            del mixed
            if not keeps:
                del projections
        by_expert = weights_by_expert(chosen, weights, experts)
        output = add_product(output, weigh_last(last, by_expert).T, second[-1].T, settings.scaling)
        if bias[-1] is not None:
            output.addr_(by_expert.sum(0).to(x.dtype), bias[-1].to(x.dtype))
        if keeps:
            ctx.save_for_backward(x, kept, chosen, weights, *tensors, last, *projections, *lows, *masks)
            ctx.layers, ctx.chunks = layers, chunks
            ctx.activation, ctx.settings, ctx.experts = activation, settings, experts
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):
        x, kept, chosen, weights, *others = ctx.saved_tensors
        layers, settings = ctx.layers, ctx.settings
        tensors, last, others = others[: 4 * layers], others[4 * layers], others[4 * layers + 1 :]
        frozen, bias = tensors[: 2 * layers : 2], tensors[1 : 2 * layers : 2]
        first, second = tensors[2 * layers :: 2], tensors[2 * layers + 1 :: 2]
        projections, lows = others[: layers - 1], others[layers - 1 : 2 * layers - 2]
        masks = iter(others[2 * layers - 2 :])
        need_x = ctx.needs_input_grad[4]
        with without_autocast(x):
            dy = as_rows(gradient)
            rows = ExpertRows(projections, lows, second[:-1], first[-1], ctx.activation, settings.dropout)
            assignment = Assignment(chosen, weights, ctx.experts)
            d_x = None
            d_weights = weights.new_empty(weights.shape)
            d_first = [torch.zeros_like(one) for one in first]
            d_second = [torch.zeros_like(one.T, memory_format=torch.contiguous_format) for one in second]
            by_expert = weights_by_expert(chosen, weights, ctx.experts)
            low_dy = dy.to(second[-1].dtype)
            d_second[-1].addmm_(weigh_last(last, by_expert), low_dy, alpha=settings.scaling)
            d_products = (second[-1].T @ low_dy.T).mul_(settings.scaling)
            del low_dy
            d_lows = [torch.zeros_like(one) for one in lows]
            for block in spans(x.shape[0], ctx.chunks.products):
                # The gradient of the first projection takes the place of that of the mixed rows, chunk by chunk.
                d_mixed = dy[block] @ frozen[-1].to(dy.dtype)
                d_projections = [d_mixed, *(torch.zeros_like(one[block]) for one in projections[1:])]
                gradients = RowGradients(
                    d_projections, [low[:, block] for low in d_lows], d_second[:-1], d_first[-1],
                    d_weights[block].view(-1),
                )  # fmt: skip
                unmix_in_chunks(
                    rows.part(block), assignment.part(block), settings, ctx.chunks.rows, masks, d_mixed,
                    d_products[:, block], gradients,
                )  # fmt: skip
                if need_x:
                    d_x = torch.empty_like(x) if d_x is None else d_x
                    _sum_products(d_projections, frozen[:-1], d_x[block])
                del d_mixed, d_projections, gradients  # or they would be there beside those of the next block
            if need_x:
                d_x = sum_inputs(d_lows, first[:-1], kept, settings, d_x)
            dropped = drop_again(x, kept, settings.dropout).to(first[0].dtype)
            for place, d_low in enumerate(d_lows):
                d_first[place].addmm_(d_low, dropped, alpha=settings.scaling)
            if bias[-1] is not None:
                d_weights += (dy @ bias[-1].to(dy.dtype)).unsqueeze(1)
            d_weights.masked_fill_(chosen < 0, 0)
        d_factors = [one for a, b in zip(d_first, d_second, strict=True) for one in (a, b.T)]
        return None, None, None, None, d_x, None, d_weights, *[None] * (2 * layers), *d_factors


def _low_products(rows: Tensor, factors: list[Tensor], scaling: float) -> list[Tensor]:
    """Return each first factor (E * R, D) times the rows (T, D), scaled, (E * R, T)."""
    rows = rows.to(factors[0].dtype)
    return [(a @ rows.T).mul_(scaling) for a in factors]


def _apply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))


def _sum_products(gradients: list[Tensor], weights: list[Tensor], out: Tensor) -> Tensor:
    """Write the sum of each gradient (T, F) times its weight (F, D) to ``out``, (T, D), and return it."""
    torch.mm(gradients[0].to(out.dtype), weights[0].to(out.dtype), out=out)
    for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
        out.addmm_(gradient.to(out.dtype), weight.to(out.dtype))
    return out
