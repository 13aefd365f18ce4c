"""A whole MixDoRA block without dropout as one autograd function.

Notation: T tokens, N rows of a share, D width, F feed-forward width, R rank, E experts, K slots.
Source: MixLoRA, arXiv 2404.15159, and DoRA, arXiv 2402.09353; the forms are ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moelora.ops.activations import Elementwise
from moelora.ops.blocks import Settings
from moelora.ops.dora_norm import project_with, row_norms
from moelora.ops.low_rank import add_product
from moelora.ops.precision import without_autocast
from moelora.ops.shares import Share, make_shares

# Shares go through the frozen down projection together: over few rows such a product is slow.
ROWS_AT_ONCE = 1024


class _Layer(NamedTuple):
    """One frozen layer with its experts: m / n in ``scale`` and n in ``norms``, both (E, O)."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: Tensor
    norms: Tensor

    def finish(self, unscaled: Tensor, share: Share) -> Tensor:
        """Return unscaled rows (N, O) rescaled for their experts, plus the bias."""
        scale = share.pick(self.scale)
        rows = unscaled * scale if self.bias is None else torch.addcmul(self.bias.to(scale.dtype), unscaled, scale)
        return rows.to(unscaled.dtype)


def _inner(
    firsts: list[Tensor], lows: list[Tensor], layers: list[_Layer], share: Share
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the unscaled first projections of a share's rows and what they become, each (N, F)."""
    unscaled = [
        share.take_plus(first, share.take_low(low), layer.b.T[share.columns])
        for first, low, layer in zip(firsts, lows, layers[:-1], strict=True)
    ]
    return unscaled, [layer.finish(one, share) for one, layer in zip(unscaled, layers[:-1], strict=True)]


class MixDoraBlock(torch.autograd.Function):
    """See `moelora.ops.mixdora.mixdora_gated`.

    Kept for the backward pass: x, frozen first projections, rank-R products and unscaled outputs, (T * K, D).
    """

    @staticmethod
    def forward(
        ctx: Any,
        activation: Elementwise,
        settings: Settings,
        experts: int,
        squares: tuple[Tensor, ...],
        again: tuple[Callable[[], Tensor] | None, ...],
        x: Tensor,
        chosen: Tensor,
        weights: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        """Compute the block for rows (T, D)."""
        count = len(squares)
        constants, factors, magnitudes = tensors[: 2 * count], tensors[2 * count : 4 * count], tensors[4 * count :]
        firsts, lows, layers = [], [], []
        for place in range(count):
            weight, bias, a, b = *constants[2 * place : 2 * place + 2], *factors[2 * place : 2 * place + 2]
            if place < count - 1:
                first, cross = project_with([x], a, weight)
                firsts.append(first)
                lows.append((a @ x.to(a.dtype).T).mul_(settings.scaling))
            else:
                cross = a @ weight.to(a.dtype).T
            norm = row_norms(squares[place], cross, a, b, settings.scaling, experts)
            # Magnitudes move by far less than half precision resolves near 1, so they act in float32.
            scale = magnitudes[place].to(norm.dtype) / norm
            layers.append(_Layer(weight, bias, a, b, scale, norm))
        shares = _shares(chosen, weights, layers, settings)
        last = layers[-1]
        output = x.new_zeros(len(x), last.weight.shape[0])
        last_lows, unscaled_rows = [], []
        for batch in _batches(shares, len(x)):
            hiddens = []
            for share in batch:
                _, (gate, *up) = _inner(firsts, lows, layers, share)
                hidden = activation.forward(gate)
                hidden = hidden.mul_(up[0]) if up else hidden
                low = (last.a[share.columns] @ hidden.to(last.a.dtype).T).mul_(settings.scaling)
                last_lows.append(low if share.mask is None else low.mul_(share.mask.to(low.dtype)))
                hiddens.append(hidden.to(x.dtype))
            products = _join(hiddens) @ last.weight.to(x.dtype).T
            for share, low, unscaled in zip(batch, last_lows[-len(batch) :], _split(products, hiddens), strict=True):
                add_product(unscaled, low.T, last.b.T[share.columns])
                share.put(output, last.finish(unscaled, share).mul_(share.weights.to(x.dtype)))
                unscaled_rows.append(unscaled)
        scales = [part for layer in layers for part in (layer.scale, layer.norms)]
        kept = list(tensors[: 4 * count])
        kept[: 2 * count : 2] = [None if make else w for make, w in zip(again, kept[: 2 * count : 2], strict=True)]
        ctx.save_for_backward(
            x, chosen, weights, *kept, *scales,
            *firsts, *lows, *last_lows, *unscaled_rows,
        )  # fmt: skip
        ctx.count, ctx.activation, ctx.settings, ctx.experts = count, activation, settings, experts
        ctx.magnitude_dtypes, ctx.again = [one.dtype for one in magnitudes], again
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor):
        """Compute the gradients of x, weights, factors and magnitudes."""
        x, chosen, weights, *saved = ctx.saved_tensors
        count, settings = ctx.count, ctx.settings
        constants, factors, scales = saved[: 2 * count], saved[2 * count : 4 * count], saved[4 * count : 6 * count]
        for place, make in enumerate(ctx.again):
            constants[2 * place] = make() if make else constants[2 * place]
        layers = [
            _Layer(*constants[2 * p : 2 * p + 2], *factors[2 * p : 2 * p + 2], *scales[2 * p : 2 * p + 2])
            for p in range(count)
        ]
        saved = saved[6 * count :]
        firsts, lows, saved = saved[: count - 1], saved[count - 1 : 2 * count - 2], saved[2 * count - 2 :]
        last_lows, unscaled_rows = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        last = layers[-1]
        with without_autocast(x):
            dy = dy.contiguous()
            shares = _shares(chosen, weights, layers, settings)
            d_a = [torch.zeros_like(layer.a) for layer in layers]
            d_b = [torch.zeros_like(layer.b.T, memory_format=torch.contiguous_format) for layer in layers]
            d_scales = [torch.zeros_like(layer.scale) for layer in layers]
            d_firsts = [torch.zeros_like(one) for one in firsts]
            d_lows = [torch.zeros_like(one) for one in lows]
            d_weights = weights.new_zeros(weights.numel())
            last_lows, unscaled_rows = iter(last_lows), iter(unscaled_rows)
            for batch in _batches(shares, len(x)):
                d_rows = []
                for share in batch:
                    unscaled, own = next(unscaled_rows), share.take(dy)
                    d_weight = torch.linalg.vecdot(own, last.finish(unscaled, share))
                    d_weights.index_copy_(0, share.pairs, d_weight.to(d_weights.dtype))
                    d_row = own * share.weights.to(own.dtype)
                    share.sum_product(d_scales[-1], d_row, unscaled)
                    d_rows.append(d_row.mul_(share.pick(last.scale)))
                d_hiddens = _join(d_rows) @ last.weight.to(x.dtype)
                for share, d_row, d_hidden in zip(batch, d_rows, _split(d_hiddens, d_rows), strict=True):
                    columns = share.columns
                    plain, (gate, *up) = _inner(firsts, lows, layers, share)
                    activated = ctx.activation.forward(gate)
                    hidden = activated * up[0] if up else activated
                    low_row = d_row.to(last.b.dtype)
                    d_b[-1][columns].addmm_(next(last_lows), low_row)
                    d_low = (last.b.T[columns] @ low_row.T).mul_(settings.scaling)
                    d_low = d_low if share.mask is None else d_low.mul_(share.mask.to(d_low.dtype))
                    d_a[-1][columns].addmm_(d_low, hidden.to(d_low.dtype))
                    d_hidden = add_product(d_hidden, d_low.T, last.a[columns]).to(hidden.dtype)
                    if up:
                        d_inner = [ctx.activation.backward(d_hidden * up[0], gate), d_hidden * activated]
                    else:
                        d_inner = [ctx.activation.backward(d_hidden, gate)]
                    for place, d in enumerate(d_inner):
                        layer = layers[place]
                        share.sum_product(d_scales[place], d, plain[place])
                        d = (d * share.pick(layer.scale)).to(d.dtype)
                        share.put(d_firsts[place], d)
                        d = d.to(layer.b.dtype)
                        d_b[place][columns].addmm_(share.take_low(lows[place]), d)
                        share.put_low(d_lows[place], layer.b.T[columns] @ d.T)
            d_x = torch.zeros_like(x)
            for layer, d_first, d_low, own_a in zip(layers[:-1], d_firsts, d_lows, d_a[:-1], strict=True):
                d_low.mul_(settings.scaling)
                own_a.addmm_(d_low, x.to(d_low.dtype))
                add_product(d_x.addmm_(d_first, layer.weight.to(d_first.dtype)), d_low.T, layer.a)
            d_weights = d_weights.view(weights.shape).masked_fill_(chosen < 0, 0)
        d_magnitudes = [
            (d / layer.norms).to(dtype) for d, layer, dtype in zip(d_scales, layers, ctx.magnitude_dtypes, strict=True)
        ]
        d_factors = [one for a, b in zip(d_a, d_b, strict=True) for one in (a, b.T)]
        return None, None, None, None, None, d_x, None, d_weights, *[None] * (2 * count), *d_factors, *d_magnitudes


def _shares(chosen: Tensor, weights: Tensor, layers: list[_Layer], settings: Settings) -> list[Share]:
    experts = layers[0].scale.shape[0]
    return make_shares(chosen, weights, experts, len(layers[0].a) // experts, settings.grouped)


def _batches(shares: list[Share], tokens: int) -> list[list[Share]]:
    """Put shares together whose rows go through the frozen down projection in one product."""
    batches, filled = [], ROWS_AT_ONCE
    for share in shares:
        rows = tokens if share.rows is None else len(share.rows)
        if filled + rows > ROWS_AT_ONCE:
            batches.append([])
            filled = 0
        batches[-1].append(share)
        filled += rows
    return batches


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _split(joined: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    return joined.split([len(one) for one in parts])
