"""Whether two routers send the same tokens the same way, their experts being numbered as they like.

Experts have no names across seeds, so their numbers are matched first: the matching that makes most tokens agree. That
matching also fits noise, so the agreement stands beside what the same loads give by chance, matched in the same way.
Adjusted mutual information needs no matching and is zero by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

CHANCE_DRAWS = 20


@dataclass(frozen=True)
class Agreement:
    """How far two sequences of choices agree.

    Attributes:
        tokens: Tokens for which both chose an expert.
        matched: Share of tokens that agree after the best one-to-one matching of experts.
        chance: The mean of that share over random tables of the same loads.
        ami: Adjusted mutual information; None where both send all tokens to one expert, so that there is nothing to
            agree on.
    """

    tokens: int
    matched: float
    chance: float
    ami: float | None


def agreement(first: np.ndarray, second: np.ndarray, *, none: int, seed: int = 0) -> Agreement | None:
    """Compare two routers' choices on the same tokens in the same order, each (T,).

    Args:
        first: Expert numbers of one router.
        second: Expert numbers of the other.
        none: The number that stands for "no expert"; such tokens are left out.
        seed: Seeds the random tables.

    Returns:
        The agreement, or None where no token is left.

    Raises:
        ValueError: The sequences differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"found choices of {len(first)} and {len(second)} tokens, expected the same tokens")
    both = (first != none) & (second != none)
    if not both.any():
        return None
    table = contingency(first[both], second[both])
    tokens = int(table.sum())
    return Agreement(tokens, best_match(table) / tokens, _chance(table, seed) / tokens, _adjusted(table))


def contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how often each pair of experts was chosen; experts that were never chosen are left out."""
    rows, columns = int(first.max()) + 1, int(second.max()) + 1
    cells = first.astype(np.int64) * columns + second
    table = np.bincount(cells, minlength=rows * columns).reshape(rows, columns)
    return table[table.any(1)][:, table.any(0)]


def best_match(table: np.ndarray) -> int:
    """Return the tokens on the diagonal after the best one-to-one matching of rows and columns."""
    return int(best_matches(table[None])[0])


def best_matches(tables: np.ndarray) -> np.ndarray:
    """Return for each of N tables (N, R, C) what `best_match` returns, (N,).

    A few experts are matched in every possible way at once, which is quicker than one solver's call a table.
    """
    if tables.shape[1] > tables.shape[2]:
        tables = tables.swapaxes(1, 2)
    _, rows, columns = tables.shape
    if columns <= 4:
        return tables[:, np.arange(rows), _orders(rows, columns)].sum(-1).max(-1)
    assign = _assignment()
    chosen = np.stack([assign(table, maximize=True)[1] for table in tables])
    return np.take_along_axis(tables, chosen[:, :, None], axis=2).sum((1, 2))


@cache
def _orders(rows: int, columns: int) -> np.ndarray:
    """Return every way to give each row a column of its own, (ways, rows)."""
    return np.array(list(itertools.permutations(range(columns), rows)))


@cache
def _assignment() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    from scipy.optimize import linear_sum_assignment  # scipy.optimize takes long to import

    return linear_sum_assignment


def _chance(table: np.ndarray, seed: int) -> float:
    from scipy.stats import random_table

    if min(table.shape) == 1:
        return float(table.max())  # the margins leave no choice
    drawn = random_table.rvs(table.sum(1), table.sum(0), size=CHANCE_DRAWS, random_state=np.random.default_rng(seed))
    return float(np.mean(best_matches(drawn)))


def _adjusted(table: np.ndarray) -> float | None:
    # scikit-learn's adjusted_mutual_info_score takes labels and spends most of its time on checking them.
    from sklearn.metrics.cluster import expected_mutual_information

    if max(table.shape) == 1:
        return None
    if min(table.shape) == 1:
        return 0.0
    expected = expected_mutual_information(table, int(table.sum()))
    apart = _entropy(table.sum(0)) + _entropy(table.sum(1))
    found, most = apart - _entropy(table.ravel()), apart / 2
    return float((found - expected) / max(most - expected, np.finfo(np.float64).eps))


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
