"""The rows of feed-forward experts between the frozen projections, forward and backward.

For a row with expert e the hidden row is h = act(g) * u (gated) or act(g) (two-matrix), where g and u are the frozen
first projections plus the expert's increments. The token's mixed hidden row is the weighted sum of its h; the last
rank-R products are A2_e h. Nothing of (token, expert) x F size outlives a share: the backward pass forms h again from
the frozen projections and the rank-R products.

Notation: T tokens, N rows of a share, F feed-forward width, R rank, E experts, K experts per token.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moelora.ops.activations import Elementwise
from moelora.ops.low_rank import drop, drop_again
from moelora.ops.shares import Share


class ExpertRows(NamedTuple):
    """What the rows of a batch are made from.

    Attributes:
        firsts: Frozen first projections, one (two-matrix) or two (gate, up), each (T, F).
        lows: Scaled rank-R products of the increments on them, each (E * R, T).
        seconds: Second factors of the increments, each (F, E * R).
        last_a: First factors on the last projection, (E * R, F).
        activation: The elementwise function with its adjoint.
        dropout: Probability of dropping an element of h on its way into ``last_a``.
    """

    firsts: list[Tensor]
    lows: list[Tensor]
    seconds: list[Tensor]
    last_a: Tensor
    activation: Elementwise
    dropout: float

    def inner(self, share: Share) -> list[Tensor]:
        """Return what enters the activation and, gated, what multiplies it, each (N, F) and new."""
        return [
            share.take_plus(first, share.take_low(low), second.T[share.columns])
            for first, low, second in zip(self.firsts, self.lows, self.seconds, strict=True)
        ]


class RowGradients(NamedTuple):
    """Gradients of `ExpertRows`; second factors in transposed form, (E * R, F)."""

    firsts: list[Tensor]
    lows: list[Tensor]
    seconds: list[Tensor]
    last_a: Tensor
    weights: Tensor


def mix_rows(rows: ExpertRows, shares: list[Share]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return mixed hidden rows (T, F), last rank-R products before weighing (E * R, T), dropout masks by share."""
    work = torch.promote_types(rows.firsts[0].dtype, rows.lows[0].dtype)
    mixed = torch.zeros_like(rows.firsts[0], dtype=work)
    last = torch.zeros_like(rows.lows[0], dtype=rows.last_a.dtype)
    masks = []
    for share in shares:
        gate, *up = rows.inner(share)
        hidden = rows.activation.forward(gate)
        if up:
            hidden = hidden.mul_(up[0])
        dropped, mask = drop(hidden, rows.dropout)
        if mask is not None:
            masks.append(mask)
        share.put_low(last, rows.last_a[share.columns] @ dropped.to(rows.last_a.dtype).T)
        share.put(mixed, hidden.mul_(share.weights.to(hidden.dtype)))
    return mixed, last, masks


def unmix_rows(
    rows: ExpertRows,
    shares: list[Share],
    masks: list[Tensor],
    d_mixed: Tensor,
    d_products: Tensor,
    gradients: RowGradients,
) -> None:
    """Add the gradients of a `mix_rows`.

    Args:
        rows: As in the forward pass.
        shares: As in the forward pass.
        masks: What `mix_rows` returned.
        d_mixed: Gradient of the mixed hidden rows, (T, F).
        d_products: Gradient of the last rank-R products after weighing, (E * R, T).
        gradients: Where to add; ``firsts`` and ``lows`` zero, ``weights`` flat (T * K,).
    """
    for index, share in enumerate(shares):
        mask = masks[index] if masks else None
        columns, weights = share.columns, share.weights
        gate, *up = rows.inner(share)
        activated = rows.activation.forward(gate)
        hidden = activated * up[0] if up else activated
        d_low = share.take_low(d_products)
        last_a = rows.last_a[columns]
        if mask is None:
            dropped, d_hidden = hidden, share.take_plus(d_mixed.to(hidden.dtype), d_low.to(hidden.dtype), last_a)
        else:
            dropped = drop_again(hidden, mask, rows.dropout)
            d_hidden = drop_again((d_low.T @ last_a).to(hidden.dtype), mask, rows.dropout).add_(share.take(d_mixed))
        # Before weighing, this is what a change of h does to the loss: with h itself, the weight's gradient.
        d_weight = torch.linalg.vecdot(d_hidden, hidden).to(gradients.weights.dtype)
        gradients.weights.index_copy_(0, share.pairs, d_weight)
        weighted = d_low * weights.T.to(d_low.dtype)
        gradients.last_a[columns].addmm_(weighted, dropped.to(weighted.dtype))
        d_hidden = d_hidden.mul_(weights.to(d_hidden.dtype))
        if up:
            d_inner = [rows.activation.backward(d_hidden * up[0], gate), d_hidden.mul_(activated)]
        else:
            d_inner = [rows.activation.backward(d_hidden, gate)]
        for place, d in enumerate(d_inner):
            share.put(gradients.firsts[place], d)
            d = d.to(rows.seconds[place].dtype)
            gradients.seconds[place][columns].addmm_(share.take_low(rows.lows[place]), d)
            share.put_low(gradients.lows[place], rows.seconds[place].T[columns] @ d.T)
