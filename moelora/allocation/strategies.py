"""Strategies: pure functions from sensitivities to experts per module.

``scores`` is task → module → score; ``pools`` is module → pool name. Nothing here needs torch.
"""

from collections.abc import Mapping

import numpy

from moelora.errors import AllocationError

POOLS = {
    "per_type": lambda module: module["type"],
    "part": lambda module: module["part"],
    "all": lambda module: "all",
}


def smoe_percentile(
    scores: Mapping[str, Mapping[str, float]], pools: Mapping[str, str], percentile: float
) -> dict[str, int]:
    """Give a module one expert for each task whose score lies strictly above the percentile of its pool.

    Args:
        scores: task → module → score.
        pools: module → the pool over which the percentile is taken.
        percentile: in [0, 100]; linear interpolation between order statistics.

    Returns:
        Module → experts, from 0 to the number of tasks; every module of ``pools`` is named.

    Raises:
        AllocationError: the percentile is out of range or a task scores other modules than the pools name.

    Source: LoRA-SMoE's public notebook (variants a, c and d differ in the pools).
    """
    if not 0 <= percentile <= 100:
        raise AllocationError(f"percentile must lie in [0, 100], found {percentile}")
    counts = dict.fromkeys(sorted(pools), 0)
    for task, by_module in scores.items():
        if set(by_module) != set(pools):
            odd = sorted(set(by_module) ^ set(pools))[:3]
            raise AllocationError(f"task '{task}' scores other modules than the first task does, such as {odd}")
        for pool in set(pools.values()):
            members = [module for module in counts if pools[module] == pool]
            threshold = numpy.percentile([by_module[module] for module in members], percentile)
            for module in members:
                counts[module] += int(by_module[module] > threshold)
    return counts


def uniform(scores: Mapping[str, Mapping[str, float]], pools: Mapping[str, str], experts: int) -> dict[str, int]:
    """Give every module the same number of experts."""
    return dict.fromkeys(sorted(pools), experts)
