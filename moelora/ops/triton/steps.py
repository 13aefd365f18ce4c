"""Steps that the kernels share.

A tile is some tokens (N) by some columns of the feed-forward width (F). Its arithmetic is float32; products take their
operands in the factors' dtype and add up in float32.
"""

import os

import triton
import triton.language as tl

# Triton's interpreter takes the bits of bfloat16 operands of a product for integers, so there they are widened first.
# Their values are those rounded to bfloat16 either way, and the sums are float32 either way.
WIDEN = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def activate(values, KIND: tl.constexpr):
    """Apply the activation to float32 values."""
    if KIND == "silu":
        return values / (1 + tl.exp(-values))
    elif KIND == "gelu":
        return 0.5 * values * (1 + tl.math.erf(values * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        # tanh(z) = 2 sigmoid(2 z) - 1
        inner = 1.5957691216057308 * (values + 0.044715 * values * values * values)
        return values / (1 + tl.exp(-inner))
    else:
        return tl.maximum(values, 0.0)


@triton.jit
def slope(values, KIND: tl.constexpr):
    """Return the derivative of the activation at float32 values."""
    if KIND == "silu":
        sigmoid = 1 / (1 + tl.exp(-values))
        return sigmoid * (1 + values * (1 - sigmoid))
    elif KIND == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * values * values)
        return 0.5 * (1 + tl.math.erf(values * 0.7071067811865476)) + values * density
    elif KIND == "gelu_tanh":
        square = values * values
        inner = 1.5957691216057308 * values * (1 + 0.044715 * square)
        sigmoid = 1 / (1 + tl.exp(-inner))
        return sigmoid + values * sigmoid * (1 - sigmoid) * 1.5957691216057308 * (1 + 0.134145 * square)
    else:
        return tl.where(values > 0, 1.0, 0.0)


@triton.jit
def multiply_add(total, left, right, PRECISION: tl.constexpr):
    """Return total + left @ right in float32."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, acc=total, input_precision=PRECISION)


@triton.jit
def load_second(pointer, expert, columns, width, along_rank, along_width, RANK: tl.constexpr, RANKS: tl.constexpr):
    """Load one expert's factor, (RANKS, columns), zero beyond its rank and the width."""
    ranks = tl.arange(0, RANKS)
    inside = (ranks < RANK)[:, None] & (columns < width)[None, :]
    places = (expert * RANK + ranks)[:, None] * along_rank + columns[None, :] * along_width
    return tl.load(pointer + places, mask=inside, other=0.0)


@triton.jit
def load_low(pointer, stride, tokens, expert, own, RANK: tl.constexpr, RANKS: tl.constexpr):
    """Load one expert's rank-R products of some tokens, (N, RANKS), zero for tokens that are not its own."""
    ranks = tl.arange(0, RANKS)
    inside = own[:, None] & (ranks < RANK)[None, :]
    return tl.load(pointer + tokens[:, None] * stride + expert * RANK + ranks[None, :], mask=inside, other=0.0)


@triton.jit
def add_increments(
    total, low_pointer, low_stride, second_pointer, along_rank, along_width, tokens, chosen, columns, width,
    EXPERTS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add each token's rank-R product times its own expert's factor to (N, columns).

    One product for each expert that is in the tile: one or two where tokens are grouped.
    """
    first = tl.min(tl.where(chosen >= 0, chosen, EXPERTS), axis=0)
    last = tl.max(chosen, axis=0)
    for expert in range(first, last + 1):
        own = chosen == expert
        if tl.max(own.to(tl.int32), axis=0) > 0:
            low = load_low(low_pointer, low_stride, tokens, expert, own, RANK, RANKS)
            second = load_second(second_pointer, expert, columns, width, along_rank, along_width, RANK, RANKS)
            total = multiply_add(total, low, second, PRECISION)
    return total


@triton.jit
def project(
    values, second_pointer, along_rank, along_width, chosen, columns, width,
    EXPERTS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the products of float32 values (N, columns) with each token's own expert's factor, (N, RANKS)."""
    result = tl.zeros((values.shape[0], RANKS), dtype=tl.float32)
    first = tl.min(tl.where(chosen >= 0, chosen, EXPERTS), axis=0)
    last = tl.max(chosen, axis=0)
    operand = values.to(second_pointer.dtype.element_ty)
    for expert in range(first, last + 1):
        own = chosen == expert
        if tl.max(own.to(tl.int32), axis=0) > 0:
            second = load_second(second_pointer, expert, columns, width, along_rank, along_width, RANK, RANKS)
            nothing = tl.zeros((values.shape[0], RANKS), dtype=tl.float32)
            result = tl.where(own[:, None], multiply_add(nothing, operand, tl.trans(second), PRECISION), result)
    return result
