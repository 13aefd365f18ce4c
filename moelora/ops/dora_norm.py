"""Row norms of W + s B A without forming an O x D matrix.

‖W + s B A‖² of each row is ‖W‖², which is constant, plus 2 s ⟨B, W Aᵀ⟩ plus s² ⟨B (A Aᵀ), B⟩.

Notation: D input width, O output width, R rank, E experts.
Source: DoRA, arXiv 2402.09353, for the norm; the expansion is ours.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from moelora.ops.low_rank import project_plus


class DoraNorm:
    """Row norms of one frozen layer's adapted weights, with the constant part kept.

    The squared norms of W are computed once and kept until `invalidate`. Call it whenever the frozen weight changes or
    moves (merging, loading, another device or dtype): a tensor's version counter does not tell, since fused
    optimisers and writes through ``.data`` do not raise it. What moves with A and B is computed anew in every pass:
    W Aᵀ comes from A's rows appended to the input of the frozen product.
    """

    def __init__(self):
        self._squares: Tensor | None = None

    def __getstate__(self) -> dict:
        return {"_squares": None}  # a copy or a loaded object may belong to another weight

    def invalidate(self) -> None:
        """Forget what was kept; the next pass computes it from the weight it gets."""
        self._squares = None

    def squares_of(self, make_weight: Callable[[], Tensor]) -> Tensor:
        """Return what `squares` does of a weight that is made (dequantised) only where nothing is kept."""
        return self.squares(make_weight()) if self._squares is None else self._squares

    def squares(self, weight: Tensor) -> Tensor:
        """Return the squared norm of each row of W, (O,), in float32 at the least."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        kept = self._squares
        if kept is None or kept.device != weight.device or kept.dtype != dtype:
            self._squares = torch.linalg.vector_norm(weight.detach(), dim=1, dtype=dtype).square()
        return self._squares


def row_norms(squares: Tensor, cross: Tensor, a: Tensor, b: Tensor, scaling: float, experts: int = 1) -> Tensor:
    """Return the row norms of W + s B_e A_e for each expert, (E, O), without a graph.

    Args:
        squares: Squared row norms of W, (O,), from `DoraNorm.squares`.
        cross: A Wᵀ, (E * R, O).
        a: Stacked first factors, (E * R, D).
        b: Second factors side by side, (O, E * R).
        scaling: s.
        experts: E.
    """
    first = a.detach().to(squares.dtype).view(experts, -1, a.shape[1])
    second = b.detach().to(squares.dtype).T.reshape(experts, -1, b.shape[0])
    cross = cross.to(squares.dtype).view(second.shape)
    moved = torch.baddbmm(cross, first @ first.mT, second, beta=2 * scaling, alpha=scaling * scaling)
    total = squares + (second * moved).sum(1)
    # Rounding may leave a row that is nearly cancelled below zero.
    return total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()


def project_with(
    rows: list[Tensor],
    a: Tensor,
    weight: Tensor,
    products: Tensor | None = None,
    b: Tensor | None = None,
    scaling: float = 1.0,
) -> tuple[Tensor, ...]:
    """Return each of ``rows`` times Wᵀ, and A Wᵀ, from one product: A's few rows ride along almost free.

    Args:
        rows: Matrices (T, D).
        a: First factors, (E * R, D). In half precision they are rounded to the dtype of the rows.
        weight: Frozen weight, (O, D).
        products: With ``b``, ``scaling * productsᵀ bᵀ`` is added to the first of the rows, (R, T).
        b: Second factor, (O, R).
        scaling: s.

    Returns:
        All but the last are (T, O), the last (E * R, O).
    """
    stacked = torch.cat([*rows, a.to(rows[0].dtype)])
    if products is None:
        projected = torch.mm(stacked, weight.to(stacked.dtype).T)
    else:
        # The rows that ride along have no increment.
        left = functional.pad(products, (0, len(stacked) - products.shape[1])).T
        projected = project_plus(stacked, weight.T, left, b.T, scaling)
    return projected.split([*(len(one) for one in rows), len(a)])
