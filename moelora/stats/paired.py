"""Differences between two variants that share seeds and items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moelora.stats.bootstrap import Estimate, SeedSpread, combine_seeds, estimate


@dataclass(frozen=True)
class SeedScores:
    """One variant on one task: a score and its item draws for every seed.

    Attributes:
        values: Metric by seed.
        draws: Metric in each resample of the items by seed, shape (B,) each.
        bounds: Range of the metric.
        spread: What the other variants of the column tell of the variance between seeds.
    """

    values: Mapping[int, float]
    draws: Mapping[int, np.ndarray]
    bounds: tuple[float, float] | None = (0.0, 1.0)
    spread: SeedSpread | None = None

    @property
    def seeds(self) -> list[int]:
        """The seeds there are, ascending."""
        return sorted(self.values)

    def only(self, seeds: Iterable[int]) -> SeedScores:
        """Return the scores of some of the seeds."""
        kept = set(seeds)
        return replace(
            self,
            values={s: v for s, v in self.values.items() if s in kept},
            draws={s: d for s, d in self.draws.items() if s in kept},
        )

    def estimate(self, level: float = 0.95) -> Estimate:
        """Return the mean over seeds with its interval over seeds and items."""
        return estimate(*self._arrays(self.seeds), bounds=self.bounds, level=level, prior=self.spread)

    def _arrays(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([self.values[s] for s in seeds]), np.stack([self.draws[s] for s in seeds])


@dataclass(frozen=True)
class Difference:
    """The first variant minus the second.

    Attributes:
        mean: Mean difference over the shared seeds.
        low: Lower end of its interval.
        high: Upper end.
        n_seeds: Shared seeds. With one the interval speaks of two trained models, not of two methods;
            with none the two were compared unpaired.
    """

    mean: float
    low: float
    high: float
    n_seeds: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0.0 or self.high < 0.0


def paired_difference(first: SeedScores, second: SeedScores, level: float = 0.95) -> Difference:
    """Return the difference of two variants with its interval over seeds and items.

    Seeds that both have are compared one by one. The item draws of both come from the same resamples
    where the test set is the same, so what is hard for both cancels.

    Args:
        first: Scores of the first variant.
        second: Scores of the second.
        level: Coverage the interval aims at; there is no correction for many comparisons.
    """
    shared = sorted(set(first.values) & set(second.values))
    if shared:
        values_a, draws_a = first._arrays(shared)
        values_b, draws_b = second._arrays(shared)
        point = values_a - values_b
        draws = combine_seeds(point, draws_a - draws_b, _spread_of_difference(first.spread, second.spread))
        mean = float(point.mean())
    else:
        values_a, draws_a = first._arrays(first.seeds)
        values_b, draws_b = second._arrays(second.seeds)
        # The seed parts of both are shuffled alike when both have as many seeds; reversing one keeps
        # them from cancelling.
        draws = combine_seeds(values_a, draws_a, first.spread)
        draws = draws - combine_seeds(values_b, draws_b, second.spread)[::-1]
        mean = float(values_a.mean() - values_b.mean())
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Difference(mean, float(low), float(high), len(shared))


def _spread_of_difference(first: SeedSpread | None, second: SeedSpread | None) -> SeedSpread | None:
    # As of independent seeds. What paired seeds share makes the true variance smaller, so this errs wide.
    if first is None or second is None:
        return None
    return SeedSpread(first.variance + second.variance, min(first.degrees, second.degrees))


def average_scores(tasks: Sequence[SeedScores]) -> SeedScores | None:
    """Return the average over tasks, seed by seed, or None where no seed has them all.

    The tasks are taken as they are: the interval says nothing about other tasks.
    """
    if not tasks:
        return None
    shared = sorted(set.intersection(*(set(t.values) for t in tasks)))
    if not shared:
        return None
    lows, highs = zip(*(t.bounds or (-np.inf, np.inf) for t in tasks), strict=True)
    return SeedScores(
        values={s: float(np.mean([t.values[s] for t in tasks])) for s in shared},
        draws={s: np.mean([t.draws[s] for t in tasks], axis=0) for s in shared},
        bounds=(float(np.mean(lows)), float(np.mean(highs))),
    )
