"""Steps that the low-rank operators share.

Rank-R quantities are kept with the tokens last, (R, T): with few rows the products ``a x^T``, ``b^T y^T`` and
their gradients run up to eight times faster on a CPU than in the order (T, R), and never slower.

Notation: T tokens, D input width, O output width, R rank, E experts.
"""

import torch
from torch import Tensor

# From this rank on products in the order (O, R) are as fast as in the order (R, O).
LONG_RANK = 32


def drop(rows: Tensor, probability: float) -> tuple[Tensor, Tensor | None]:
    """Drop elements as `torch.nn.Dropout` does in training, with the same random numbers.

    Returns:
        The rows after dropout, and the boolean mask of what was kept (None when the probability is 0).
    """
    if not probability:
        return rows, None
    return torch.native_dropout(rows, probability, True)


def drop_again(values: Tensor, kept: Tensor | None, probability: float) -> Tensor:
    """Apply a mask of `drop` to other values; it is its own adjoint."""
    return values if kept is None else (values * kept).mul_(1 / (1 - probability))


def add_product(target: Tensor, left: Tensor, right: Tensor, scaling: float = 1.0) -> Tensor:
    """Add ``scaling * left @ right`` to a target that may be overwritten; return the sum in the target's dtype."""
    if target.dtype == left.dtype == right.dtype:
        return target.addmm_(left, right, alpha=scaling)
    return target.add_(torch.mm(left, right), alpha=scaling)


def scaled_product(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """Return ``scaling * left @ right`` as one product."""
    return left @ right if scaling == 1 else torch.addmm(left.new_empty(1), left, right, beta=0, alpha=scaling)


def project_plus(
    rows: Tensor, matrix: Tensor, left: Tensor, right: Tensor, scaling: float = 1.0, bias: Tensor | None = None
) -> Tensor:
    """Return ``rows @ matrix + bias + scaling * left @ right``, (T, O), in the dtype of the rows.

    The low-rank product comes first, since the wide one adds to what is there almost for nothing; the other way round
    the low-rank product would pass over a wide output once more.
    """
    matrix, bias = matrix.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    if not rows.dtype == left.dtype == right.dtype:
        output = rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
        return add_product(output, left, right, scaling)
    output = scaled_product(left, right, scaling) if bias is None else torch.addmm(bias, left, right, alpha=scaling)
    return output.addmm_(rows, matrix)


def second_gradient(widened: Tensor, dy: Tensor, scaling: float = 1.0) -> Tensor:
    """Return the gradient of second factors side by side, ``scaling * dy^T widened^T``, (O, E * R).

    Autograd copies a gradient that does not lie as its parameter does; with many columns that costs more than the
    slower product.

    Args:
        widened: What the second factors multiply, (E * R, T).
        dy: Gradient of the output, (T, O).
        scaling: A factor.
    """
    if widened.shape[0] < LONG_RANK:
        return scaled_product(widened, dy, scaling).T
    return scaled_product(dy.T, widened.T, scaling)


def widen(weights: Tensor, products: Tensor, rank: int) -> Tensor:
    """Multiply the rank-R products of E experts by the experts' weights.

    Args:
        weights: (E, T).
        products: (E * R, T), or (R, T) where all experts share their first factor.
        rank: R.

    Returns:
        (E * R, T).
    """
    grouped = products.view(products.shape[0] // rank, rank, products.shape[-1])
    return (grouped * weights.unsqueeze(1)).flatten(0, 1)
