"""Rows of tokens sorted by the expert they go to, and back.

Gathering and combining are each other's adjoint, so both directions of both are an `index_select`
and a sum over the K slots: no scatter-add, hence deterministic on every device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class TokenGroups:
    """The (token, slot) pairs of a batch in the order of their experts.

    Attributes:
        tokens: Token of each sorted row, (T * K,).
        experts: Expert of each sorted row, ascending, (T * K,).
        inverse: Sorted row of each (token, slot) pair, (T * K,).
        counts: Rows of each expert, E integers.
        slots: K, experts per token.
    """

    def __init__(self, chosen: Tensor, experts: int):
        """Sort the pairs of ``chosen``, (T, K), stably by expert."""
        flat = chosen.reshape(-1)
        self.slots = chosen.shape[1]
        self.experts, order = torch.sort(flat, stable=True)
        self.order = order
        self.tokens = order // self.slots
        self.inverse = torch.empty_like(order)
        self.inverse[order] = torch.arange(order.numel(), device=order.device)
        self.counts: list[int] = torch.bincount(flat, minlength=experts).tolist()

    def gather(self, rows: Tensor) -> Tensor:
        """Repeat each token's row once a slot, sorted by expert: (T, N) to (T * K, N)."""
        return _Gather.apply(rows, self.tokens, self.inverse, self.slots)

    def combine(self, rows: Tensor) -> Tensor:
        """Sum the rows of each token over its slots: (T * K, N) to (T, N)."""
        return _Combine.apply(rows, self.tokens, self.inverse, self.slots)

    def sort_slots(self, values: Tensor) -> Tensor:
        """Put (T, K) values into the order of the sorted rows, (T * K,)."""
        return values.reshape(-1).index_select(0, self.order)


def _sum_slots(rows: Tensor, inverse: Tensor, slots: int) -> Tensor:
    return rows.index_select(0, inverse).unflatten(0, (-1, slots)).sum(dim=1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, tokens: Tensor, inverse: Tensor, slots: int) -> Tensor:
        ctx.inverse, ctx.slots = inverse, slots
        return rows.index_select(0, tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):
        return _sum_slots(gradient, ctx.inverse, ctx.slots), None, None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, tokens: Tensor, inverse: Tensor, slots: int) -> Tensor:
        ctx.tokens = tokens
        return _sum_slots(rows, inverse, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):
        return gradient.index_select(0, ctx.tokens), None, None, None
