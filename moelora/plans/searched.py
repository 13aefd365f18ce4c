"""What a suite's ``search`` adds to its runs: those of the configuration that wins, on the seeds of the suite.

They are ordinary runs of a variant of their own, derived from the runs of the variant that is searched, and they wait
for the winner.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moelora.config import ConfigDir, fill_defaults
from moelora.errors import ConfigError, nearest
from moelora.plans import layout
from moelora.plans.expansion import Run
from moelora.plans.variants import Variant, is_untrained
from moelora.search.check import check_search


def fill_search(suite: Mapping[str, Any], config_dir: ConfigDir) -> dict[str, Any]:
    """Return the suite's search with its defaults."""
    filled = fill_defaults(suite["search"], config_dir.schema("suite")["$defs"]["search"])
    if filled["pruner"] is not None:
        filled["pruner"] = fill_defaults(filled["pruner"], config_dir.schema("suite")["$defs"]["pruner"])
    return {**filled, "name": filled["name"] or f"{filled['variant']}-searched"}


def searched_runs(
    search: Mapping[str, Any],
    suite: Mapping[str, Any],
    variants: Iterable[Variant],
    runs: Iterable[Run],
    config_dir: ConfigDir,
    source: str,
) -> list[Run]:
    """Return the winner's runs: those of the searched variant, on the seeds of the first regime that does not tune.

    Args:
        search: the suite's search, its defaults filled in.
        suite: the suite.
        variants: those of the suite.
        runs: the planned runs.
        config_dir: where the schemas are.
        source: the suite's file, for messages.

    Raises:
        ConfigError: the search names a variant, model or task that the suite does not have, or its space cannot be
            meant.
    """
    names = {variant.name: variant for variant in variants}
    at = f"{source}: 'search"
    variant = names.get(search["variant"])
    if variant is None:
        raise ConfigError(
            f"{at}.variant' names '{search['variant']}', which is not among 'variants'"
            f"{nearest(search['variant'], set(names))}"
        )
    if search["name"] in names:
        raise ConfigError(f"{at}.name' is '{search['name']}', the name of a variant; choose another")
    own = [run for run in runs if run.variant.name == variant.name and not run.transfer]
    for axis in ("model", "task"):
        known = {getattr(run, axis) for run in own}
        own = [run for run in own if getattr(run, axis) == search[axis]]
        if not own:
            raise ConfigError(
                f"{at}.{axis}' names '{search[axis]}', which 'grid' does not have for '{variant.name}'"
                f"{nearest(search[axis], known)}"
            )
    if is_untrained(variant, own[0].plan["model"]) or variant.match:
        raise ConfigError(f"{at}.variant' is '{variant.name}', of which nothing can be searched; name a trained method")
    if own[0].plan["training"].get("data"):
        raise ConfigError(
            f"{at}' scores its trials on a part of the task's train split, but its runs train on 'training.data'; "
            "search a suite without it"
        )
    regimes = [name for name, rules in suite["regimes"].items() if "tune" not in rules]
    own = [run for run in own if run.regime in regimes[:1]]
    if not own:
        raise ConfigError(
            f"{at}' needs a regime without 'tune' for its winner's runs: the search itself chooses; add one"
        )
    check_search(search, variant, config_dir.schema("suite"), source)
    return [_as_searched(run, search, len(suite["regimes"])) for run in own]


def _as_searched(run: Run, search: Mapping[str, Any], regimes: int) -> Run:
    variant = dataclasses.replace(run.variant, name=search["name"], placement=None)
    label = layout.label(variant.name, run.regime, regimes)
    pending = {**run.plan["pending"], "search": layout.WINNER}
    if "allocation" in pending:
        pending["allocation"] = layout.SEARCHED_ALLOCATION
        pending.pop("allocation_settings", None)  # the winner's allocation says its own
    plan = {**run.plan, "variant": variant.name, "pending": pending}
    folder = layout.run_folder(run.model, run.task, label, run.seed)
    return dataclasses.replace(run, plan=plan, folder=folder, variant=variant, label=label)


def search_document(search: Mapping[str, Any], suite: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """Return what the commands of a search read: the search, the allocation that it varies, and the runs' seeds."""
    seeds = sorted({seed for rules in suite["regimes"].values() for seed in rules["seeds"]})
    return {"search": search, "allocation": variant.allocation, "run_seeds": seeds}
