"""Simulated benchmarks with a known truth: what the intervals and tests of this package are worth.

Every seed of a method has a true rate of its own (the between-seed variance), and answers every item. What an item does
is partly common to all methods (its difficulty), partly a method's own for all its seeds (a quirk that another test set
would not have), partly luck. Two methods of equal expected rate are the null.

    z_msi = √shared · difficulty_i + √own · quirk_mi + √(1 − shared − own) · luck_msi; right where z_msi < Φ⁻¹(rate_ms)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from moelora.stats.between import crossed_test, seed_test, sign_flip_p
from moelora.stats.bootstrap import pooled_spread, resampling_counts
from moelora.stats.paired import SeedScores, paired_difference
from moelora.stats.trained_models import mcnemar_p

_CHUNK = 100


@dataclass(frozen=True)
class Setting:
    """One simulated benchmark.

    Attributes:
        n_seeds: S, seeds of every variant.
        seed_deviation: Deviation of a variant's true rate between seeds, as a share (0.03 is three points).
        n_items: N, items of the test set.
        effect: What the first variant is better by in expectation.
        truth: Expected rate of all other variants.
        shared: Share of the latent variance that is the items' difficulty.
        own: Share that is a method's own way with an item, the same for all its seeds.
        variants: Variants of the table, which tell each other of the scatter between seeds.
        others_deviation: Deviation between seeds of the variants after the first two, where it is another one.
    """

    n_seeds: int
    seed_deviation: float
    n_items: int = 408
    effect: float = 0.0
    truth: float = 0.8
    shared: float = 0.5
    own: float = 0.1
    variants: int = 5
    others_deviation: float | None = None


@dataclass(frozen=True)
class Study:
    """What a number of simulated benchmarks showed.

    Attributes:
        setting: What was simulated.
        repetitions: How often.
        coverage: Share of 95 % intervals that held the truth, by kind.
        rejections: Share of tests at 5 % that told the first two variants apart, by test: false alarms without an
            effect, power with one.
    """

    setting: Setting
    repetitions: int
    coverage: dict[str, float]
    rejections: dict[str, float]


def simulate(setting: Setting, repetitions: int, generator: np.random.Generator) -> np.ndarray:
    """Return right and wrong answers, shape (repetitions, variants, S, N), as 0 and 1 in float32."""
    shape = (repetitions, setting.variants, setting.n_seeds, setting.n_items)
    rates = np.full(setting.variants, setting.truth)
    rates[0] += setting.effect
    deviations = np.full(setting.variants, setting.seed_deviation)
    if setting.others_deviation is not None:
        deviations[2:] = setting.others_deviation
    rates = rates[:, None] + deviations[:, None] * generator.standard_normal(shape[:3])
    limits = stats.norm.ppf(np.clip(rates, 1e-6, 1 - 1e-6))
    latent = np.sqrt(1 - setting.shared - setting.own) * generator.standard_normal(shape, dtype=np.float32)
    for weight, kept in ((setting.shared, (0, 3)), (setting.own, (0, 1, 3))):
        drawn = generator.standard_normal([n if i in kept else 1 for i, n in enumerate(shape)], dtype=np.float32)
        latent += np.sqrt(weight, dtype=np.float32) * drawn
    return (latent < limits[..., None]).astype(np.float32)


def study(setting: Setting, repetitions: int, key: int = 0) -> Study:
    """Run the package's intervals and tests on simulated benchmarks.

    Args:
        setting: The benchmark.
        repetitions: How many of them.
        key: Names the random stream.
    """
    generator = np.random.Generator(np.random.PCG64([key, setting.n_seeds, int(1e4 * setting.seed_deviation)]))
    counts = resampling_counts(setting.n_items).astype(np.float32)
    covered: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for start in range(0, repetitions, _CHUNK):
        answers = simulate(setting, min(_CHUNK, repetitions - start), generator)
        draws = (answers @ counts.T) / setting.n_items
        for answer, drawn in zip(answers, draws, strict=True):
            for name, inside in _intervals(setting, answer, drawn):
                covered[name] = covered.get(name, 0) + inside
            for name, found in _tests(answer, drawn):
                rejected[name] = rejected.get(name, 0) + found
    return Study(
        setting,
        repetitions,
        {name: n / repetitions for name, n in covered.items()},
        {name: n / repetitions for name, n in rejected.items()},
    )


def _table(answers: np.ndarray, draws: np.ndarray) -> list[SeedScores]:
    """Return the column of a table: one `SeedScores` a variant, with what all say of the scatter."""
    values = answers.mean(axis=2, dtype=np.float64)
    spread = pooled_spread(values)
    return [
        SeedScores(dict(enumerate(v)), dict(enumerate(d)), spread=spread) for v, d in zip(values, draws, strict=True)
    ]


def _intervals(setting: Setting, answers: np.ndarray, draws: np.ndarray) -> Iterator[tuple[str, bool]]:
    first, second, *_ = _table(answers, draws)
    found = second.estimate()
    yield "score in a table", found.low <= setting.truth <= found.high
    difference = paired_difference(first, second)
    yield "difference in a table", difference.low <= setting.effect <= difference.high
    for name, compared in (
        ("paired t over seeds", seed_test(first, second)),
        ("crossed", crossed_test(first, second, moderated=False)),
        ("crossed, moderated", crossed_test(first, second)),
    ):
        yield name, compared.low <= setting.effect <= compared.high


def _tests(answers: np.ndarray, draws: np.ndarray) -> Iterator[tuple[str, bool]]:
    first, second, *_ = _table(answers, draws)
    yield "paired t over seeds", seed_test(first, second).p < 0.05
    yield "crossed", crossed_test(first, second, moderated=False).p < 0.05
    yield "crossed, moderated", crossed_test(first, second).p < 0.05
    yield "interval in a table", paired_difference(first, second).distinguishable
    yield "sign-flip over seeds", sign_flip_p([first.values[s] - second.values[s] for s in first.seeds]) < 0.05
    a, b = answers[0] == 1, answers[1] == 1
    yield "McNemar, one seed", mcnemar_p(int((a & ~b)[0].sum()), int((b & ~a)[0].sum())) < 0.05
    yield "McNemar, seeds pooled", mcnemar_p(int((a & ~b).sum()), int((b & ~a).sum())) < 0.05
