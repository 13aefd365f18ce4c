"""How the kernels are launched: tiles, tuning, and the buffers for sums that are written in parts.

Notation: T tokens, F feed-forward width, R rank, E experts, K slots, L first layers (2 gated, 1 two-matrix).
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from moelora.ops.triton.groups import Groups, group_pairs, spread
from moelora.ops.triton.mix import mix_kernel
from moelora.ops.triton.unmix import unmix_experts_kernel, unmix_tokens_kernel


class Tile(NamedTuple):
    """Tokens and columns of a tile, and the warps that work on it."""

    tokens: int
    columns: int
    warps: int


# For an H100, bfloat16 and rank 8, ptxas compiles these without spilling and leaves room for three on a multiprocessor.
# Columns are fixed, because buffers depend on them; on a GPU the rest is tuned at the first call of a kind.
TILES = {
    mix_kernel: Tile(32, 64, 4),
    unmix_tokens_kernel: Tile(16, 64, 4),
    unmix_experts_kernel: Tile(32, 64, 4),
}
TUNED = ((16, 4), (32, 4), (32, 8), (64, 4), (64, 8))
PROGRAMS = 1024  # enough for any GPU of today


class Inputs(NamedTuple):
    """What the rows of experts are made from; see `moelora.ops.expert_rows.ExpertRows`.

    Attributes:
        firsts: Frozen first projections, each (T, F), contiguous.
        low: Scaled rank-R products of the increments on them, (T, L * E * R), contiguous.
        seconds: Second factors of the increments, each (F, E * R), contiguous.
        last_a: First factors on the last projection, (E * R, F), contiguous.
        activation: Its name in the kernels.
        kept: What dropout keeps of the hidden rows on their way into ``last_a``, (T, K, F) boolean, by sorted slot;
            None for all.
        keep_scale: What dropout multiplies the rest with.
    """

    firsts: list[Tensor]
    low: Tensor
    seconds: list[Tensor]
    last_a: Tensor
    activation: str
    kept: Tensor | None
    keep_scale: float


class InputGradients(NamedTuple):
    """Gradients of `Inputs`, and of the router's weights by sorted slot (T, K); see `unmix`."""

    firsts: list[Tensor]
    low: Tensor
    seconds: list[Tensor]
    last_a: Tensor
    weights: Tensor


def mix(inputs: Inputs, groups: Groups, experts: int) -> tuple[Tensor, Tensor]:
    """Return mixed hidden rows (T, F) and the last rank-R products before weighing, by sorted slot (T, K, R)."""
    gate, up = inputs.firsts[0], inputs.firsts[-1]
    constants = _constants(inputs, groups, experts)
    tokens, slots = groups.chosen.shape
    mixed = torch.empty_like(gate)
    products = _parts(mix_kernel, gate, tokens, slots, constants["RANK"])
    _launch(
        mix_kernel, tokens, _tiles(mix_kernel, tokens, gate.shape[1]), gate, up, inputs.low, inputs.seconds[0],
        inputs.seconds[-1], inputs.last_a, groups.order, groups.chosen, groups.weights, _or(inputs.kept, gate), mixed,
        products, tokens, gate.shape[1], inputs.keep_scale, **constants,
    )  # fmt: skip
    return mixed, products.sum(0)


def unmix(inputs: Inputs, groups: Groups, experts: int, d_mixed: Tensor, d_products: Tensor) -> InputGradients:
    """Return the gradients of a `mix`, factors' and low ones in float32; second factors in transposed form.

    Args:
        inputs: As in the forward pass.
        groups: As in the forward pass.
        experts: E.
        d_mixed: Gradient of the mixed hidden rows, (T, F), contiguous.
        d_products: Gradient of the last rank-R products after weighing, by expert, (T, E * R), contiguous.
    """
    gate, up = inputs.firsts[0], inputs.firsts[-1]
    constants = _constants(inputs, groups, experts)
    (tokens, slots), width, rank = groups.chosen.shape, gate.shape[1], constants["RANK"]
    shared = (gate, up, inputs.low, inputs.seconds[0], inputs.seconds[-1], inputs.last_a)
    kept = _or(inputs.kept, gate)

    d_firsts = [torch.empty_like(one) for one in inputs.firsts]
    d_low = _parts(unmix_tokens_kernel, gate, tokens, slots, len(d_firsts) * rank)
    d_weights = _parts(unmix_tokens_kernel, gate, tokens, slots)
    _launch(
        unmix_tokens_kernel, tokens, _tiles(unmix_tokens_kernel, tokens, width), *shared, groups.order, groups.chosen,
        groups.weights, kept, d_mixed, d_products, d_firsts[0], d_firsts[-1], d_low, d_weights, tokens, width,
        inputs.keep_scale, **constants,
    )  # fmt: skip

    pairs, starts = group_pairs(groups.chosen, experts)
    columns = triton.cdiv(width, TILES[unmix_experts_kernel].columns)
    splits = min(max(PROGRAMS // (experts * columns), 1), 8)
    sums = [gate.new_empty(splits, experts * rank, width, dtype=torch.float32) for _ in range(len(d_firsts) + 1)]
    _launch(
        unmix_experts_kernel, tokens, lambda _: (experts, columns, splits), *shared, pairs, starts, groups.weights,
        kept, d_mixed, d_products, sums[0], sums[-2], sums[-1], width, inputs.keep_scale, splits, **constants,
    )  # fmt: skip

    by_expert = spread(d_low.sum(0), groups.chosen, experts).unflatten(-1, (len(d_firsts), rank))
    *d_seconds, d_last_a = (one.sum(0) for one in sums)
    return InputGradients(d_firsts, by_expert.transpose(1, 2).flatten(1), d_seconds, d_last_a, d_weights.sum(0))


def _constants(inputs: Inputs, groups: Groups, experts: int) -> dict[str, Any]:
    rank = inputs.last_a.shape[0] // experts
    # Products of float32 operands are as exact as torch's are asked to be.
    exact = torch.backends.cuda.matmul.fp32_precision != "tf32"
    return {
        "EXPERTS": experts,
        "SLOTS": groups.chosen.shape[1],
        "RANK": rank,
        "RANKS": max(16, triton.next_power_of_2(rank)),  # what tl.dot takes
        "GATED": len(inputs.firsts) == 2,
        "ACTIVATION": inputs.activation,
        "DROPPED": inputs.kept is not None,
        "PRECISION": "ieee" if exact else "tf32",
    }


def _or(kept: Tensor | None, other: Tensor) -> Tensor:
    """Return a pointer that the kernel will not read where there is no mask."""
    return other if kept is None else kept


def _parts(kernel: Any, like: Tensor, *shape: int) -> Tensor:
    """Return a float32 buffer with a part for each column of tiles."""
    return like.new_empty(triton.cdiv(like.shape[1], TILES[kernel].columns), *shape, dtype=torch.float32)


def _tiles(kernel: Any, tokens: int, width: int) -> Callable[[dict], tuple[int, int]]:
    columns = triton.cdiv(width, TILES[kernel].columns)
    return lambda meta: (triton.cdiv(tokens, meta["BLOCK_T"]), columns)


def _launch(kernel: Any, tokens: int, grid: Callable[[dict], tuple], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel, on a GPU with the tile that was fastest for about so many tokens."""
    tile, device = TILES[kernel], arguments[0].device
    if device.type != "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        kernel[grid](*arguments, **constants, BLOCK_T=tile.tokens, BLOCK_F=tile.columns, num_warps=tile.warps)
        return
    with torch.cuda.device(device):
        _tuned(kernel, triton.next_power_of_2(tokens))[grid](*arguments, **constants, BLOCK_F=tile.columns)


@cache
def _tuned(kernel: Any, tokens: int) -> Any:
    """Return a kernel that measures its tiles when it meets a shape for the first time; few tokens want others."""
    configs = [triton.Config({"BLOCK_T": size}, num_warps=warps) for size, warps in TUNED]
    key = ["width", "EXPERTS", "SLOTS", "RANK", "GATED", "DROPPED"]
    return triton.autotune(configs=configs, key=key)(kernel)
