"""MixLoRA's blocks as autograd functions around the kernels; drop-in forms of `moelora.ops.mixlora`.

The rank-R products with x, and everything of the frozen layers, are ordinary matrix products; the kernels do what is
between. Kept for the backward pass: x, the frozen first projections, the rank-R products, and masks of dropout.

Notation: T tokens, D width, F feed-forward width, R rank, E experts, K slots, L first layers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moelora.ops.blocks import Assignment, Frozen, LowRank, Settings
from moelora.ops.low_rank import add_product, drop, drop_again
from moelora.ops.precision import as_rows, cast_operands, without_autocast
from moelora.ops.triton.covered import kernel_name
from moelora.ops.triton.groups import Groups, group_tokens, spread
from moelora.ops.triton.launch import InputGradients, Inputs, mix, unmix


@torch.compiler.disable  # launches are not traced: one break of the graph a block
def mix_experts_by_kernels(
    firsts: list[Tensor],
    x: Tensor,
    factors: tuple[LowRank, ...],
    last_a: Tensor,
    assignment: Assignment,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Compute `moelora.ops.mix_experts`; mixed hidden rows come in the dtype of the frozen projections."""
    x, last_a, *flat = cast_operands(as_rows(x), last_a, *(matrix for pair in factors for matrix in pair))
    with without_autocast(x):
        return _Between.apply(
            settings, assignment.experts, x, assignment.chosen, assignment.weights,
            *(as_rows(one) for one in firsts), *flat, last_a,
        )  # fmt: skip


@torch.compiler.disable
def block_by_kernels(
    x: Tensor,
    firsts: list[Frozen],
    last: Frozen,
    factors: tuple[LowRank, ...],
    assignment: Assignment,
    settings: Settings,
) -> Tensor:
    """Compute a block whose frozen layers are dense weights; ``settings.chunk`` and ``grouped`` are not used."""
    rows, *flat = cast_operands(as_rows(x), *(matrix for pair in factors for matrix in pair))
    frozen = [tensor for one in (*firsts, last) for tensor in (one.weight, one.bias)]
    with without_autocast(rows):
        output = _Block.apply(settings, assignment.experts, rows, assignment.chosen, assignment.weights, *frozen, *flat)
    return output.view(*x.shape[:-1], output.shape[-1])


def _mix(
    ctx: Any,
    settings: Settings,
    experts: int,
    x: Tensor,
    chosen: Tensor,
    weights: Tensor,
    firsts: list[Tensor],
    firsts_a: list[Tensor],
    seconds: list[Tensor],
    last_a: Tensor,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return mixed hidden rows (T, F), weighted last products (T, E * R), and what `_unmix` needs besides ``ctx``."""
    groups = group_tokens(chosen, weights, experts)
    a = torch.cat([one.to(last_a.dtype) for one in firsts_a])
    dropped, dropped_x = drop(x, settings.dropout)
    low = (dropped.to(a.dtype) @ a.T).mul_(settings.scaling)
    kept = None
    if settings.dropout:
        kept = torch.empty(*chosen.shape, last_a.shape[1], dtype=torch.bool, device=x.device)
        kept.bernoulli_(1 - settings.dropout)
    ctx.settings, ctx.experts, ctx.count = settings, experts, len(firsts)
    ctx.weights_dtype = weights.dtype
    inputs = _inputs(ctx, firsts, low, seconds, last_a, kept)
    mixed, by_slot = mix(inputs, groups, experts)
    products = spread(by_slot * groups.weights.unsqueeze(-1), groups.chosen, experts).flatten(1).to(last_a.dtype)
    return mixed, products, [x, dropped_x, a, *groups, low, inputs.last_a, kept, *firsts, *inputs.seconds]


def _unmix(
    ctx: Any,
    saved: list[Tensor | None],
    d_mixed: Tensor,
    d_products: Tensor,
    need_x: bool,
    d_every_weight: Tensor | None = None,
) -> tuple[Tensor | None, InputGradients, list[Tensor], list[Tensor]]:
    """Return d x through the increments, the kernels' gradients, and d a and d b of the first layers.

    ``d_every_weight``, (T, 1), is what the frozen bias adds to the gradient of each of a token's weights.
    """
    x, dropped_x, a, *saved = saved
    groups, (low, last_a, kept, *others) = Groups(*saved[:4]), saved[4:]
    inputs = _inputs(ctx, others[: ctx.count], low, others[ctx.count :], last_a, kept)
    gradients = unmix(inputs, groups, ctx.experts, d_mixed.contiguous(), d_products.contiguous())
    d_low = gradients.low.mul_(ctx.settings.scaling).to(a.dtype)
    d_a = (d_low.T @ drop_again(x, dropped_x, ctx.settings.dropout).to(a.dtype)).chunk(ctx.count)
    d_b = [one.T.to(b.dtype) for one, b in zip(gradients.seconds, inputs.seconds, strict=True)]
    d_x = drop_again(d_low @ a, dropped_x, ctx.settings.dropout) if need_x else None
    d_weights = gradients.weights if d_every_weight is None else gradients.weights + d_every_weight
    d_weights = groups.unsort(d_weights.masked_fill(groups.chosen < 0, 0)).to(ctx.weights_dtype)
    gradients = gradients._replace(last_a=gradients.last_a.to(last_a.dtype), weights=d_weights)
    return d_x, gradients, list(d_a), d_b


def _inputs(
    ctx: Any, firsts: list[Tensor], low: Tensor, seconds: list[Tensor], last_a: Tensor, kept: Tensor | None
) -> Inputs:
    keep_scale = 1 / (1 - ctx.settings.dropout)
    seconds = [one.contiguous() for one in seconds]
    name = kernel_name(ctx.settings.activation)
    return Inputs(list(firsts), low, seconds, last_a.contiguous(), name, kept, keep_scale)


class _Between(torch.autograd.Function):
    """See `mix_experts_by_kernels`."""

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, experts: int, x: Tensor, chosen: Tensor, weights: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        count = len(tensors) // 3  # per first projection its output, a and b; and last_a
        firsts, firsts_a, seconds = tensors[:count], tensors[count:-1:2], tensors[count + 1 : -1 : 2]
        mixed, products, saved = _mix(
            ctx, settings, experts, x, chosen, weights, firsts, firsts_a, seconds, tensors[-1]
        )
        ctx.save_for_backward(*saved)
        return mixed, products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed: Tensor, d_products: Tensor):
        saved = ctx.saved_tensors
        with without_autocast(d_mixed):
            d_x, gradients, d_a, d_b = _unmix(ctx, saved, d_mixed, d_products, ctx.needs_input_grad[2])
            d_x = None if d_x is None else d_x.to(saved[0].dtype)
        d_factors = [one for pair in zip(d_a, d_b, strict=True) for one in pair]
        return None, None, d_x, None, gradients.weights, *gradients.firsts, *d_factors, gradients.last_a


class _Block(torch.autograd.Function):
    """See `block_by_kernels`."""

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, experts: int, x: Tensor, chosen: Tensor, weights: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        layers = len(tensors) // 4  # per frozen layer its weight and bias; then per layer a and b
        frozen, bias = tensors[: 2 * layers : 2], tensors[1 : 2 * layers : 2]
        first, second = tensors[2 * layers :: 2], tensors[2 * layers + 1 :: 2]
        firsts = [
            functional.linear(x, w.to(x.dtype), None if b is None else b.to(x.dtype))
            for w, b in zip(frozen[:-1], bias[:-1], strict=True)
        ]
        mixed, products, saved = _mix(
            ctx, settings, experts, x, chosen, weights, firsts, first[:-1], second[:-1], first[-1]
        )
        output = add_product(mixed @ frozen[-1].to(x.dtype).T, products, second[-1].T, settings.scaling)
        if bias[-1] is not None:
            total = weights.masked_fill(chosen < 0, 0).sum(1)
            output.addr_(total.to(x.dtype), bias[-1].to(x.dtype))
        ctx.save_for_backward(*frozen, bias[-1], second[-1], products, *saved)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor):
        layers, need_x = ctx.count + 1, ctx.needs_input_grad[2]
        saved = ctx.saved_tensors  # once: checkpointing computes them when they are asked for
        frozen, (bias, last_b, products, *saved) = saved[:layers], saved[layers:]
        with without_autocast(dy):
            dy = as_rows(dy)
            low_dy = dy.to(last_b.dtype)
            d_products = (low_dy @ last_b).mul_(ctx.settings.scaling)
            d_last_b = (products.T @ low_dy).T * ctx.settings.scaling
            d_mixed = dy @ frozen[-1].to(dy.dtype)
            d_bias = None if bias is None else (dy @ bias.to(dy.dtype)).unsqueeze(1)
            d_x, gradients, d_a, d_b = _unmix(ctx, saved, d_mixed, d_products, need_x, d_bias)
            if need_x:
                through = gradients.firsts[0] @ frozen[0].to(dy.dtype)
                for d_first, weight in zip(gradients.firsts[1:], frozen[1:-1], strict=True):
                    through.addmm_(d_first, weight.to(dy.dtype))
                d_x = through.add_(d_x)
        d_factors = [one for pair in zip(d_a, d_b, strict=True) for one in pair]
        return None, None, d_x, None, gradients.weights, *[None] * (2 * layers), *d_factors, gradients.last_a, d_last_b
