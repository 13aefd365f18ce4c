"""Experts drawn by lot: the control that says what placement by sensitivity is worth."""

import random
from collections.abc import Collection

from moelora.allocation.budget import Budget
from moelora.seeds import derive_seed


def draw(modules: Collection[str], budget: Budget, seed: int) -> dict[str, int]:
    """Return experts per module, each expert drawn for a module with equal chances until the budget is spent.

    Args:
        modules: names.
        budget: amount, prices and limits; a module that is full, or whose next expert costs more than is left, leaves
            the draw.
        seed: of the draw; the order of ``modules`` does not matter.

    Raises:
        AllocationError: the amount cannot be reached within the limits.

    Source: ours.
    """
    generator = random.Random(derive_seed("random allocation", seed))
    budget.check(modules, modules)
    counts = dict.fromkeys(sorted(modules), budget.minimum)
    left = budget.amount - budget.cost(counts)
    open_to = list(counts)
    while open_to:
        place = generator.randrange(len(open_to))
        module = open_to[place]
        price = budget.step(module, counts[module])
        if price > left or not budget.may_grow(counts[module]):
            open_to.pop(place)
            continue
        counts[module] += 1
        left -= price
    return counts


def shuffle(modules: Collection[str], seed: int) -> list[str]:
    """Return the modules in an order drawn by lot: who gets what equal shares leave over."""
    order = sorted(modules)
    random.Random(derive_seed("order of an allocation", seed)).shuffle(order)
    return order
