"""Statistics of the suite: intervals, chance levels and paired differences. No torch."""

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
from moelora.stats.chance import chance_interval, is_proportion, within_chance
from moelora.stats.metrics import Items, item_metric, resampled_metric
from moelora.stats.paired import Difference, SeedScores, average_scores, paired_difference

__all__ = [
    "DRAWS",
    "Difference",
    "Estimate",
    "Items",
    "SeedScores",
    "SeedSpread",
    "average_scores",
    "chance_interval",
    "combine_seeds",
    "estimate",
    "is_proportion",
    "item_metric",
    "normal_draws",
    "paired_difference",
    "pooled_spread",
    "resampled_metric",
    "resampling_counts",
    "within_chance",
]
