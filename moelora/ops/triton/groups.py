"""Tokens and their experts in the orders in which the kernels work, without waiting for the device.

Notation: T tokens, E experts, K slots.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """Who serves each token, and orders of the tokens.

    A token's slots are sorted by expert, unused ones (-1) first. Any order of the tokens is right; where neighbours
    have the same experts, a block of them needs few products.

    Attributes:
        order: Tokens such that neighbours share experts, (T,).
        chosen: Expert of each slot, (T, K), int32.
        weights: Router weight of each slot, (T, K), float32; 0 for an unused one.
        slots: Which slot of the caller each slot is, (T, K).
    """

    order: Tensor
    chosen: Tensor
    weights: Tensor
    slots: Tensor

    def unsort(self, per_slot: Tensor) -> Tensor:
        """Return (T, K) numbers of the sorted slots in the caller's order of slots."""
        return torch.zeros_like(per_slot).scatter(1, self.slots, per_slot)


def group_tokens(chosen: Tensor, weights: Tensor, experts: int) -> Groups:
    """Order tokens by their sets of experts.

    Args:
        chosen: Experts of each token, (T, K), no expert twice, -1 for an unused slot.
        weights: Their router weights, (T, K).
        experts: E.
    """
    by_expert, slots = chosen.sort(dim=1)
    weights = weights.gather(1, slots).float().masked_fill(by_expert < 0, 0)
    # The sets as numbers of base E + 1. Of many slots only those count that int64 can hold; the rest costs no
    # correctness.
    key = by_expert.new_zeros(len(chosen), dtype=torch.int64)
    for slot in range(min(chosen.shape[1], 62 // (experts + 1).bit_length())):
        key = key * (experts + 1) + by_expert[:, slot] + 1
    return Groups(torch.argsort(key), by_expert.int().contiguous(), weights.contiguous(), slots)


def group_pairs(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Order (token, slot) pairs by expert.

    Args:
        chosen: (T, K), -1 for an unused slot.
        experts: E.

    Returns:
        Places among the flattened pairs, (T * K,), and where each expert's begin and the last one's end, (E + 1,).
    """
    flat, pairs = chosen.flatten().sort(stable=True)
    names = torch.arange(experts + 1, dtype=flat.dtype, device=flat.device)
    return pairs, torch.searchsorted(flat, names)


def spread(per_slot: Tensor, chosen: Tensor, experts: int) -> Tensor:
    """Put what slots hold at their experts' places: (T, K, N) to (T, E, N), zero for experts not chosen."""
    index = torch.where(chosen < 0, experts, chosen).long().unsqueeze(-1).expand_as(per_slot)
    spacious = per_slot.new_zeros(per_slot.shape[0], experts + 1, per_slot.shape[2])
    return spacious.scatter_(1, index, per_slot)[:, :experts]
