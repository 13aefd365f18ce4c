"""Feed-forward experts around shared frozen weights (MixLoRA), with one frozen product a token.

Expert e of a gated block is ``W2_e (act(W1_e x) * W3_e x)`` with ``W_e = W + s B_e A_e``; of a two-matrix
block it is ``W2_e act(W1_e x)``. The token's output is the weighted sum of its K experts. Because W2 is
linear and shared, ``sum_k g_k W2_k h_k = W2 (sum_k g_k h_k) + s sum_k g_k B2_k A2_k h_k``: the frozen
product runs once a token and only rank-R work is done once a (token, expert).

The functions stop before the last frozen layer. They return the mixed hidden rows and the rank-R
products, and whoever holds the layer finishes with ``down(hidden) + s * products @ b2^T``. The frozen
layer then stays a module (quantised, with bias, offloaded), and its bias counts once, which is exact because
the K weights of a token sum to 1.

Notation: T tokens, D width, F feed-forward width, R rank, E experts, K experts per token.
Source: MixLoRA, arXiv 2404.15159; the linear form is ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moelora.ops.grouping import TokenGroups

Activation = Callable[[Tensor], Tensor]


class LowRank(NamedTuple):
    """The stacked factors of E experts for one frozen layer: a (E * R, in), b (out, E * R)."""

    a: Tensor
    b: Tensor


class Assignment(NamedTuple):
    """Who serves each token: chosen experts (T, K), no expert twice; their weights (T, K); E."""

    chosen: Tensor
    weights: Tensor
    experts: int


def gated_experts(
    gate: Tensor,
    up: Tensor,
    x: Tensor,
    gate_factors: LowRank,
    up_factors: LowRank,
    down_a: Tensor,
    assignment: Assignment,
    activation: Activation,
    scaling: float,
    dropout: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix the experts of a gated feed-forward block up to its down projection.

    Args:
        gate: Frozen gate projection of the tokens, (T, F).
        up: Frozen up projection, (T, F).
        x: Input of the experts' increments, after dropout, (T, D).
        gate_factors: Experts' factors on the gate projection.
        up_factors: Experts' factors on the up projection.
        down_a: Experts' first factors on the down projection, (E * R, F).
        assignment: Experts of each token and their weights, each row of weights summing to 1.
        activation: Elementwise function of the gate.
        scaling: alpha / R.
        dropout: Applied to the hidden rows on their way into ``down_a`` only, as in any LoRA.

    Returns:
        The mixed hidden rows, (T, F), and the weighted rank-R products in dense form, (T, E * R).
    """
    groups = TokenGroups(assignment.chosen, assignment.experts)
    gate_rows = groups.gather(gate) + _increments(groups, x, gate_factors, scaling)
    up_rows = groups.gather(up) + _increments(groups, x, up_factors, scaling)
    return _finish(groups, activation(gate_rows) * up_rows, down_a, assignment, dropout)


def two_matrix_experts(
    inner: Tensor,
    x: Tensor,
    inner_factors: LowRank,
    outer_a: Tensor,
    assignment: Assignment,
    activation: Activation,
    scaling: float,
    dropout: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix the experts of a two-matrix feed-forward block (BERT) up to its second matrix.

    Args and returns are those of `gated_experts`, with ``inner`` the frozen first projection, (T, F).
    """
    groups = TokenGroups(assignment.chosen, assignment.experts)
    rows = groups.gather(inner) + _increments(groups, x, inner_factors, scaling)
    return _finish(groups, activation(rows), outer_a, assignment, dropout)


def _increments(groups: TokenGroups, x: Tensor, factors: LowRank, scaling: float) -> Tensor:
    """Return s * B_e A_e x of every sorted row, (T * K, F)."""
    experts = len(groups.counts)
    # All experts' first factors in one product; then only the rank-R block of each row's own expert.
    low = functional.linear(x, factors.a).unflatten(-1, (experts, -1)).flatten(0, 1)
    rows = low.index_select(0, groups.tokens * experts + groups.experts) * scaling
    seconds = factors.b.unflatten(-1, (experts, -1)).unbind(dim=1)
    # An expert without tokens stays in the graph with no rows: its gradient is zero, not None.
    parts = [functional.linear(part, b) for part, b in zip(rows.split(groups.counts), seconds, strict=True)]
    return torch.cat(parts)


def _finish(
    groups: TokenGroups, hidden: Tensor, last_a: Tensor, assignment: Assignment, dropout: Activation | None
) -> tuple[Tensor, Tensor]:
    """Weigh the sorted hidden rows and their rank-R products and bring them back to the tokens."""
    experts = assignment.experts
    weights = groups.sort_slots(assignment.weights).unsqueeze(-1)
    dropped = hidden if dropout is None else dropout(hidden)
    firsts = last_a.unflatten(0, (experts, -1)).unbind(dim=0)
    split = dropped.to(last_a.dtype).split(groups.counts)
    products = torch.cat([functional.linear(part, a) for part, a in zip(split, firsts, strict=True)])
    products = products * weights.to(products.dtype)
    tokens = assignment.chosen.shape[0]
    dense = products.new_zeros(tokens * experts, products.shape[-1])
    dense = dense.index_copy(0, groups.tokens * experts + groups.experts, products)
    mixed = groups.combine(hidden * weights.to(hidden.dtype))
    return mixed, dense.view(tokens, -1)


def gated_experts_reference(
    x: Tensor,
    frozen: tuple[Tensor, Tensor, Tensor],
    factors: tuple[LowRank, LowRank, LowRank],
    weights: Tensor,
    activation: Activation,
    scaling: float,
) -> Tensor:
    """Compute a whole gated block (gate, up, down) from full expert weights, one expert at a time.

    Args:
        x: Tokens, (T, D).
        frozen: Gate (F, D), up (F, D) and down (D, F) weights.
        factors: The experts' factors on the three, in the same order.
        weights: Router weights in dense form, (T, E).
        activation: Elementwise function of the gate.
        scaling: alpha / R.

    Returns:
        The block's output, (T, D).
    """
    output = torch.zeros_like(x)
    for expert in range(weights.shape[-1]):
        gate, up, down = (
            _expert_weight(matrix, pair, expert, weights.shape[-1], scaling)
            for matrix, pair in zip(frozen, factors, strict=True)
        )
        hidden = activation(x @ gate.T) * (x @ up.T)
        output = output + weights[:, expert : expert + 1] * (hidden @ down.T)
    return output


def two_matrix_experts_reference(
    x: Tensor,
    frozen: tuple[Tensor, Tensor],
    factors: tuple[LowRank, LowRank],
    weights: Tensor,
    activation: Activation,
    scaling: float,
) -> Tensor:
    """Compute a whole two-matrix block; arguments as in `gated_experts_reference`."""
    output = torch.zeros_like(x)
    for expert in range(weights.shape[-1]):
        inner, outer = (
            _expert_weight(matrix, pair, expert, weights.shape[-1], scaling)
            for matrix, pair in zip(frozen, factors, strict=True)
        )
        output = output + weights[:, expert : expert + 1] * (activation(x @ inner.T) @ outer.T)
    return output


def _expert_weight(frozen: Tensor, factors: LowRank, expert: int, experts: int, scaling: float) -> Tensor:
    rank = factors.a.shape[0] // experts
    rows = slice(expert * rank, (expert + 1) * rank)
    return frozen + scaling * factors.b[:, rows] @ factors.a[rows]
