"""What a table could have found: the smallest true difference that a test finds as often as asked."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy import optimize, stats

POWER = 0.8
"""How often a difference is to be found, where nothing else is said."""


def power_of(difference: float, error: float, degrees: float, level: float = 0.05, comparisons: int = 1) -> float:
    """Return how often a two-sided t test finds a true difference.

    Args:
        difference: The true difference.
        error: Standard error of its estimate, as it really is.
        degrees: Degrees of freedom with which the error is estimated.
        level: False alarms allowed in the family.
        comparisons: Size of the family; the first step of Holm's correction divides the level by it.
    """
    if error == 0.0:
        return 1.0 if difference else 0.0
    threshold = stats.t.ppf(1 - level / comparisons / 2, degrees)
    shift = abs(difference) / error
    # Beyond a shift of 4 the other tail is below 1e-7, and scipy's series for it may give NaN.
    other = stats.nct.cdf(-threshold, degrees, shift) if shift < 4 else 0.0
    return float(stats.nct.sf(threshold, degrees, shift) + other)


def error_of_difference(n_items: int, n_seeds: int, seed_deviation: float, disagreement: float) -> float:
    """Return the standard error of the mean paired difference of two shares of right answers.

    Args:
        n_items: Items of the test set, N.
        n_seeds: Seeds of both methods, S.
        seed_deviation: Deviation of one method's true score between seeds; that of a difference is √2 as large.
        disagreement: Share of items that just one of two trained models answers rightly.
    """
    if n_items < 1 or n_seeds < 1 or seed_deviation < 0 or not 0 <= disagreement <= 1:
        raise ValueError(
            f"found {n_items} items, {n_seeds} seeds, deviation {seed_deviation} and disagreement {disagreement}; "
            "expected at least one item and one seed, a deviation of 0 or more and a share"
        )
    return math.sqrt((2 * seed_deviation**2 + disagreement / n_items) / n_seeds)


def detectable_difference(
    error: float, degrees: float, level: float = 0.05, power: float = POWER, comparisons: int = 1
) -> float:
    """Return the smallest true difference that the test finds with the given power.

    Args:
        error: Standard error of the estimated difference.
        degrees: Degrees of freedom with which the error is estimated; infinite where it is known.
        level: False alarms allowed in the family.
        power: How often the difference is to be found.
        comparisons: Size of the family.

    Raises:
        ValueError: The power is not between the level and 1.
    """
    if not level < power < 1:
        raise ValueError(f"found power {power} at level {level}, expected one between the level and 1")
    # The noncentral t of infinitely many degrees is not defined in scipy.
    return error * _standard_errors(min(degrees, 1e6), level, power, comparisons)


@lru_cache(maxsize=1024)
def _standard_errors(degrees: float, level: float, power: float, comparisons: int) -> float:
    """Return the smallest difference that is found, in standard errors."""
    high = 1.0
    while power_of(high, 1.0, degrees, level, comparisons) < power:
        high *= 2
    return float(optimize.brentq(lambda d: power_of(d, 1.0, degrees, level, comparisons) - power, 0.0, high, xtol=1e-6))
