"""Variants whose experts are allocated: their settings, and several placements of one variant side by side."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from moelora.allocation.settings import BUDGETS, check_settings
from moelora.config import fill_defaults
from moelora.errors import AllocationError, ConfigError, nearest
from moelora.plans import layout


def place_variants(
    suite: Mapping[str, Any], chosen: Mapping[str, Any], schema: Mapping[str, Any], source: str
) -> dict[str, list]:
    """Return the variants that each chosen variant becomes, with the settings of their allocation.

    A variant named in ``placements`` becomes one for each strategy and budget (``lora_smoe-greedy-low``), another stays
    itself. Settings are the suite's ``allocation``, then the strategy's, then the budget, then what
    ``allocation_by_variant`` says, then defaults.

    Args:
        suite: a checked suite.
        chosen: variants by name.
        schema: the schema of suites.
        source: what messages call the suite.

    Raises:
        ConfigError: a name is no variant whose experts are allocated, two placements have one name, or the settings of
            an allocation contradict each other.
    """
    for name in suite["placements"]:
        _check_name(name, "placements", chosen, source)
    placed: dict[str, list] = {}
    for name, variant in chosen.items():
        if not variant.allocated:
            placed[name] = [variant]
            continue
        placed[name] = []
        for child, placement, layers in _entries(name, suite["placements"].get(name)):
            if child != name and child in chosen:
                raise ConfigError(
                    f"{source}: 'placements.{name}' makes a variant '{child}', a name that is taken; rename it"
                )
            settings = _merge(suite, child, layers, schema, source)
            placed[name].append(dataclasses.replace(variant, name=child, allocation=settings, placement=placement))
    everyone = {child.name: child for children in placed.values() for child in children}
    for name in suite["allocation_by_variant"]:
        _check_name(name, "allocation_by_variant", everyone, source)
    return placed


def _check_name(name: str, key: str, variants: Mapping[str, Any], source: str) -> None:
    if name not in variants:
        raise ConfigError(f"{source}: unknown variant '{name}' in '{key}'{nearest(name, set(variants))}")
    if not variants[name].allocated:
        raise ConfigError(
            f"{source}: '{key}' names '{name}', whose method '{variants[name].method}' takes no allocation; take it out"
        )


def _entries(name: str, placements: "Mapping[str, Any] | None") -> Iterator[tuple[str, "dict | None", dict[str, Any]]]:
    """Yield name, placement and what differs in the allocation of each variant that one becomes."""
    if placements is None:
        yield name, None, {}
        return
    budgets = placements.get("budgets") or {}
    for strategy, settings in placements["strategies"].items():
        settings = dict(settings or {})
        placement = {"variant": name, "strategy": strategy, "budget": None}
        # A budget of its own, or a total that follows from something else, is not varied.
        if "budget" in settings or BUDGETS[settings.get("strategy", "smoe_percentile")] == "never" or not budgets:
            yield f"{name}-{strategy}", placement, settings
            continue
        for budget, amount in budgets.items():
            yield f"{name}-{strategy}-{budget}", {**placement, "budget": budget}, {**settings, "budget": amount}


def _merge(
    suite: Mapping[str, Any], name: str, layers: Mapping[str, Any], schema: Mapping[str, Any], source: str
) -> dict[str, Any]:
    merged = {**suite["allocation"], **layers, **suite["allocation_by_variant"].get(name, {})}
    merged = fill_defaults(merged, schema["$defs"]["allocation"])
    try:
        check_settings(merged)
    except AllocationError as error:
        raise ConfigError(f"{source}: allocation of variant '{name}': {error}") from error
    return merged


def allocation_file(variant: Any, model: str, task: str) -> "str | None":
    """Return the file with the experts per module of a variant's run; none where nothing is allocated."""
    if not variant.allocated:
        return None
    own = variant.allocation["tasks"] == "own"
    # a changed form of a mixture has the mixture's experts, whatever its own would cost
    name = variant.control["of"] if variant.control else variant.name
    return layout.allocation(model, name, task if own else None)
