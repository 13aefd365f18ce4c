"""What a suite may ask of a search: keys that exist, values that the method takes, samplers and pruners that fit."""

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moelora.allocation.settings import fill_settings
from moelora.errors import AllocationError, ConfigError, nearest
from moelora.methods import get_method
from moelora.search.count import count_trials
from moelora.search.space import ROOTS, Parameter, Space, merge, read_space
from moelora.search.storage import check_storage
from moelora.validation import make_validator


def check_search(search: Mapping[str, Any], variant: Any, schema: Mapping[str, Any], source: str) -> None:
    """Refuse a search that cannot be carried out.

    Args:
        search: the suite's search, its defaults filled in.
        variant: the variant that is searched.
        schema: of suites.
        source: the file, for messages.

    Raises:
        ConfigError: names the file, the key and what to do.
    """
    if "score" not in search["objectives"]:
        raise ConfigError(f"{source}: 'search.objectives' must have 'score', found {search['objectives']}; add it")
    if search["pruner"] is not None and len(search["objectives"]) > 1:
        raise ConfigError(
            f"{source}: 'search.pruner' needs a single objective, found {', '.join(search['objectives'])}: a trial "
            "that falls behind in score may still lead in another, so no one order of unfinished trials exists; write "
            "pruner: null, or objectives: [score]"
        )
    if search["epochs"] is not None and search["max_steps"] is not None:
        raise ConfigError(f"{source}: 'search' gives epochs and max_steps; a trial has one length, remove one")
    check_storage(search["storage"], source)
    space = read_space(search["space"], source)
    for parameter in space.parameters:
        for path in (parameter.path, *parameter.tied):
            _check_path(path, f"{source}: 'search.space.{parameter.name}", variant, schema)
    _check_values(space.parameters, variant, schema, source)
    if variant.allocated:
        _check_allocations(space.parameters, variant, source)
    try:
        count_trials(search, space, source)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(source) else f"{source}: {text}") from error


def _check_path(path: str, at: str, variant: Any, schema: Mapping[str, Any]) -> None:
    root, *inner = path.split(".")
    if root not in ROOTS or not inner:
        raise ConfigError(f"{at}.set' is '{path}'; expected a key below {', '.join(ROOTS)}, as in settings.r")
    if root == "settings":
        known = get_method(variant.method).setting_names
        if inner[0] not in known or len(inner) > 1:
            raise ConfigError(
                f"{at}.set' is '{path}', but '{variant.method}' has no setting '{'.'.join(inner)}'"
                f"{nearest('.'.join(inner), known)}"
            )
        return
    if root == "allocation" and not variant.allocated:
        raise ConfigError(f"{at}.set' is '{path}', but experts of '{variant.name}' are not allocated; remove it")
    if path in ("training.epochs", "training.max_steps"):
        raise ConfigError(
            f"{at}.set' is '{path}', but longer trials are not better settings; 'search.epochs' or 'search.max_steps' "
            "is the length of every trial, and the winner is trained as long as the suite says"
        )
    if path in ("allocation.score", "allocation.tasks"):
        raise ConfigError(
            f"{at}.set' is '{path}', but the sensitivities are measured once, before the trials; say it in "
            "'allocation_by_variant'"
        )
    rule = schema["$defs"]["training"] if root == "training" else schema["properties"]["allocation"]
    for key in inner:
        known = _resolve(rule, schema).get("properties", {})
        if key not in known:
            raise ConfigError(f"{at}.set' is '{path}', but there is no key '{key}' in it{nearest(key, set(known))}")
        rule = known[key]


def _check_values(parameters: Iterable[Parameter], variant: Any, schema: Mapping[str, Any], source: str) -> None:
    """Refuse values that the variant's settings or the schema refuse, each tried by itself beside the defaults.

    Raises:
        ConfigError: as said.
    """
    method = get_method(variant.method)
    for parameter in parameters:
        for value in parameter.values:
            at = f"{source}: 'search.space.{parameter.name}.{parameter.form}'"
            changed: dict[str, Any] = {}
            for path, factor in {parameter.path: None, **parameter.tied}.items():
                changed = merge(changed, _nested(path, value if factor is None else value * factor))
            try:
                method.make_settings(merge(variant.settings, changed.get("settings", {})))
            except ConfigError as error:
                raise ConfigError(f"{at}: {value!r} is refused: {error}") from error
            for root, rule in (
                ("training", schema["$defs"]["training"]),
                ("allocation", schema["properties"]["allocation"]),
            ):
                inner = copy.deepcopy({**_resolve(rule, schema), "$defs": schema["$defs"]})
                for problem in make_validator(inner).iter_errors(changed.get(root, {})):
                    raise ConfigError(f"{at}: {value!r} is refused: {problem.message}")


def _check_allocations(parameters: Iterable[Parameter], variant: Any, source: str) -> None:
    """Refuse a combination of values that no allocation can have, such as a strategy without the budget that it needs.

    Every choice is combined, and of ranges both ends.

    Raises:
        ConfigError: as said.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    wanted = [name for name, parameter in by_name.items() if parameter.path.startswith("allocation.")]
    for name in wanted:
        wanted += [other for other in by_name[name].when if other not in wanted]  # grows while it is walked
    ends = [dataclasses.replace(by_name[name], form="choices") for name in by_name if name in wanted]
    space = Space(tuple(ends))
    for chosen in space.grid():
        try:
            fill_settings(merge(variant.allocation, space.overrides(chosen)["allocation"]))
        except AllocationError as error:
            said = ", ".join(f"{name} {value}" for name, value in chosen.items())
            raise ConfigError(f"{source}: 'search.space' allows {said}, which no allocation can be: {error}") from error


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def _resolve(rule: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].rsplit("/", 1)[1]]
    return rule
