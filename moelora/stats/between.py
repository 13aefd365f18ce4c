"""Tests between two methods, in which the seeds are a sample and not the whole story.

A method is what it does over seeds, so a test of two methods must let other seeds come out otherwise. Two forms:

- `seed_test`: a paired t test on the seeds' scores. It takes the differences of the seeds as independent draws of one
  normal, and the test items as given: it says what other seeds would do on these items.
- `crossed_test`: seeds and items both drawn, crossed as they are in a benchmark (every seed answers every item). To the
  seeds' part it adds what items contribute to the mean over seeds, without counting their shared part twice. It says
  what other seeds would do on other items of the same kind.

Both use the degrees of freedom of the seeds, which are what is scarce. Satterthwaite's degrees would be larger where
the items' part is, but with three seeds they follow a variance that is known to a factor of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from moelora.stats.bootstrap import SeedSpread
from moelora.stats.paired import SeedScores

SEEDS = "other seeds of both methods, on these items"
SEEDS_AND_ITEMS = "other seeds of both methods, on other items of this kind"
"""What a test speaks of."""


@dataclass(frozen=True)
class Comparison:
    """The first method minus the second, with a test that they do not differ.

    Attributes:
        difference: Mean difference over the shared seeds.
        low: Lower end of the interval that belongs to the test.
        high: Upper end.
        p: Probability of a difference as large where there is none; NaN with a single seed.
        statistic: t.
        error: Standard error of the difference.
        degrees: Degrees of freedom of t.
        n_seeds: Shared seeds.
        scope: What the test speaks of.
    """

    difference: float
    low: float
    high: float
    p: float
    statistic: float
    error: float
    degrees: float
    n_seeds: int
    scope: str


def t_of_seeds(
    differences: np.ndarray, prior: SeedSpread | None = None, extra: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return t, its standard error and its degrees of freedom for differences of S ≥ 2 seeds, shape (..., S).

    Args:
        differences: The first method's score minus the second's, seed by seed.
        prior: What other variants tell of the variance of such a difference.
        extra: Variance of the mean that the seeds' scatter does not show, shape (...).
    """
    n_seeds = differences.shape[-1]
    variance, degrees = differences.var(axis=-1, ddof=1), n_seeds - 1.0
    if prior is not None:
        variance = (variance * degrees + prior.variance * prior.degrees) / (degrees + prior.degrees)
        degrees += prior.degrees
    error = np.sqrt(variance / n_seeds + extra)
    mean = differences.mean(axis=-1)
    # Seeds that agree to the last item give 0/0 (no difference) or a certain one.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0.0, 0.0, mean / error)
    return t, error, degrees


def item_variance(draws: np.ndarray) -> np.ndarray:
    """Return what items add to the variance of the mean over seeds beyond the seeds' own scatter, shape (...).

    With d_si = μ + seed_s + item_i + rest_si, the seeds' scatter over S holds σ²_seed/S + σ²_rest/(S·N), and the
    variance of the mean over seeds under resampled items holds σ²_item/N + σ²_rest/(S·N). A seed alone shows
    (σ²_item + σ²_rest)/N; from the two the rest is known, and is taken out of the second.

    Args:
        draws: Differences in each resample of the items, shape (..., S, B); S ≥ 2.

    Source:
        The variance components of a two-way crossed design with bootstrap variances for mean squares; ours.
    """
    n_seeds = draws.shape[-2]
    together = draws.mean(axis=-2).var(axis=-1, ddof=1)
    alone = draws.var(axis=-1, ddof=1).mean(axis=-1)
    rest = np.clip((alone - together) / (n_seeds - 1), 0.0, None)
    return np.clip(together - rest, 0.0, None)


def seed_test(first: SeedScores, second: SeedScores, level: float = 0.95, *, moderated: bool = False) -> Comparison:
    """Test two methods with a paired t test on the scores of their shared seeds.

    Args:
        first: Scores of the first method.
        second: Scores of the second.
        level: Coverage of the interval.
        moderated: Let the other variants of the column speak of the variance (`spread` of both).
    """
    return _test(first, second, level, SEEDS, moderated, crossed=False)


def crossed_test(first: SeedScores, second: SeedScores, level: float = 0.95, *, moderated: bool = True) -> Comparison:
    """Test two methods with seeds and items both as samples.

    Args:
        first: Scores of the first method, its item draws from the same resamples as the second's.
        second: Scores of the second.
        level: Coverage of the interval.
        moderated: Let the other variants of the column speak of the variance between seeds (`spread` of both).
    """
    return _test(first, second, level, SEEDS_AND_ITEMS, moderated, crossed=True)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of the mean under all 2^S changes of sign.

    It assumes no normal, only that a difference is as likely to be negative; see `smallest_p` for what it can show.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise ValueError("found no difference, expected at least one seed")
    found = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    return float(found.pvalue)


def smallest_p(n_seeds: int) -> float:
    """Return the smallest p that flipping the signs of S paired differences can give: 2 of the 2^S."""
    return 2.0 ** (1 - n_seeds)


def few_seeds_note(n_seeds: int, level: float = 0.95) -> str:
    """Return what a number of seeds can and can't show, in a sentence or two."""
    if n_seeds < 2:
        return "One seed: nothing can be said of the methods, only of the two trained models."
    floor = smallest_p(n_seeds)
    factor = stats.t.ppf((1 + level) / 2, n_seeds - 1) / stats.norm.ppf((1 + level) / 2)
    said = (
        f"{n_seeds} seeds: a t interval is {factor:.1f} times as wide as if the scatter between seeds were known, "
        f"and it takes their differences as normal."
    )
    if floor > 1 - level:
        said += f" Without that assumption no test can go below p = {floor:g} (sign-flip), so none can reject."
    return said


def _test(
    first: SeedScores, second: SeedScores, level: float, scope: str, moderated: bool, *, crossed: bool
) -> Comparison:
    shared = sorted(set(first.values) & set(second.values))
    if not shared:
        raise ValueError(
            f"found seeds {first.seeds} and {second.seeds}, expected some in common; run both on the same seeds"
        )
    differences = np.array([first.values[s] - second.values[s] for s in shared])
    mean, n_seeds = float(differences.mean()), len(shared)
    if n_seeds == 1:
        return Comparison(mean, *[float("nan")] * 5, 0.0, 1, scope)
    prior = _prior(first, second) if moderated else None
    extra = 0.0
    if crossed:
        extra = float(item_variance(np.stack([first.draws[s] - second.draws[s] for s in shared])))
    t, error, degrees = t_of_seeds(differences, prior, extra)
    half = float(stats.t.ppf((1 + level) / 2, degrees) * error)
    p = float(2 * stats.t.sf(abs(t), degrees))
    return Comparison(mean, mean - half, mean + half, p, float(t), float(error), degrees, n_seeds, scope)


def _prior(first: SeedScores, second: SeedScores) -> SeedSpread | None:
    """Return what is known of the variance of a difference beyond the differences themselves, or None.

    It is what the other variants of the column tell. Where the two compared scatter more than the others, their own
    variances stand in: a quiet rest of the table must not make two restless methods look steady.
    """
    if first.spread is None or second.spread is None:
        return None
    values = [list(scores.values.values()) for scores in (first, second)]
    others = [scores.spread.without(values) for scores in (first, second)]
    if others[0] is None or others[1] is None:
        return None
    theirs = others[0].variance + others[1].variance
    own = sum(float(np.var(v, ddof=1)) for v in values)
    return SeedSpread(max(theirs, own), min(others[0].degrees, others[1].degrees))
