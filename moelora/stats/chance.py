"""What a constant answer scores, and how far luck carries it."""

from __future__ import annotations

from scipy import stats

_PROPORTIONS = frozenset({"accuracy", "acc", "acc_norm", "exact_match"})


def is_proportion(metric: str) -> bool:
    """Return whether the metric counts right answers, so that a binomial interval belongs to it."""
    return metric in _PROPORTIONS or metric.startswith("acc_")  # a protocol's own accuracy says so in its name


def chance_interval(rate: float, n_items: int, level: float = 0.95) -> tuple[float, float]:
    """Return the scores that guessing at `rate` reaches by luck on `n_items` items.

    Args:
        rate: Share of right answers of the constant (or uniform) answer, between 0 and 1.
        n_items: Items of the test set.
        level: Share of such test sets that fall inside.

    Returns:
        Lower and upper share of right answers, from the quantiles of the binomial.

    Raises:
        ValueError: A rate outside 0..1 or no items.
    """
    if not 0.0 <= rate <= 1.0 or n_items < 1:
        raise ValueError(f"found rate {rate} on {n_items} items, expected a rate in 0..1 and at least one item")
    low, high = stats.binom.interval(level, n_items, rate)
    return float(low) / n_items, float(high) / n_items


def within_chance(score: float, rate: float, n_items: int, level: float = 0.95) -> bool:
    """Return whether a share of right answers can't be told from guessing at `rate`.

    A score below the interval is not within chance: it is worse than a constant answer.
    """
    low, high = chance_interval(rate, n_items, level)
    return low - 1e-12 <= score <= high + 1e-12
