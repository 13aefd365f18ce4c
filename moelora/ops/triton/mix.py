"""The kernel of the forward pass: from the frozen first projections to the mixed hidden rows, read and written once.

Notation: T tokens, F feed-forward width, R rank, E experts, K slots.
"""

import triton
import triton.language as tl

from moelora.ops.triton.steps import activate, add_increments, project


@triton.jit(do_not_specialize=["count"])
def mix_kernel(
    gate_pointer, up_pointer, low_pointer, gate_b_pointer, up_b_pointer, last_a_pointer,
    order_pointer, chosen_pointer, weights_pointer, kept_pointer, mixed_pointer, products_pointer,
    count, width, keep_scale,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, GATED: tl.constexpr,
    ACTIVATION: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Compute one tile of the mixed hidden rows (T, F) and its part of the last rank-R products.

    The products need a sum over F: each column of tiles writes its part, (tiles, T, K, R), and the caller adds them up,
    always in the same order.
    """
    places = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column_tile = tl.program_id(1)
    columns = column_tile * BLOCK_F + tl.arange(0, BLOCK_F)
    real = places < count
    tokens = tl.load(order_pointer + places, mask=real, other=0)
    ranks = tl.arange(0, RANKS)
    stacked = EXPERTS * RANK
    low_stride = (2 if GATED else 1) * stacked

    inside = real[:, None] & (columns < width)[None, :]
    at = tokens[:, None] * width + columns[None, :]
    frozen_gate = tl.load(gate_pointer + at, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        frozen_up = tl.load(up_pointer + at, mask=inside, other=0.0).to(tl.float32)
    mixed = tl.zeros((BLOCK_T, BLOCK_F), dtype=tl.float32)
    for slot in range(SLOTS):
        pairs = tokens * SLOTS + slot
        chosen = tl.load(chosen_pointer + pairs, mask=real, other=-1)
        weights = tl.load(weights_pointer + pairs, mask=real, other=0.0)
        gate = add_increments(
            frozen_gate, low_pointer, low_stride, gate_b_pointer, 1, stacked, tokens, chosen, columns, width,
            EXPERTS, RANK, RANKS, PRECISION,
        )  # fmt: skip
        hidden = activate(gate, ACTIVATION)
        if GATED:
            up = add_increments(
                frozen_up, low_pointer + stacked, low_stride, up_b_pointer, 1, stacked, tokens, chosen, columns, width,
                EXPERTS, RANK, RANKS, PRECISION,
            )  # fmt: skip
            hidden = hidden * up
        mixed += weights[:, None] * hidden
        if DROPPED:
            kept = tl.load(kept_pointer + pairs[:, None] * width + columns[None, :], mask=inside, other=0)
            hidden = tl.where(kept != 0, hidden * keep_scale, 0.0)
        products = project(hidden, last_a_pointer, width, 1, chosen, columns, width, EXPERTS, RANK, RANKS, PRECISION)
        into = ((column_tile * count + tokens) * SLOTS + slot) * RANK
        tl.store(
            products_pointer + into[:, None] + ranks[None, :], products, mask=real[:, None] & (ranks < RANK)[None, :]
        )
    tl.store(mixed_pointer + at, mixed.to(mixed_pointer.dtype.element_ty), mask=inside)
