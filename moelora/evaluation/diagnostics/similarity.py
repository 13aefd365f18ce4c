"""How alike the experts of a module are: cosines of their increments B_e A_e, from the factors alone.

<B_e A_e, B_f A_f> = tr((B_e^T B_f)(A_f A_e^T)) = sum((B_e^T B_f) * (A_e A_f^T)): two products of the stacked
factors give all pairs, and no O x D matrix is formed. Source: the identity is elementary; the measure is ours.
"""

from typing import Any

import torch
from torch import Tensor

from moelora.evaluation.diagnostics.recorder import layer_of


def increment_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the Frobenius inner products of the experts' increments, (E, E), in float64.

    Args:
        a: First factors, (E, R, D).
        b: Second factors, (E, O, R).
    """
    experts, rank, _ = a.shape
    wide_a = a.detach().cpu().double().reshape(experts * rank, -1)
    wide_b = b.detach().cpu().double().transpose(1, 2).reshape(experts * rank, -1)
    products = (wide_b @ wide_b.T) * (wide_a @ wide_a.T)
    return products.view(experts, rank, experts, rank).sum((1, 3))


def increment_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines of the experts' increments, (E, E), NaN for an expert whose increment is zero."""
    products = increment_products(a, b)
    norms = products.diagonal().clamp(min=0).sqrt()
    norms = torch.where(norms > 0, norms, torch.nan)
    return (products / norms[:, None] / norms[None, :]).clamp(-1, 1)


def expert_similarity(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Return one row per module and role with several experts, sorted.

    Returns:
        Rows with ``module``, ``role`` (empty for a linear of its own; gate, up, down, inner or outer in a feed-forward
        block), ``layer``, ``experts``, ``mean`` and ``max`` of the cosines of pairs. Both are None where fewer
        than two experts have an increment, as before training.
    """
    from moelora.tuners.experts import expert_factors

    rows = []
    for module, role, a, b in expert_factors(model):
        experts = a.shape[0]
        if experts < 2:
            continue
        cosines = increment_cosines(a, b)
        pairs = cosines[*torch.triu_indices(experts, experts, offset=1)]
        pairs = pairs[~pairs.isnan()]
        rows.append(
            {
                "module": module,
                "role": role,
                "layer": layer_of(module),
                "experts": experts,
                "mean": float(pairs.mean()) if len(pairs) else None,
                "max": float(pairs.max()) if len(pairs) else None,
            }
        )
    return sorted(rows, key=lambda row: (row["module"], row["role"]))
