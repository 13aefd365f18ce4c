"""The space of a search: named parameters with a range, a place in the plan, and the condition under which they count.

A parameter says where its value goes by a dotted path that starts with ``settings`` (of the variant), ``training`` or
``allocation``. Nothing here needs Optuna: the workflow reads spaces while it is parsed.
"""

import copy
import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.seeds import derive_seed

ROOTS = ("settings", "training", "allocation")
FORMS = ("choices", "integers", "numbers")

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a space.

    Attributes:
        name: what tables and plots call it.
        form: ``choices``, ``integers`` or ``numbers``.
        values: the choices, or the lower and upper end, both included.
        path: where the value goes.
        log: whether a range is searched by ratio instead of by difference.
        step: distance of the values of a range; ``None`` is 1 for integers and continuous for numbers.
        points: how many values of a range a grid has.
        when: parameter → values under which this one counts; all must hold.
        tied: further paths and the factor by which their values follow this one.
    """

    name: str
    form: str
    values: tuple
    path: str
    log: bool = False
    step: "int | float | None" = None
    points: "int | None" = None
    when: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    tied: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def counts(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the parameter counts beside the values chosen so far."""
        return all(name in chosen and chosen[name] in values for name, values in self.when.items())

    def suggest(self, trial: Any) -> Any:
        """Return the value that a trial of Optuna suggests."""
        if self.form == "choices":
            return trial.suggest_categorical(self.name, list(self.values))
        low, high = self.values
        if self.form == "integers":
            return trial.suggest_int(self.name, low, high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.name, low, high, step=self.step, log=self.log)

    def can_be(self, value: Any) -> bool:
        """Return whether the parameter can take a value."""
        if self.form == "choices":
            return value in self.values
        return self.form == "integers" and value in range(self.values[0], self.values[1] + 1, self.step or 1)

    def grid(self) -> "list | None":
        """Return the values that a grid has, ascending or as listed; ``None`` where a range says no points."""
        if self.form == "choices":
            return list(self.values)
        low, high = self.values
        if self.points is not None:
            parts = [index / max(1, self.points - 1) for index in range(self.points)]
            if self.log:
                found = [math.exp(math.log(low) + part * (math.log(high) - math.log(low))) for part in parts]
            else:
                found = [low + part * (high - low) for part in parts]
            if self.form == "numbers":
                # the ends are what was written, not what rounding leaves of them
                return [low, *found[1:-1], high][: self.points]
            return sorted({round(value) for value in found})
        if self.form == "integers":
            return list(range(low, high + 1, self.step or 1))
        if self.step is None:
            return None
        return [low + index * self.step for index in range(math.floor((high - low) / self.step + 1e-9) + 1)]


@dataclasses.dataclass(frozen=True)
class Space:
    """A checked space; its parameters stand in an order in which each comes after those that it depends on."""

    parameters: tuple[Parameter, ...]

    def suggest(self, trial: Any) -> Values:
        """Return the values that a trial of Optuna suggests, of the parameters that count."""
        chosen: Values = {}
        for parameter in self.parameters:
            if parameter.counts(chosen):
                chosen[parameter.name] = parameter.suggest(trial)
        return chosen

    def is_complete(self, chosen: Values) -> bool:
        """Return whether values are all those of a trial: a parameter that counts has one."""
        return all(parameter.name in chosen for parameter in self.parameters if parameter.counts(chosen))

    def grid(self) -> list[Values]:
        """Return every combination of the parameters' points; those that do not count are left out of it.

        Raises:
            ConfigError: a range says neither step nor points.
        """
        found: list[Values] = [{}]
        for parameter in self.parameters:
            points = parameter.grid()
            if points is None:
                raise ConfigError(
                    f"a grid needs points of 'space.{parameter.name}', which is a range of numbers; give it 'points' "
                    "or 'step', or list 'choices'"
                )
            found = [
                extended
                for chosen in found
                for extended in (
                    [{**chosen, parameter.name: point} for point in points] if parameter.counts(chosen) else [chosen]
                )
            ]
        return found

    def shuffled_grid(self, seed: int) -> list[Values]:
        """Return the grid in an order that the seed decides, so that its beginning is a fair sample of it."""
        points = self.grid()
        random.Random(derive_seed("search grid", seed)).shuffle(points)
        return points

    def overrides(self, chosen: Mapping[str, Any]) -> dict[str, dict]:
        """Return what the chosen values change: ``settings``, ``training`` and ``allocation``, each nested."""
        changed: dict[str, dict] = {root: {} for root in ROOTS}
        for parameter in self.parameters:
            if parameter.name in chosen:
                value = chosen[parameter.name]
                _put(changed, parameter.path, value)
                for path, factor in parameter.tied.items():
                    _put(changed, path, value * factor)
        return changed


def merge(document: "Mapping[str, Any] | None", changes: Mapping[str, Any]) -> dict:
    """Return a copy of a document with nested changes put into it."""
    merged = copy.deepcopy(dict(document or {}))
    for key, value in changes.items():
        merged[key] = merge(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


def read_space(document: Mapping[str, Mapping[str, Any]], source: str) -> Space:
    """Return the space that a suite's ``search.space`` describes.

    Args:
        document: the mapping of names to parameters, already checked against the schema.
        source: the file, for messages.

    Raises:
        ConfigError: a range is empty, a condition cannot hold or goes round in a circle, or two parameters set one key.
    """
    found = {name: _parameter(name, entry, source) for name, entry in document.items()}
    for name, parameter in found.items():
        _check_conditions(parameter, found, f"{source}: 'search.space.{name}.when")
    ordered = _in_order(found, source)
    _check_places(ordered, source)
    return Space(tuple(ordered))


def _parameter(name: str, entry: Mapping[str, Any], source: str) -> Parameter:
    at = f"{source}: 'search.space.{name}"
    forms = [form for form in FORMS if form in entry]
    if len(forms) != 1:
        found = f"found {' and '.join(forms)}" if forms else "found none of them"
        raise ConfigError(f"{at}' must have exactly one of {', '.join(FORMS)}, {found}")
    form = forms[0]
    values = tuple(entry[form])
    log, step, points = entry.get("log", False), entry.get("step"), entry.get("points")
    if form == "choices":
        for key in ("log", "step", "points"):
            if key in entry:
                raise ConfigError(f"{at}.{key}' is for ranges, but the parameter lists choices; remove it")
    else:
        low, high = values
        if form == "integers":
            for value in values:
                if isinstance(value, float) and not value.is_integer():
                    raise ConfigError(f"{at}.integers' must be whole numbers, found {value}; write 'numbers'")
            values = low, high = int(low), int(high)
            if step is not None and step != int(step):
                raise ConfigError(f"{at}.step' of integers must be a whole number, found {step}")
            step = None if step is None else int(step)
        if low >= high:
            raise ConfigError(f"{at}.{form}' must rise, found [{low}, {high}]; write the smaller first")
        if log and low <= 0:
            raise ConfigError(f"{at}.{form}' is searched by ratio (log), so it must be above 0, found {low}")
        if log and step is not None:
            raise ConfigError(f"{at}.step' cannot be had together with 'log'; remove one")
        if step is not None and points is not None:
            raise ConfigError(f"{at}.points' cannot be had together with 'step'; remove one")
    tied = dict(entry.get("tied", {}))
    if tied and any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise ConfigError(f"{at}.tied' multiplies the value, so all values must be numbers, found {list(values)}")
    when = {key: tuple(value if isinstance(value, list) else [value]) for key, value in entry.get("when", {}).items()}
    return Parameter(name, form, values, entry["set"], log, step, points, when, tied)


def _check_conditions(parameter: Parameter, found: Mapping[str, Parameter], at: str) -> None:
    for name, values in parameter.when.items():
        if name not in found or name == parameter.name:
            others = set(found) - {parameter.name}
            raise ConfigError(f"{at}' names '{name}', which is no other parameter of the space{nearest(name, others)}")
        other = found[name]
        if other.form == "numbers":
            raise ConfigError(f"{at}' depends on '{name}', a range of numbers; conditions need choices or integers")
        for value in values:
            if not other.can_be(value):
                hint = nearest(str(value), [str(choice) for choice in other.values])
                raise ConfigError(f"{at}.{name}' waits for {value!r}, which '{name}' cannot be{hint}")


def _in_order(found: Mapping[str, Parameter], source: str) -> list[Parameter]:
    """Return the parameters, each after those of its condition, else by name: files are stored with sorted keys."""
    ordered: list[Parameter] = []
    waiting = sorted(found)
    while waiting:
        placed = {parameter.name for parameter in ordered}
        ready = next((name for name in waiting if set(found[name].when) <= placed), None)
        if ready is None:
            raise ConfigError(
                f"{source}: 'search.space': the conditions of {' and '.join(waiting)} wait for each other; "
                "remove one 'when'"
            )
        ordered.append(found[ready])
        waiting.remove(ready)
    return ordered


def _check_places(parameters: list[Parameter], source: str) -> None:
    """Refuse two parameters that could set one key at the same time, or a key and a part of it.

    Raises:
        ConfigError: as said.
    """
    places = [(path, parameter) for parameter in parameters for path in (parameter.path, *parameter.tied)]
    for (path, one), (other_path, other) in itertools.combinations(places, 2):
        same = path == other_path or f"{path}.".startswith(f"{other_path}.") or f"{other_path}.".startswith(f"{path}.")
        if same and not _exclusive(one, other):
            raise ConfigError(
                f"{source}: 'search.space.{one.name}' and 'search.space.{other.name}' both set '{path}'; let their "
                "'when' name different values of one parameter, or remove one"
            )


def _exclusive(one: Parameter, other: Parameter) -> bool:
    """Return whether two parameters can never count together, by their own conditions."""
    return any(name in other.when and not set(values) & set(other.when[name]) for name, values in one.when.items())


def _put(document: dict, path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for key in outer:
        document = document.setdefault(key, {})
    document[last] = value
