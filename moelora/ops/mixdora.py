"""MixDoRA's feed-forward blocks: MixLoRA in which every LoRA is a DoRA.

Expert e of a gated block is ``W2_e (act(W1_e x + b1) * (W3_e x + b3)) + b2`` with the rows of
``W_e = (m_e / n_e) ∘ (W + s B_e A_e)`` rescaled to the expert's magnitudes, n_e being the detached row norms.

The frozen gate and up products are still shared by a token's experts, since the rescaling comes after them. The down
projection is not: Σ_k g_k c_k ∘ (W2 h_k), with c_k = m_k / n_k, is the linear map [diag(c_1) W2 … diag(c_K) W2] of K
hidden rows that have nothing in common. Where the scales of all experts span J dimensions, c_e = Σ_j α_ej u_j, it is
Σ_j u_j ∘ W2 (Σ_k g_k α_kj h_k): J products a token. Trained scales span as many as there are experts, so only J = 1
would pay with K = 2, and that is one scale for all experts: no MixDoRA. So the form has K products a token, in the
backward pass too, and by multiplications with T tokens it costs

* frozen products: (2 + K) D F T forward and as many backward, where MixLoRA has 3 D F T: with K = 2 4/3 of it, and 3/2
  for a two-matrix block ((1 + K) instead of 2);
* the norms: A Wᵀ for each of the three matrices, 3 E R D F forward only. Those of gate and up ride along with the
  frozen products as E R more rows; with E R = 64 and T = 512 the three are 5 % of the frozen products, with T = 4096
  0.6 %;
* rank-R work as in MixLoRA, and for each matrix a few more passes over the (token, expert) rows: rescaling, and dm.

With dropout and PEFT's semantics each of an expert's layers multiplies its input and its dropped input: 6 K D F T.

Notation: T tokens (any leading axes), N rows of a share, D width, F feed-forward width, R rank, E experts, K slots.
Source: MixLoRA, arXiv 2404.15159, and DoRA, arXiv 2402.09353; the forms are ours.
"""

import torch
from torch import Tensor

from moelora.ops.activations import elementwise
from moelora.ops.blocks import Assignment, Frozen, LowRank, Settings
from moelora.ops.dora import dora_linear
from moelora.ops.dora_norm import DoraNorm
from moelora.ops.mixdora_function import MixDoraBlock
from moelora.ops.precision import as_rows, cast_operands, without_autocast


def mixdora_gated(
    x: Tensor,
    gate: Frozen,
    up: Frozen,
    down: Frozen,
    factors: tuple[LowRank, LowRank, LowRank],
    magnitudes: tuple[Tensor, Tensor, Tensor],
    assignment: Assignment,
    settings: Settings,
    norms: tuple[DoraNorm, DoraNorm, DoraNorm] | None = None,
) -> Tensor:
    """Compute a gated block of MixDoRA.

    With dropout it goes expert by expert through `dora_linear`, where each LoRA drops its own input and the frozen
    products run twice, as PEFT's semantics need: exact and slower. ``settings.chunk`` is not used.

    Args:
        x: Tokens, (..., D).
        gate: Frozen gate projection, with its dense weight (of a quantised layer the dequantised one).
        up: Frozen up projection.
        down: Frozen down projection.
        factors: The experts' factors on gate, up and down.
        magnitudes: The experts' magnitudes on the three: (E, F), (E, F), (E, D).
        assignment: Experts of each token and their weights; -1 with weight 0 for unused slots.
        settings: Activation, scaling, dropout.
        norms: Keep the squared row norms of the frozen weights between passes.

    Returns:
        (..., D).
    """
    return _block(x, (gate, up, down), factors, magnitudes, assignment, settings, norms)


def mixdora_two_matrix(
    x: Tensor,
    inner: Frozen,
    outer: Frozen,
    factors: tuple[LowRank, LowRank],
    magnitudes: tuple[Tensor, Tensor],
    assignment: Assignment,
    settings: Settings,
    norms: tuple[DoraNorm, DoraNorm] | None = None,
) -> Tensor:
    """Compute a two-matrix block (BERT) of MixDoRA; arguments as in `mixdora_gated`."""
    return _block(x, (inner, outer), factors, magnitudes, assignment, settings, norms)


def _block(
    x: Tensor,
    frozen: tuple[Frozen, ...],
    factors: tuple[LowRank, ...],
    magnitudes: tuple[Tensor, ...],
    assignment: Assignment,
    settings: Settings,
    norms: tuple[DoraNorm, ...] | None,
) -> Tensor:
    norms = norms or tuple(DoraNorm() for _ in frozen)
    if settings.dropout:
        output = _expert_by_expert(as_rows(x), frozen, factors, magnitudes, assignment, settings, norms)
        return output.view(*x.shape[:-1], output.shape[-1])
    rows, *flat = cast_operands(as_rows(x), *(matrix for pair in factors for matrix in pair))
    constants = [tensor for one in frozen for tensor in (one.weight, one.bias)]
    with without_autocast(rows):
        # Kept outside the function: torch.compile traces no function that changes an object.
        squares = tuple(norm.squares(one.weight) for norm, one in zip(norms, frozen, strict=True))
        output = MixDoraBlock.apply(
            elementwise(settings.activation), settings, assignment.experts, squares, tuple(one.again for one in frozen),
            rows, assignment.chosen, assignment.weights, *constants, *flat, *magnitudes,
        )  # fmt: skip
    return output.view(*x.shape[:-1], output.shape[-1])


@torch.compiler.disable  # how many tokens an expert has is for the data to say: one break instead of one an expert
def _expert_by_expert(
    rows: Tensor,
    frozen: tuple[Frozen, ...],
    factors: tuple[LowRank, ...],
    magnitudes: tuple[Tensor, ...],
    assignment: Assignment,
    settings: Settings,
    norms: tuple[DoraNorm, ...],
) -> Tensor:
    """Compute a block with dropout through autograd, each expert's layers on the rows of its tokens."""
    output = 0.0
    for expert in range(assignment.experts):
        tokens, slots = (assignment.chosen == expert).nonzero(as_tuple=True)

        def apply(place: int, values: Tensor, expert: int = expert) -> Tensor:
            layer, pair = frozen[place], factors[place]
            rank = len(pair.a) // assignment.experts
            part = slice(expert * rank, (expert + 1) * rank)
            return dora_linear(
                values, layer.weight, layer.bias, pair.a[part], pair.b[:, part], magnitudes[place][expert],
                settings.scaling, norms[place], settings.dropout,
            )  # fmt: skip

        own = rows.index_select(0, tokens)
        hidden = settings.activation(apply(0, own))
        if len(frozen) == 3:
            hidden = hidden * apply(1, own)
        result = apply(len(frozen) - 1, hidden)
        weighted = result * assignment.weights[tokens, slots].unsqueeze(-1).to(result.dtype)
        output = output + torch.zeros(len(rows), result.shape[1], dtype=result.dtype, device=result.device).index_add(
            0, tokens, weighted
        )
    return output
