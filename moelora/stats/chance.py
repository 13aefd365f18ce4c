"""What a constant answer scores, and how far luck carries it."""

from __future__ import annotations

from math import sqrt

from scipy import stats

_PROPORTIONS = frozenset({"accuracy", "acc", "acc_norm", "exact_match"})
_CORRELATIONS = frozenset(
    {"matthews", "matthews_correlation", "mcc", "pearson", "pearsonr", "spearman", "spearmanr", "pearson_spearman"}
)


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
    return lies_within(score, chance_interval(rate, n_items, level))


def chance_bounds(metric: str, chance: float, n_items: int, level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of chance of a metric: what answers that know nothing of an item reach by luck.

    Right answers are counted by the binomial. The F1 of the constant answer 1 rises with the number of items whose
    answer that is, so its interval is the binomial's. A correlation of answers that are independent of the labels has
    mean 0 and, over all orders of the items, variance 1 / (N - 1); this is exact for Pearson's, Spearman's and
    Matthews' (Pearson's of two classes), and the normal form is an approximation. Of other metrics none is known.

    Args:
        metric: Its name.
        chance: What the constant answer scores.
        n_items: N, items of the test set.
        level: Share of such test sets that fall inside.

    Returns:
        Lower and upper value, or None.

    Raises:
        ValueError: A rate outside 0..1 or no items.
    """
    if is_proportion(metric):
        return chance_interval(chance, n_items, level)
    if metric == "f1":
        low, high = chance_interval(chance / (2 - chance), n_items, level)
        return 2 * low / (1 + low), 2 * high / (1 + high)
    if metric in _CORRELATIONS and n_items > 1:
        reach = min(1.0, float(stats.norm.ppf((1 + level) / 2)) / sqrt(n_items - 1))
        return -reach, reach
    return None


def lies_within(score: float, bounds: tuple[float, float]) -> bool:
    """Return whether a score lies in an interval, its ends and the rounding of a float included."""
    return bounds[0] - 1e-12 <= score <= bounds[1] + 1e-12
