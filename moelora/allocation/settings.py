"""What a suite's ``allocation`` may say, checked before anything is measured."""

from collections.abc import Mapping
from typing import Any

from moelora.errors import AllocationError, nearest

# Whether a strategy spends a budget: its total follows from one, may follow from one, or follows from something else.
BUDGETS = {
    "smoe_percentile": "never",
    "smoe_budget": "always",
    "proportional": "always",
    "greedy": "always",
    "uniform": "always",
    "mola": "possible",
    "random": "always",
    "reverse": "always",
}
UNITS = ("experts", "parameters", "uniform")
SCORES = ("sum", "mean", "taylor", "fisher", "as_coded")
DEFAULTS = {
    "strategy": "smoe_percentile",
    "budget": None,
    "minimum": 0,
    "maximum": None,
    "percentile": 40,
    "pool": "per_type",
    "decay": 0.5,
    "shape": "inverted_triangle",
    "seed": 0,
    "score": "sum",
    "tasks": "all",
}


def fill_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return complete settings.

    Args:
        settings: what is said; the rest are `DEFAULTS`.

    Raises:
        AllocationError: a key is unknown, or the settings contradict each other.
    """
    for key in settings:
        if key not in DEFAULTS:
            raise AllocationError(f"unknown key '{key}' of an allocation{nearest(key, set(DEFAULTS))}")
    filled = {**DEFAULTS, **settings}
    check_settings(filled)
    return filled


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of an allocation that contradict each other.

    Args:
        settings: a complete ``allocation``, its defaults filled in.

    Raises:
        AllocationError: the strategy is unknown, has no budget and needs one, has one and needs none, or a budget is
            given in two units; or the minimum exceeds the maximum.
    """
    strategy, budget = settings["strategy"], settings["budget"]
    if strategy not in BUDGETS:
        raise AllocationError(f"unknown strategy '{strategy}'{nearest(strategy, set(BUDGETS))}")
    if budget is not None:
        for unit in budget:
            if unit not in UNITS:
                raise AllocationError(f"unknown unit '{unit}' of a budget{nearest(unit, set(UNITS))}")
        if len(budget) != 1:
            raise AllocationError(f"a budget has one unit, found {sorted(budget)}; keep one of {', '.join(UNITS)}")
        ((unit, amount),) = budget.items()
        if not isinstance(amount, int) or isinstance(amount, bool) or amount < 1:
            raise AllocationError(f"a budget is a whole number from 1, found {unit}: {amount!r}")
    if budget is None and BUDGETS[strategy] == "always":
        raise AllocationError(f"strategy '{strategy}' spends a budget and has none; give 'budget' as {{experts: N}}, "
                              "{parameters: N} or {uniform: N}")  # fmt: skip
    if budget is not None and BUDGETS[strategy] == "never":
        raise AllocationError(
            f"the total of strategy '{strategy}' follows from its percentile, so it has no budget, found {budget}; "
            "take 'smoe_budget', which spends a budget by the same votes, or set 'budget: null'"
        )
    if not 0 <= settings["percentile"] <= 100:
        raise AllocationError(f"percentile must lie in [0, 100], found {settings['percentile']}")
    if settings["maximum"] is not None and settings["minimum"] > settings["maximum"]:
        raise AllocationError(
            f"minimum {settings['minimum']} exceeds maximum {settings['maximum']}; both are experts of one module"
        )
