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

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moelora.ops.activations import Activation, Elementwise, elementwise
from moelora.ops.expert_rows import ExpertRows, RowGradients, mix_rows, unmix_rows
from moelora.ops.feed_forward import Assignment, LowRank
from moelora.ops.low_rank import add_product, drop, drop_again, widen
from moelora.ops.precision import as_rows, cast_operands, without_autocast
from moelora.ops.shares import make_shares, weights_by_expert


class Frozen(NamedTuple):
    """A frozen linear layer: its dense weight (O, D), or the layer as a callable; and its bias (O,) in both cases.

    A callable takes rows (T, N) of the dtype the experts work in, and casts them where it must.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    module: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layer with its bias."""
        return functional.linear(x, self.weight, self.bias) if self.module is None else self.module(x)


class Settings(NamedTuple):
    """What an expert block is computed with besides its tensors.

    Attributes:
        activation: The elementwise function.
        scaling: alpha / R.
        dropout: Probability of dropping an element of the increments' inputs; 0 outside training. As in any LoRA it
            touches only the low-rank paths: x (one mask for all experts and for gate and up), and each h.
        chunk: Tokens worked on at a time, which bounds the working memory; None for all.
        grouped: Rows grouped by expert (True) or masked with static shapes (False); None: grouped on a CPU.
    """

    activation: Activation
    scaling: float
    dropout: float = 0.0
    chunk: int | None = None
    grouped: bool | None = None


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


def mixlora_reference(
    x: Tensor,
    frozen: tuple[Frozen, ...],
    factors: tuple[LowRank, ...],
    weights: Tensor,
    activation: Activation,
    scaling: float,
) -> Tensor:
    """Compute a whole block (three frozen layers: gated; two: two-matrix) from full expert weights, one at a time.

    Args:
        x: Tokens, (T, D).
        frozen: Dense frozen layers in order.
        factors: The experts' factors on each.
        weights: Router weights in dense form, (T, E).
        activation: Elementwise function.
        scaling: alpha / R.
    """
    output = torch.zeros_like(x)
    experts = weights.shape[-1]
    for expert in range(experts):
        layers = []
        for layer, pair in zip(frozen, factors, strict=True):
            rows = slice(expert * len(pair.a) // experts, (expert + 1) * len(pair.a) // experts)
            layers.append(Frozen(layer.weight + scaling * pair.b[:, rows] @ pair.a[rows], layer.bias))
        hidden = activation(layers[0](x))
        if len(layers) == 3:
            hidden = hidden * layers[1](x)
        output = output + weights[:, expert : expert + 1] * layers[-1](hidden)
    return output


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
        settings: Activation, scaling, dropout; ``chunk`` is not used.

    Returns:
        Mixed hidden rows, (T, F), and weighted rank-R products, (T, E * R).
    """
    x, last_a, *flat = cast_operands(as_rows(x), last_a, *(matrix for pair in factors for matrix in pair))
    with without_autocast(x):
        return _Experts.apply(
            elementwise(settings.activation), settings, assignment.experts, x, assignment.chosen, assignment.weights,
            *(as_rows(one) for one in firsts), *flat, last_a,
        )  # fmt: skip


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
        return output.to(base.dtype).view(*x.shape[:-1], -1)
    rows, *flat = cast_operands(as_rows(x), *(matrix for pair in factors for matrix in pair))
    frozen = [tensor for one in (*firsts, last) for tensor in (one.weight, one.bias)]
    with without_autocast(rows):
        output = _Block.apply(
            elementwise(settings.activation), settings, assignment.experts, rows, assignment.chosen, assignment.weights,
            *frozen, *flat,
        )  # fmt: skip
    return output.view(*x.shape[:-1], -1)


def _weigh_last(last: Tensor, by_expert: Tensor) -> Tensor:
    """Multiply the last rank-R products (E * R, T) by the weights (E, T), in the products' dtype."""
    return widen(by_expert.to(last.dtype), last, last.shape[0] // by_expert.shape[0])


def _zeros_for(rows: ExpertRows, d_weights: Tensor) -> RowGradients:
    return RowGradients(
        [torch.zeros_like(one) for one in rows.firsts],
        [torch.zeros_like(one) for one in rows.lows],
        [torch.zeros_like(one.T, memory_format=torch.contiguous_format) for one in rows.seconds],
        torch.zeros_like(rows.last_a),
        d_weights,
    )


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
        shares = make_shares(chosen, weights, experts, last_a.shape[0] // experts, settings.grouped)
        mixed, last, masks = mix_rows(rows, shares)
        ctx.save_for_backward(x, kept, chosen, weights, last_a, *firsts, *lows, *firsts_a, *seconds, *masks)
        ctx.count, ctx.activation, ctx.settings, ctx.experts = count, activation, settings, experts
        return mixed, _weigh_last(last, weights_by_expert(chosen, weights, experts)).T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed: Tensor, d_products: Tensor):
        x, kept, chosen, weights, last_a, *others = ctx.saved_tensors
        count, settings = ctx.count, ctx.settings
        firsts, lows, firsts_a, seconds = (others[place * count : (place + 1) * count] for place in range(4))
        masks = others[4 * count :]
        with without_autocast(x):
            rows = ExpertRows(firsts, lows, seconds, last_a, ctx.activation, settings.dropout)
            shares = make_shares(chosen, weights, ctx.experts, last_a.shape[0] // ctx.experts, settings.grouped)
            gradients = _zeros_for(rows, weights.new_zeros(weights.numel()))
            unmix_rows(rows, shares, masks, as_rows(d_mixed), d_products.T, gradients)
            d_weights = gradients.weights.view(weights.shape).masked_fill_(chosen < 0, 0)
            d_x = _sum_inputs(gradients.lows, firsts_a, kept, settings, None).to(x.dtype)
            dropped = drop_again(x, kept, settings.dropout).to(last_a.dtype)
            d_factors = []
            for d_low, d_second in zip(gradients.lows, gradients.seconds, strict=True):
                d_factors += [(d_low @ dropped).mul_(settings.scaling), d_second.T]
        return None, None, None, d_x, None, d_weights, *gradients.firsts, *d_factors, gradients.last_a


def _sum_inputs(
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
            shares = make_shares(chosen[part], weights[part], experts, first[0].shape[0] // experts, settings.grouped)
            mixed, last, masks = mix_rows(rows, shares)
            by_expert = weights_by_expert(chosen[part], weights[part], experts)
            result = torch.mm(mixed.to(own.dtype), frozen[-1].to(own.dtype).T, out=output[part])
            add_product(result, _weigh_last(last, by_expert).T, second[-1].T, settings.scaling)
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
                shares = make_shares(chosen[part], weights[part], experts, last.shape[0] // experts, settings.grouped)
                own_weights = weights.new_zeros(weights[part].numel())
                gradients = RowGradients(
                    [torch.zeros_like(one) for one in projections], [torch.zeros_like(one) for one in lows],
                    d_second[:-1], d_first[-1], own_weights,
                )  # fmt: skip
                d_mixed = own_dy @ frozen[-1].to(own_dy.dtype)
                d_products = (second[-1].T @ low_dy.T).mul_(settings.scaling)
                unmix_rows(rows, shares, masks, d_mixed, d_products, gradients)
                by_expert = weights_by_expert(chosen[part], weights[part], experts)
                d_second[-1].addmm_(_weigh_last(last, by_expert), low_dy, alpha=settings.scaling)
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
                    _sum_inputs(gradients.lows, first[:-1], kept, settings, through)
            d_weights = d_weights.masked_fill_(chosen < 0, 0)
        d_factors = [one for a, b in zip(d_first, d_second, strict=True) for one in (a, b.T)]
        return None, None, None, d_x, None, d_weights, *[None] * (2 * layers), *d_factors


def _apply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))


def _chunks(tokens: int, size: int | None) -> list[slice]:
    size = size or max(tokens, 1)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
