"""The rows of feed-forward experts between the frozen projections, forward and backward.

For a row with expert e the hidden row is h = act(g) * u (gated) or act(g) (two-matrix), where g and u are the frozen
first projections plus the expert's increments. The token's mixed hidden row is the weighted sum of its h; the last
rank-R products are A2_e h. Nothing of (token, expert) x F size outlives a share: the backward pass forms h again from
the frozen projections and the rank-R products.

Notation: T tokens, N rows of a share, F feed-forward width, R rank, E experts, K experts per token.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from moelora.ops.activations import Elementwise
from moelora.ops.blocks import Assignment, Settings
from moelora.ops.chunks import spans
from moelora.ops.low_rank import drop, drop_again
from moelora.ops.shares import Share, make_shares


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

    def inner(self, share: Share, place: int) -> Tensor:
        """Return what enters the activation (place 0) or, gated, what multiplies it (place 1), (N, F) and new."""
        low = share.take_low(self.lows[place])
        return share.take_plus(self.firsts[place], low, self.seconds[place].T[share.columns])

    def mix(self, share: Share) -> Tensor:
        """Return the hidden rows h of a share, (N, F) and new."""
        hidden = self.activation.forward(self.inner(share, 0))
        return hidden.mul_(self.inner(share, 1)) if len(self.firsts) > 1 else hidden

    def part(self, tokens: slice) -> "ExpertRows":
        """Return the rows of some tokens."""
        return self._replace(
            firsts=[first[tokens] for first in self.firsts], lows=[low[:, tokens] for low in self.lows]
        )

    def shares(self, assignment: Assignment, settings: Settings) -> list[Share]:
        """Cut an assignment of these rows' tokens into shares."""
        rank, width = self.last_a.shape[0] // assignment.experts, self.last_a.shape[1]
        return make_shares(*assignment, rank, settings.grouped, width)

    @property
    def work_dtype(self) -> torch.dtype:
        """The dtype in which rows are worked on."""
        return torch.promote_types(self.firsts[0].dtype, self.lows[0].dtype)


class RowGradients(NamedTuple):
    """Gradients of `ExpertRows`; ``seconds`` in transposed form, (E * R, F), and ``weights`` flat, (T * K,)."""

    firsts: list[Tensor]
    lows: list[Tensor]
    seconds: list[Tensor]
    last_a: Tensor
    weights: Tensor

    def part(self, tokens: slice, slots: int) -> "RowGradients":
        """Return where the gradients of some tokens of K slots are, with the factors' whole."""
        return self._replace(
            firsts=[first[tokens] for first in self.firsts],
            lows=[low[:, tokens] for low in self.lows],
            weights=self.weights[tokens.start * slots : tokens.stop * slots],
        )


def mix_in_chunks(
    rows: ExpertRows, assignment: Assignment, settings: Settings, chunk: int, last: Tensor, keeps: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return mixed hidden rows (T, F) and the dropout masks by share, worked out ``chunk`` tokens at a time.

    Args:
        rows: What they are made from. Unless it ``keeps`` them, the mixed rows take the place of ``firsts[0]``.
        assignment: Experts of each token and their weights.
        settings: How the rows are cut into shares.
        chunk: Tokens of a chunk.
        last: Where to put the last rank-R products before weighing, (E * R, T), zero.
        keeps: Whether the frozen projections are needed later.
    """
    first, masks = rows.firsts[0], []
    mixed = torch.zeros_like(first, dtype=rows.work_dtype) if keeps else first
    for part in spans(len(first), chunk):
        own = rows.part(part)
        target = mixed[part] if keeps else torch.zeros_like(first[part], dtype=rows.work_dtype)
        masks += mix_rows(own, own.shares(assignment.part(part), settings), target, last[:, part])
        if not keeps:
            mixed[part] = target
    return mixed, masks


def mix_rows(rows: ExpertRows, shares: list[Share], mixed: Tensor, last: Tensor) -> list[Tensor]:
    """Compute mixed hidden rows and last rank-R products, and return the dropout masks by share.

    Args:
        rows: What they are made from.
        shares: Who works on them.
        mixed: Where to add the mixed hidden rows, (T, F), zero.
        last: Where to put the last rank-R products before weighing, (E * R, T), zero.
    """
    masks = []
    for share in shares:
        hidden = rows.mix(share)
        dropped, mask = drop(hidden, rows.dropout)
        if mask is not None:
            masks.append(mask)
        share.put_low(last, rows.last_a[share.columns] @ dropped.to(rows.last_a.dtype).T)
        share.put(mixed, hidden.mul_(share.weights.to(hidden.dtype)))
    return masks


def unmix_in_chunks(
    rows: ExpertRows,
    assignment: Assignment,
    settings: Settings,
    chunk: int,
    masks: Iterator[Tensor],
    d_mixed: Tensor,
    d_products: Tensor,
    gradients: RowGradients,
) -> None:
    """Add the gradients of a `mix_in_chunks`.

    Args:
        rows: As in the forward pass.
        assignment: As in the forward pass.
        settings: As in the forward pass.
        chunk: As in the forward pass.
        masks: What `mix_in_chunks` returned, from these rows on.
        d_mixed: Gradient of the mixed hidden rows, (T, F).
        d_products: Gradient of the last rank-R products after weighing, (E * R, T).
        gradients: Where to add. ``firsts[0]`` may be ``d_mixed``, which is then overwritten; ``lows`` are zero.
    """
    for part in spans(len(d_mixed), chunk):
        own, to = rows.part(part), gradients.part(part, assignment.chosen.shape[1])
        overwritten = to.firsts[0] if gradients.firsts[0] is d_mixed else None
        if overwritten is not None:
            to.firsts[0] = torch.zeros_like(overwritten)
        shares = own.shares(assignment.part(part), settings)
        unmix_rows(own, shares, masks, d_mixed[part], d_products[:, part], to)
        if overwritten is not None:
            overwritten.copy_(to.firsts[0])


def unmix_rows(
    rows: ExpertRows,
    shares: list[Share],
    masks: Iterator[Tensor],
    d_mixed: Tensor,
    d_products: Tensor,
    gradients: RowGradients,
) -> None:
    """Add the gradients of a `mix_rows`; arguments as in `unmix_in_chunks`."""
    for share in shares:
        mask = next(masks, None)
        columns, weights = share.columns, share.weights
        gate, up = rows.inner(share, 0), rows.inner(share, 1) if len(rows.firsts) > 1 else None
        activated = rows.activation.forward(gate)
        hidden = activated if up is None else activated * up
        d_low = share.take_low(d_products)
        last_a = rows.last_a[columns]
        # Working memory decides how far a step's memory grows, so what is finished is overwritten or freed at once.
        weighted = d_low * weights.T.to(d_low.dtype)
        gradients.last_a[columns].addmm_(weighted, drop_again(hidden, mask, rows.dropout).to(weighted.dtype))
        if mask is None:
            d_hidden = share.take_plus(d_mixed, d_low.to(hidden.dtype), last_a)
        else:
            d_hidden = (d_low.T @ last_a).to(hidden.dtype).mul_(mask).mul_(1 / (1 - rows.dropout))
            d_hidden.add_(share.take(d_mixed))
        # Before weighing, d_hidden is what a change of h does to the loss: with h itself, the weight's gradient.
        d_weight = hidden.mul_(d_hidden).sum(1).to(gradients.weights.dtype)
        gradients.weights.index_copy_(0, share.pairs, d_weight)
        d_hidden = d_hidden.mul_(weights.to(d_hidden.dtype))
        del hidden
        if up is not None:
            _put(rows, share, 1, activated.mul_(d_hidden), gradients)
            d_hidden.mul_(up)
        del activated, up
        _put(rows, share, 0, rows.activation.backward(d_hidden, gate), gradients)
        del d_hidden, gate


def _put(rows: ExpertRows, share: Share, place: int, d: Tensor, gradients: RowGradients) -> None:
    """Add what follows from the gradient of an `ExpertRows.inner`, (N, F)."""
    share.put(gradients.firsts[place], d)
    d = d.to(rows.seconds[place].dtype)
    gradients.seconds[place][share.columns].addmm_(share.take_low(rows.lows[place]), d)
    share.put_low(gradients.lows[place], rows.seconds[place].T[share.columns] @ d.T)
