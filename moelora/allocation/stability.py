"""How far sensitivities from one sample of examples agree with those from another. Nothing here needs torch."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from moelora.allocation.votes import choose_modules

SAME_SIZE, LARGEST = "same_size", "largest"


def agreement_rows(
    samples: Mapping[int, Mapping[int, Mapping[str, float]]], pools: "Mapping[str, str | None]", percentile: float
) -> list[dict[str, Any]]:
    """Return how samples agree, by size: pairs of seeds at one size, and each size with other seeds' largest.

    A sample is never compared with one that holds it: at ``largest`` the seeds differ too.

    Args:
        samples: seed → size → module → score.
        pools: module → pool of the votes (see `moelora.allocation.votes`).
        percentile: of the votes.

    Returns:
        One row a comparison: ``against`` (``same_size`` or ``largest``), ``examples``, ``seeds``, and what
        `compare_scores` says.
    """
    rows = []
    sizes = sorted({size for by_size in samples.values() for size in by_size})
    for size in sizes:
        seeds = sorted(seed for seed, by_size in samples.items() if size in by_size)
        for first, second in itertools.combinations(seeds, 2):
            found = compare_scores(samples[first][size], samples[second][size], pools, percentile)
            rows.append({"against": SAME_SIZE, "examples": size, "seeds": [first, second], **found})
        for first, second in itertools.permutations(seeds, 2):
            largest = samples[second].get(sizes[-1])
            if largest is not None and size != sizes[-1]:
                found = compare_scores(samples[first][size], largest, pools, percentile)
                rows.append({"against": LARGEST, "examples": size, "seeds": [first, second], **found})
    return rows


def compare_scores(
    first: Mapping[str, float], second: Mapping[str, float], pools: "Mapping[str, str | None]", percentile: float
) -> dict[str, "float | None"]:
    """Return how two sets of scores agree on the order of modules and on who is chosen.

    Returns:
        ``spearman`` over all modules; ``spearman_in_pools``, the mean over pools of three modules and more;
        ``overlap``, the share of the chosen modules that both choose; ``chance``, what two blind choices of as many
        modules in each pool overlap by on average; ``corrected``, (overlap − chance) / (1 − chance), 0 for chance and 1
        for the same choice. ``None`` where there is nothing to say: constant scores, or a choice without alternative.
    """
    modules = sorted(pools)
    by_pool: dict[str, list[str]] = {}
    for module in modules:
        if pools[module] is not None:
            by_pool.setdefault(pools[module], []).append(module)
    inside = [_spearman(first, second, members) for members in by_pool.values() if len(members) > 2]
    known = [value for value in inside if value is not None]
    overlap, chance = chosen_overlap(
        choose_modules(first, pools, percentile), choose_modules(second, pools, percentile), by_pool
    )
    return {
        "spearman": _spearman(first, second, modules),
        "spearman_in_pools": math.fsum(known) / len(known) if known else None,
        "overlap": overlap,
        "chance": chance,
        "corrected": None if overlap is None or chance >= 1 else (overlap - chance) / (1 - chance),
    }


def chosen_overlap(
    first: set[str], second: set[str], by_pool: Mapping[str, Sequence[str]]
) -> "tuple[float | None, float]":
    """Return the overlap of two choices and its mean under blind choice, as parts of the most that is possible.

    Args:
        first: modules of one choice.
        second: modules of the other.
        by_pool: pool → its modules; a blind choice takes as many of each pool as the choice did.

    Source: the expectation is that of the hypergeometric distribution; the correction is Cohen's kappa's.
    """
    both, expected, most = 0, 0.0, 0
    for members in by_pool.values():
        a, b = first & set(members), second & set(members)
        both += len(a & b)
        expected += len(a) * len(b) / len(members)
        most += min(len(a), len(b))
    return (both / most, expected / most) if most else (None, 1.0)


def _spearman(first: Mapping[str, float], second: Mapping[str, float], modules: Sequence[str]) -> "float | None":
    from scipy.stats import spearmanr

    a, b = ([scores[module] for module in modules] for scores in (first, second))
    if min(len(set(a)), len(set(b))) < 2:
        return None
    return float(spearmanr(a, b).statistic)
