"""Correction for many comparisons: Holm over a family."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return p values corrected for their number, so that a false alarm anywhere in the family stays at the level.

    Holm's step-down form needs no independence, and rejects whatever Bonferroni's does.

    Args:
        p_values: One a comparison. NaN (a comparison that could not be tested) stays NaN and is not counted.
    """
    from statsmodels.stats.multitest import multipletests  # a second to load, and few verbs need it

    tested = [key for key, p in p_values.items() if not math.isnan(p)]
    if not tested:
        return dict(p_values)
    corrected = multipletests([p_values[key] for key in tested], method="holm")[1]
    found = dict(zip(tested, map(float, corrected), strict=True))
    return {key: found.get(key, float("nan")) for key in p_values}
