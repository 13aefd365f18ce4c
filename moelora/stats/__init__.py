"""Statistics of the suite: intervals, chance levels, tests and what they can show. No torch."""

from moelora.stats.across import FEW_TASKS, Ranks, Verdict, average_ranks, difference_draws, practical_verdict
from moelora.stats.between import (
    Comparison,
    crossed_test,
    few_seeds_note,
    seed_test,
    sign_flip_p,
    smallest_p,
)
from moelora.stats.bootstrap import (
    DRAWS,
    Estimate,
    SeedSpread,
    combine_seeds,
    estimate,
    normal_draws,
    pooled_spread,
    resampling_counts,
)
from moelora.stats.chance import chance_bounds, chance_interval, is_proportion, lies_within, within_chance
from moelora.stats.detectable import detectable_difference, error_of_difference, power_of
from moelora.stats.effects import Effect, standardised_effect
from moelora.stats.family import holm
from moelora.stats.metrics import Items, item_metric, resampled_metric
from moelora.stats.paired import Difference, SeedScores, average_scores, paired_difference
from moelora.stats.trained_models import TRAINED_MODELS, ModelComparison, compare_models, mcnemar_p

__all__ = [
    "DRAWS",
    "FEW_TASKS",
    "TRAINED_MODELS",
    "Comparison",
    "Difference",
    "Effect",
    "Estimate",
    "Items",
    "ModelComparison",
    "Ranks",
    "SeedScores",
    "SeedSpread",
    "Verdict",
    "average_ranks",
    "average_scores",
    "chance_bounds",
    "chance_interval",
    "combine_seeds",
    "compare_models",
    "crossed_test",
    "detectable_difference",
    "difference_draws",
    "error_of_difference",
    "estimate",
    "few_seeds_note",
    "holm",
    "is_proportion",
    "item_metric",
    "lies_within",
    "mcnemar_p",
    "normal_draws",
    "paired_difference",
    "pooled_spread",
    "power_of",
    "practical_verdict",
    "resampled_metric",
    "resampling_counts",
    "seed_test",
    "sign_flip_p",
    "smallest_p",
    "standardised_effect",
    "within_chance",
]
