"""Hierarchical bootstrap over seeds and items.

Two things make a score uncertain: which items were drawn for the test, and which seed trained the
model. Items are many, so they are resampled. Seeds are few (three, say), and resampling three values
covers far less than it promises; their part is drawn from the t distribution of their mean instead.
Both parts are added draw by draw, so intervals of means, differences and averages over tasks all come
from the same draws.

Two or three seeds also know little of their own scatter (with two, t widens it thirteenfold). Where a
column of a table holds several variants, their scatter is a prior of at most four degrees of freedom for
each: the moderated variance of Smyth (2004), which gene-expression work uses for the same trouble.

The item part of the seeds' scatter is counted once in each part, which errs on the wide side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

DRAWS = 1000
"""Draws of every bootstrap, B in the docstrings of this package."""

_SEED = 20240607


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        mean: The mean over seeds of the metric.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n_seeds: How many seeds went into it; with one, the interval speaks of items alone.
    """

    mean: float
    low: float
    high: float
    n_seeds: int


@dataclass(frozen=True)
class SeedSpread:
    """What is known beforehand of the variance between seeds.

    Attributes:
        variance: Variance of one seed's score.
        degrees: Degrees of freedom this knowledge is worth.
        pooled: Degrees of freedom that it was pooled from, for `without`; None where it comes from elsewhere.
    """

    variance: float
    degrees: float
    pooled: float | None = None

    def without(self, groups: Iterable[Sequence[float]]) -> SeedSpread | None:
        """Return what is left when some of the pooled variants are taken out; None where nothing is.

        A test of two variants may not let them speak twice: once by their difference, once as prior knowledge.

        Args:
            groups: For each variant to be taken out the scores of its seeds.
        """
        if self.pooled is None:
            return self
        squares, degrees = self.variance * self.pooled, self.pooled
        for values in groups:
            squares -= float(np.var(values, ddof=1)) * (len(values) - 1) if len(values) > 1 else 0.0
            degrees -= max(len(values) - 1, 0)
        if degrees < 0.5:
            return None
        return SeedSpread(max(squares, 0.0) / degrees, min(degrees, PRIOR_DEGREES), degrees)


PRIOR_DEGREES = 4.0
"""The most that other variants may say about a variant's scatter: they need not scatter alike."""


def pooled_spread(groups: Iterable[Sequence[float]]) -> SeedSpread | None:
    """Return the variance between seeds, pooled over variants; None where no variant has two seeds.

    Args:
        groups: For each variant the scores of its seeds.

    Source:
        Smyth, Linear models and empirical Bayes methods (2004), with the prior's weight capped instead of
        estimated: a table has too few variants to estimate it.
    """
    squares, degrees = 0.0, 0
    for values in groups:
        if len(values) > 1:
            squares += float(np.var(values, ddof=1)) * (len(values) - 1)
            degrees += len(values) - 1
    return SeedSpread(squares / degrees, min(float(degrees), PRIOR_DEGREES), float(degrees)) if degrees else None


@lru_cache(maxsize=16)
def resampling_counts(n_items: int, draws: int = DRAWS, stream: int = 0) -> np.ndarray:
    """Return how often each item occurs in each resample, shape (B, n_items), float64.

    The counts depend on nothing but the arguments. Two variants that were scored on the same items are
    therefore resampled together, and their differences are paired.

    Args:
        n_items: Items of the test set.
        draws: B, the number of resamples.
        stream: Names the test set, so that two tasks of one size are resampled independently.

    Raises:
        ValueError: There is no item.
    """
    if n_items < 1:
        raise ValueError("found a test set of 0 items, expected at least one to resample")
    generator = np.random.Generator(np.random.PCG64([_SEED, n_items, stream]))
    picked = generator.integers(0, n_items, size=(draws, n_items))
    picked += np.arange(draws)[:, None] * n_items
    counts = np.bincount(picked.ravel(), minlength=draws * n_items)
    counts = counts.reshape(draws, n_items).astype(np.float64)
    counts.setflags(write=False)
    return counts


def normal_draws(low: float, high: float, key: int, draws: int = DRAWS) -> np.ndarray:
    """Return B draws around 0 of a normal with the width of a 95 % interval, shape (B,).

    For records whose items are not at hand, as published ones: the record keeps the interval over items.

    Args:
        low: Lower end of the record's interval.
        high: Upper end.
        key: Names the stream, so that two runs are not drawn alike.
        draws: B.
    """
    deviation = max(high - low, 0.0) / (2 * stats.norm.ppf(0.975))
    return deviation * _shuffled(stats.norm.ppf(_midpoints(draws)), key)


def combine_seeds(values: np.ndarray, item_draws: np.ndarray, prior: SeedSpread | None = None) -> np.ndarray:
    """Return B draws of the mean over seeds, shape (B,).

    Args:
        values: The metric of each seed, shape (S,). With one seed the draws are of items alone.
        item_draws: The metric of each seed in each resample of the items, shape (S, B).
        prior: What other variants tell of the variance between seeds.

    Raises:
        ValueError: The shapes do not belong together.
    """
    values = np.asarray(values, dtype=np.float64)
    item_draws = np.asarray(item_draws, dtype=np.float64)
    if values.ndim != 1 or item_draws.ndim != 2 or len(values) != len(item_draws) or not len(values):
        raise ValueError(
            f"found values of shape {values.shape} and item draws of shape {item_draws.shape}, "
            "expected (seeds,) and (seeds, draws)"
        )
    n_seeds, draws = item_draws.shape
    combined = item_draws.mean(axis=0)
    if n_seeds == 1:
        return combined
    variance, degrees = float(values.var(ddof=1)), n_seeds - 1.0
    if prior is not None:
        variance = (variance * degrees + prior.variance * prior.degrees) / (degrees + prior.degrees)
        degrees += prior.degrees
    standard_error = np.sqrt(variance / n_seeds)
    return combined + standard_error * _shuffled(stats.t.ppf(_midpoints(draws), degrees), n_seeds)


def estimate(
    values: np.ndarray,
    item_draws: np.ndarray,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    prior: SeedSpread | None = None,
) -> Estimate:
    """Return the mean over seeds with its interval over seeds and items.

    Args:
        values: The metric of each seed, shape (S,).
        item_draws: The metric of each seed in each resample, shape (S, B).
        bounds: Range of the metric; an interval never leaves it.
        level: Coverage the interval aims at.
        prior: What other variants tell of the variance between seeds.
    """
    draws = combine_seeds(values, item_draws, prior)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    if bounds is not None:
        low, high = np.clip([low, high], *bounds)
    return Estimate(float(np.mean(values)), float(low), float(high), len(values))


def _midpoints(draws: int) -> np.ndarray:
    return (np.arange(draws) + 0.5) / draws


def _shuffled(quantiles: np.ndarray, key: int) -> np.ndarray:
    # Quantiles at even steps, shuffled: the tails of t with two degrees of freedom are heavy, and
    # random draws of it would make the ends of the interval jump with B.
    return np.random.Generator(np.random.PCG64([_SEED, key])).permutation(quantiles)
