"""The strategies by name: from sensitivities and a budget to experts per module. Nothing here needs torch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moelora.allocation.apportionment import apportion
from moelora.allocation.budget import Budget, one_each
from moelora.allocation.documents import mean_shares
from moelora.allocation.draws import draw, shuffle
from moelora.allocation.greedy import greedy
from moelora.allocation.settings import check_settings
from moelora.allocation.votes import POOLS, smoe_percentile
from moelora.errors import AllocationError
from moelora.methods import Linear, ModelShapes


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an allocation is made from.

    ``linears`` are the modules that may have experts; ``scores`` is task → module → sensitivity; ``price`` says what
    some experts on a module cost in trainable parameters.
    """

    linears: Sequence[Linear]
    scores: Mapping[str, Mapping[str, float]]
    price: Callable[[str, int], int]

    @property
    def modules(self) -> list[str]:
        """Return the names of the modules."""
        return [linear.name for linear in self.linears]


def allocate(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return experts per module; every module of the problem is named.

    Args:
        problem: modules, sensitivities and prices.
        settings: a complete ``allocation`` of a suite.

    Raises:
        AllocationError: the settings contradict each other, the budget cannot be reached (the message says what can
            be), or no module would get an expert.
    """
    check_settings(settings)
    names = set(problem.modules)
    scores = {task: {m: by_module[m] for m in names & set(by_module)} for task, by_module in problem.scores.items()}
    problem = dataclasses.replace(problem, scores=scores)
    counts = STRATEGIES[settings["strategy"]](problem, settings)
    if not any(counts.values()):
        raise AllocationError(
            f"strategy '{settings['strategy']}' gives no module an expert; lower the percentile or raise the budget"
        )
    return dict(sorted(counts.items()))


def make_budget(problem: Problem, settings: Mapping[str, Any]) -> Budget:
    """Return the budget of an allocation that has one, in experts or in parameters."""
    ((unit, amount),) = settings["budget"].items()
    limits = {"minimum": settings["minimum"], "maximum": settings["maximum"]}
    if unit == "experts":
        return Budget(amount, "experts", one_each, **limits)
    if unit == "uniform":
        amount = sum(problem.price(module, amount) for module in problem.modules)
    return Budget(amount, "parameters", problem.price, **limits)


def _votes(problem: Problem, settings: Mapping[str, Any], least: bool = False) -> dict[str, int]:
    pools = {linear.name: POOLS[settings["pool"]](linear) for linear in problem.linears}
    return smoe_percentile(problem.scores, pools, settings["percentile"], least)


def _limit(counts: Mapping[str, int], settings: Mapping[str, Any]) -> dict[str, int]:
    """Return counts kept between the minimum and the maximum, for totals that no budget fixes."""
    low, high = settings["minimum"], settings["maximum"]
    return {module: max(low, count if high is None else min(count, high)) for module, count in counts.items()}


def _by_percentile(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    return _limit(_votes(problem, settings), settings)


def _by_votes(problem: Problem, settings: Mapping[str, Any], least: bool = False) -> dict[str, int]:
    """Share the budget by votes; at equal remainders the more sensitive (or, reversed, the less) goes first."""
    votes = _votes(problem, settings, least)
    strength = _strength(problem)
    order = sorted(votes, key=lambda module: (strength[module] if least else -strength[module], module))
    return apportion(votes, make_budget(problem, settings), order)


def _strength(problem: Problem) -> dict[str, float]:
    """Return how sensitive modules are over all tasks: the sum of their ranks, which overflow cannot spoil."""
    from scipy.stats import rankdata

    modules = sorted(problem.modules)
    ranks = [rankdata([by_module[module] for module in modules]) for by_module in problem.scores.values()]
    return dict(zip(modules, map(float, sum(ranks)), strict=True))


def _least_first(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    return _by_votes(problem, settings, least=True)


def _proportional(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    return apportion(mean_shares(problem.scores), make_budget(problem, settings))


def _greedy(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    return greedy(mean_shares(problem.scores), make_budget(problem, settings), settings["decay"])


def _uniform(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    weights = dict.fromkeys(problem.modules, 1.0)
    return apportion(weights, make_budget(problem, settings), shuffle(weights, settings["seed"]))


def _mola(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    weights = mola(problem.linears, settings["shape"])
    if settings["budget"] is None:
        return _limit(weights, settings)
    return apportion(weights, make_budget(problem, settings), shuffle(weights, settings["seed"]))


def mola(linears: Sequence[Linear], shape: str) -> dict[str, int]:
    """Return MoLA's experts per module: those of its group of layers from the bottom.

    Args:
        linears: the modules.
        shape: a name (``inverted_triangle``, …) or experts per group ("2-4-6-8").

    Raises:
        AllocationError: there is no such shape.

    Source: arXiv 2402.08562; where groups do not divide the layers, as `moelora.methods.mola` cuts them.
    """
    from moelora.methods import mola as page

    try:
        settings = page.Settings(shape=shape)
    except ValueError as error:
        raise AllocationError(str(error)) from error
    return page.allocated(ModelShapes(tuple(linears), "", 0), settings)


def _random(problem: Problem, settings: Mapping[str, Any]) -> dict[str, int]:
    return draw(problem.modules, make_budget(problem, settings), settings["seed"])


STRATEGIES: dict[str, Callable[[Problem, Mapping[str, Any]], dict[str, int]]] = {
    "smoe_percentile": _by_percentile,
    "smoe_budget": _by_votes,
    "proportional": _proportional,
    "greedy": _greedy,
    "uniform": _uniform,
    "mola": _mola,
    "random": _random,
    "reverse": _least_first,
}
