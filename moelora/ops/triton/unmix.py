"""The kernels of the backward pass. Both form the experts' hidden rows again; neither keeps or adds atomically.

Sums over the width are written in parts by the kernel that goes token by token, sums over the tokens by the kernel
that goes expert by expert, so every result is the same in every run.

Notation: T tokens, F feed-forward width, R rank, E experts, K slots.
"""

import triton
import triton.language as tl

from moelora.ops.triton.steps import activate, add_increments, load_low, load_second, multiply_add, project, slope


@triton.jit(do_not_specialize=["count"])
def unmix_tokens_kernel(
    gate_pointer, up_pointer, low_pointer, gate_b_pointer, up_b_pointer, last_a_pointer,
    order_pointer, chosen_pointer, weights_pointer, kept_pointer, d_mixed_pointer, d_products_pointer,
    d_gate_pointer, d_up_pointer, d_low_pointer, d_weights_pointer,
    count, width, keep_scale,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, GATED: tl.constexpr,
    ACTIVATION: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Compute one tile of the gradients of the frozen projections, and its parts of what sums over F.

    Those are the gradients of the rank-R products, (tiles, T, K, 2 R) or (tiles, T, K, R), and of the router's
    weights, (tiles, T, K).
    """
    places = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column_tile = tl.program_id(1)
    columns = column_tile * BLOCK_F + tl.arange(0, BLOCK_F)
    real = places < count
    tokens = tl.load(order_pointer + places, mask=real, other=0)
    ranks = tl.arange(0, RANKS)
    stacked = EXPERTS * RANK
    layers = 2 if GATED else 1

    inside = real[:, None] & (columns < width)[None, :]
    at = tokens[:, None] * width + columns[None, :]
    frozen_gate = tl.load(gate_pointer + at, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        frozen_up = tl.load(up_pointer + at, mask=inside, other=0.0).to(tl.float32)
        d_up_sum = tl.zeros((BLOCK_T, BLOCK_F), dtype=tl.float32)
    d_mixed = tl.load(d_mixed_pointer + at, mask=inside, other=0.0).to(tl.float32)
    d_gate_sum = tl.zeros((BLOCK_T, BLOCK_F), dtype=tl.float32)
    low_inside = real[:, None] & (ranks < RANK)[None, :]
    for slot in range(SLOTS):
        pairs = tokens * SLOTS + slot
        chosen = tl.load(chosen_pointer + pairs, mask=real, other=-1)
        weights = tl.load(weights_pointer + pairs, mask=real, other=0.0)
        into = (column_tile * count + tokens) * SLOTS + slot
        if DROPPED:
            through = add_increments(
                tl.zeros((BLOCK_T, BLOCK_F), dtype=tl.float32), d_products_pointer, stacked, last_a_pointer, width, 1,
                tokens, chosen, columns, width, EXPERTS, RANK, RANKS, PRECISION,
            )  # fmt: skip
            kept = tl.load(kept_pointer + pairs[:, None] * width + columns[None, :], mask=inside, other=0)
            d_hidden = d_mixed + tl.where(kept != 0, through * keep_scale, 0.0)
        else:
            d_hidden = add_increments(
                d_mixed, d_products_pointer, stacked, last_a_pointer, width, 1, tokens, chosen, columns, width,
                EXPERTS, RANK, RANKS, PRECISION,
            )  # fmt: skip
        gate = add_increments(
            frozen_gate, low_pointer, layers * stacked, gate_b_pointer, 1, stacked, tokens, chosen, columns, width,
            EXPERTS, RANK, RANKS, PRECISION,
        )  # fmt: skip
        activated = activate(gate, ACTIVATION)
        if GATED:
            up = add_increments(
                frozen_up, low_pointer + stacked, layers * stacked, up_b_pointer, 1, stacked, tokens, chosen, columns,
                width, EXPERTS, RANK, RANKS, PRECISION,
            )  # fmt: skip
            # Before weighing, this is what a change of a hidden row does to the loss: with the row itself, the
            # weight's gradient.
            d_weights = tl.sum(d_hidden * activated * up, axis=1)
            d_hidden = d_hidden * weights[:, None]
            d_up = d_hidden * activated
            d_gate = d_hidden * up * slope(gate, ACTIVATION)
            d_up_sum += d_up
            d_low = project(d_up, up_b_pointer, 1, stacked, chosen, columns, width, EXPERTS, RANK, RANKS, PRECISION)
            tl.store(d_low_pointer + (into * layers * RANK + RANK)[:, None] + ranks[None, :], d_low, mask=low_inside)
        else:
            d_weights = tl.sum(d_hidden * activated, axis=1)
            d_gate = d_hidden * weights[:, None] * slope(gate, ACTIVATION)
        tl.store(d_weights_pointer + into, d_weights, mask=real)
        d_gate_sum += d_gate
        d_low = project(d_gate, gate_b_pointer, 1, stacked, chosen, columns, width, EXPERTS, RANK, RANKS, PRECISION)
        tl.store(d_low_pointer + (into * layers * RANK)[:, None] + ranks[None, :], d_low, mask=low_inside)
    tl.store(d_gate_pointer + at, d_gate_sum.to(d_gate_pointer.dtype.element_ty), mask=inside)
    if GATED:
        tl.store(d_up_pointer + at, d_up_sum.to(d_up_pointer.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["splits"])
def unmix_experts_kernel(
    gate_pointer, up_pointer, low_pointer, gate_b_pointer, up_b_pointer, last_a_pointer,
    pairs_pointer, starts_pointer, weights_pointer, kept_pointer, d_mixed_pointer, d_products_pointer,
    d_gate_b_pointer, d_up_b_pointer, d_last_a_pointer,
    width, keep_scale, splits,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, GATED: tl.constexpr,
    ACTIVATION: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Compute some columns of one expert's gradients from every ``splits``-th block of its tokens.

    Results are (splits, E * R, F) each, in float32, for the second factors of the first layers (transposed) and the
    first factor of the last. An expert without tokens gets zeros.
    """
    expert = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    split = tl.program_id(2)
    ranks = tl.arange(0, RANKS)
    stacked = EXPERTS * RANK
    layers = 2 if GATED else 1
    gate_b = load_second(gate_b_pointer, expert, columns, width, 1, stacked, RANK, RANKS)
    last_a = load_second(last_a_pointer, expert, columns, width, width, 1, RANK, RANKS)
    factor = gate_b.dtype
    d_gate_b = tl.zeros((RANKS, BLOCK_F), dtype=tl.float32)
    d_last_a = tl.zeros((RANKS, BLOCK_F), dtype=tl.float32)
    if GATED:
        up_b = load_second(up_b_pointer, expert, columns, width, 1, stacked, RANK, RANKS)
        d_up_b = tl.zeros((RANKS, BLOCK_F), dtype=tl.float32)

    end = tl.load(starts_pointer + expert + 1)
    for start in range(tl.load(starts_pointer + expert) + split * BLOCK_T, end, splits * BLOCK_T):
        places = start + tl.arange(0, BLOCK_T)
        real = places < end
        pairs = tl.load(pairs_pointer + places, mask=real, other=0)
        tokens = pairs // SLOTS
        inside = real[:, None] & (columns < width)[None, :]
        at = tokens[:, None] * width + columns[None, :]
        weights = tl.load(weights_pointer + pairs, mask=real, other=0.0)

        low = load_low(low_pointer, layers * stacked, tokens, expert, real, RANK, RANKS)
        gate = tl.load(gate_pointer + at, mask=inside, other=0.0).to(tl.float32)
        gate = multiply_add(gate, low, gate_b, PRECISION)
        hidden = activate(gate, ACTIVATION)
        d_product = load_low(d_products_pointer, stacked, tokens, expert, real, RANK, RANKS)
        d_mixed = tl.load(d_mixed_pointer + at, mask=inside, other=0.0).to(tl.float32)
        if DROPPED:
            kept = tl.load(kept_pointer + pairs[:, None] * width + columns[None, :], mask=inside, other=0)
            keep = tl.where(kept != 0, keep_scale, 0.0)
            nothing = tl.zeros((BLOCK_T, BLOCK_F), dtype=tl.float32)
            d_hidden = d_mixed + keep * multiply_add(nothing, d_product, last_a, PRECISION)
        else:
            d_hidden = multiply_add(d_mixed, d_product, last_a, PRECISION)
        d_hidden = d_hidden * weights[:, None]
        d_gate = d_hidden * slope(gate, ACTIVATION)
        if GATED:
            up_low = load_low(low_pointer + stacked, layers * stacked, tokens, expert, real, RANK, RANKS)
            up = tl.load(up_pointer + at, mask=inside, other=0.0).to(tl.float32)
            up = multiply_add(up, up_low, up_b, PRECISION)
            d_up = d_hidden * hidden
            d_up_b = multiply_add(d_up_b, tl.trans(up_low), d_up.to(factor), PRECISION)
            hidden = hidden * up
            d_gate = d_gate * up
        d_gate_b = multiply_add(d_gate_b, tl.trans(low), d_gate.to(factor), PRECISION)
        if DROPPED:
            hidden = hidden * keep
        weighted = (d_product * weights[:, None]).to(factor)
        d_last_a = multiply_add(d_last_a, tl.trans(weighted), hidden.to(factor), PRECISION)

    into = ((split * EXPERTS + expert) * RANK + ranks)[:, None] * width + columns[None, :]
    inside = (ranks < RANK)[:, None] & (columns < width)[None, :]
    tl.store(d_gate_b_pointer + into, d_gate_b, mask=inside)
    tl.store(d_last_a_pointer + into, d_last_a, mask=inside)
    if GATED:
        tl.store(d_up_b_pointer + into, d_up_b, mask=inside)
