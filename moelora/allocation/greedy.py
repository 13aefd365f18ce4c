"""Expert by expert to where the next one is worth most, each further expert of a module being worth less."""

import heapq
import math
from collections.abc import Mapping

from moelora.allocation.budget import Budget


def greedy(values: Mapping[str, float], budget: Budget, decay: float) -> dict[str, int]:
    """Return experts per module that maximise Σ_j value_j·(1 + decay + … + decay^(E_j − 1)) under a budget of experts.

    The next expert of a module with E experts is worth value·decay^E; the one worth most per unit of budget goes first,
    and at equal worth the module first by name. In experts that is the optimum; in other units it is the usual
    heuristic of the knapsack.

    Args:
        values: module → worth of its first expert, not negative; a module worth 0 gets the minimum.
        budget: amount, prices and limits.
        decay: worth of a further expert as part of the one before, in (0, 1).

    Returns:
        Module → experts. In experts the total is the amount; in other units no module that may have one more can be
        paid one from what is left.

    Raises:
        AllocationError: the amount cannot be reached within the limits.

    Source: ours.
    """
    eligible = [module for module in sorted(values) if values[module] > 0]
    budget.check(values, eligible)
    counts = dict.fromkeys(sorted(values), budget.minimum)
    left = budget.amount - budget.cost(counts)
    heap: list[tuple[float, str]] = []

    def offer(module: str) -> None:
        if budget.may_grow(counts[module]):
            # in logarithms: decay^E underflows for many experts
            worth = math.log(values[module]) + counts[module] * math.log(decay)
            heapq.heappush(heap, (math.log(budget.step(module, counts[module])) - worth, module))

    for module in eligible:
        offer(module)
    while heap:
        _, module = heapq.heappop(heap)
        price = budget.step(module, counts[module])
        if price <= left:  # else never again: what is left only shrinks, and the module's next price stays
            counts[module] += 1
            left -= price
            offer(module)
    return counts
