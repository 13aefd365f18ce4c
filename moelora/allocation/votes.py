"""Votes: each task names the modules that it finds sensitive among their likes."""

from collections.abc import Mapping

import numpy

from moelora.errors import AllocationError

# Module (its type and part) → the pool in which it is compared, or None for a module that never gets a vote.
POOLS = {
    # "output" is a module of the attention and another of the feed-forward block in encoders
    "per_type": lambda module: f"{module.part} {module.kind}",
    "all": lambda module: "all",
    "part": lambda module: module.part,
    "attention": lambda module: "attention" if module.part == "attention" else None,
}


def smoe_percentile(
    scores: Mapping[str, Mapping[str, float]],
    pools: "Mapping[str, str | None]",
    percentile: float,
    least: bool = False,
) -> dict[str, int]:
    """Give a module one expert for each task whose score lies strictly above the percentile of its pool.

    Args:
        scores: task → module → score.
        pools: module → the pool over which the percentile is taken; ``None`` for modules that get no vote.
        percentile: q in [0, 100]; linear interpolation between order statistics.
        least: vote for the least sensitive instead: strictly below the percentile 100 − q.

    Returns:
        Module → experts, from 0 to the number of tasks; every module of ``pools`` is named.

    Raises:
        AllocationError: the percentile is out of range or a task scores other modules than the pools name.

    Source: LoRA-SMoE's public notebook; its variants a, c and d are the pools per_type, all and attention. Voting for
    the least sensitive is ours, a control.
    """
    if not 0 <= percentile <= 100:
        raise AllocationError(f"percentile must lie in [0, 100], found {percentile}")
    counts = dict.fromkeys(sorted(pools), 0)
    for task, by_module in scores.items():
        if set(by_module) != set(pools):
            odd = sorted(set(by_module) ^ set(pools))[:3]
            raise AllocationError(f"task '{task}' scores other modules than the first task does, such as {odd}")
        for module in choose_modules(by_module, pools, percentile, least):
            counts[module] += 1
    return counts


def choose_modules(
    scores: Mapping[str, float], pools: "Mapping[str, str | None]", percentile: float, least: bool = False
) -> set[str]:
    """Return the modules that one task votes for (see `smoe_percentile`)."""
    chosen = set()
    for pool in {pool for pool in pools.values() if pool is not None}:
        members = [module for module in sorted(pools) if pools[module] == pool]
        values = [-scores[module] if least else scores[module] for module in members]
        threshold = numpy.percentile(values, percentile)
        chosen |= {module for module, value in zip(members, values, strict=True) if value > threshold}
    return chosen
