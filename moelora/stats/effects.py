"""How large a difference is beside the scatter of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats


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
    """Return the mean difference over the deviation of the seeds' differences, with its interval; None with one seed.

    The interval inverts the noncentral t distribution; with few seeds it is wide, which is the point of showing it.

    Args:
        differences: Differences seed by seed.
        level: Coverage of the interval.

    Source:
        Hedges, Distribution theory for Glass's estimator of effect size (1981), for the small-sample correction.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        return None
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if deviation == 0.0:
        size = math.copysign(math.inf, mean) if mean else 0.0
        return Effect(size, size, size)
    t = mean / deviation * math.sqrt(n)
    low, high = (_noncentrality(t, n - 1, q) / math.sqrt(n) for q in ((1 + level) / 2, (1 - level) / 2))
    correction = 1 - 3 / (4 * (n - 1) - 1)
    return Effect(correction * mean / deviation, correction * low, correction * high)


def _noncentrality(t: float, degrees: float, probability: float) -> float:
    """Return the noncentrality under which a t as small has the given probability."""
    reach = 5.0
    while stats.nct.cdf(t, degrees, t - reach) < probability or stats.nct.cdf(t, degrees, t + reach) > probability:
        reach *= 2
    return float(optimize.brentq(lambda x: stats.nct.cdf(t, degrees, x) - probability, t - reach, t + reach, xtol=1e-6))
