"""How large a difference is beside the scatter of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

_NOTHING = 1e-12
"""Below this a deviation is rounding of floats, not scatter."""

_STEPS = 4000


@dataclass(frozen=True)
class Effect:
    """A standardised difference: in units of the scatter of seeds' differences.

    Attributes:
        size: Hedges' g of the paired differences; infinite where the seeds do not scatter at all.
        low: Lower end of its interval.
        high: Upper end.
    """

    size: float
    low: float
    high: float


def standardised_effect(differences: Sequence[float], level: float = 0.95) -> Effect | None:
    """Return the mean difference in units of the seeds' scatter, with its interval; None below three seeds.

    The interval inverts the noncentral t distribution; with few seeds it is wide, which is the point of showing it.

    Args:
        differences: Differences seed by seed.
        level: Coverage of the interval.

    Source:
        Hedges, Distribution theory for Glass's estimator of effect size (1981), for the small-sample correction.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 3:  # with two the correction below has no value
        return None
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if deviation < _NOTHING:
        size = math.copysign(math.inf, mean) if abs(mean) >= _NOTHING else 0.0
        return Effect(size, size, size)
    t = mean / deviation * math.sqrt(n)
    low, high = (_noncentrality(t, n - 1, q) / math.sqrt(n) for q in ((1 + level) / 2, (1 - level) / 2))
    correction = 1 - 3 / (4 * (n - 1) - 1)
    return Effect(correction * mean / deviation, correction * low, correction * high)


def _noncentrality(t: float, degrees: float, probability: float) -> float:
    """Return the noncentrality under which a t as small has the given probability."""
    # scipy's own noncentral t gives NaN for some large t, so it is averaged over the estimated deviation instead.
    deviations = _deviations(degrees)

    def excess(noncentrality: float) -> float:
        return float(stats.norm.cdf(t * deviations - noncentrality).mean()) - probability

    reach = 5.0
    while excess(t - reach) < 0 or excess(t + reach) > 0:
        reach *= 2
    return float(optimize.brentq(excess, t - reach, t + reach, xtol=1e-6))


@lru_cache(maxsize=64)
def _deviations(degrees: float) -> np.ndarray:
    """Return what a deviation of 1 is estimated as, at even steps of its distribution, shape (_STEPS,)."""
    return np.sqrt(stats.chi2.ppf((np.arange(_STEPS) + 0.5) / _STEPS, degrees) / degrees)
