"""Sharing a budget among modules in proportion to weights, in whole experts: largest remainders."""

import math
from collections.abc import Mapping, Sequence

from moelora.allocation.budget import Budget

_HALVINGS = 200
_LIGHTEST = 1e-12  # of the heaviest weight; lighter ones count as this, so that every quota moves with the scale
_DIGITS = 9  # of a remainder: two that are equal on paper must tie, whatever floating point made of them


def apportion(weights: Mapping[str, float], budget: Budget, order: "Sequence[str] | None" = None) -> dict[str, int]:
    """Return experts per module in proportion to weights, which cost what the budget has.

    Each module's quota is λ·weight, kept between the minimum and the maximum; λ is chosen so that all quotas together
    (a part of an expert costs that part of it) cost the amount. Quotas are rounded down, and what is left goes to the
    largest remainders, each once, as far as it reaches; then to whoever is furthest below its quota.

    Args:
        weights: module → weight, not negative. A module of weight 0 gets the minimum.
        budget: amount, prices and limits.
        order: who goes first at equal remainders and weights; modules by name where not given.

    Returns:
        Module → experts. In experts the total is the amount. In other units the total is not above it, and no module
        that may have one more can be paid one from what is left.

    Raises:
        AllocationError: the amount cannot be reached within the limits.

    Source: Hamilton's method (largest remainders); limits and prices are ours.
    """
    modules = sorted(weights)
    eligible = [module for module in modules if weights[module] > 0]
    budget.check(modules, eligible)
    rank = {module: place for place, module in enumerate(order if order is not None else modules)}
    quotas = _quotas(weights, modules, budget)
    counts = {module: math.floor(quotas[module]) for module in modules}
    left = budget.amount - budget.cost(counts)

    def buy(module: str) -> bool:
        nonlocal left
        price = budget.step(module, counts[module])
        if price > left or not budget.may_grow(counts[module]):
            return False
        counts[module] += 1
        left -= price
        return True

    def lack(module: str) -> tuple[float, float, int]:
        return -round(quotas[module] - counts[module], _DIGITS), -weights[module], rank[module]

    for module in sorted(eligible, key=lack):
        if quotas[module] > counts[module]:
            buy(module)
    while any(buy(module) for module in sorted(eligible, key=lack)):
        pass
    return counts


def _quotas(weights: Mapping[str, float], modules: Sequence[str], budget: Budget) -> dict[str, float]:
    """Return each module's share in experts, with fractions, costing the amount or as near below as floats come."""
    cap = math.inf if budget.maximum is None else budget.maximum
    heaviest = max(weights.values(), default=0.0)
    relative = {module: max(weights[module] / heaviest, _LIGHTEST) for module in modules if weights[module] > 0}

    def at(scale: float) -> dict[str, float]:
        return {
            module: min(max(scale * relative[module], budget.minimum), cap) if module in relative else budget.minimum
            for module in modules
        }

    def cost(quotas: Mapping[str, float]) -> float:
        total = 0.0
        for module, quota in quotas.items():
            whole = math.floor(quota)
            part = quota - whole
            total += budget.price(module, whole) + (part * budget.step(module, whole) if part else 0.0)
        return total

    if not relative:
        return at(0.0)
    low, high = 0.0, 1.0
    while cost(quotas := at(high)) <= budget.amount:
        if all(quotas[module] >= cap for module in relative):
            return quotas
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if cost(at(middle)) <= budget.amount:
            low = middle
        else:
            high = middle
    return at(low)
