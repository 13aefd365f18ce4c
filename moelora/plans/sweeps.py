"""Variants that a suite makes itself: one for each combination of levels on the axes of a sweep."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.methods import get_method


def sweep_variants(
    suite: Mapping[str, Any], chosen: Mapping[str, Any], known: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Return the chosen variants by name, each that is swept replaced by one for each combination of levels.

    A level is a name and the settings that it changes; ``mixlora`` with the levels ``k2`` and ``r4`` becomes
    ``mixlora-k2-r4``.

    Args:
        suite: a checked suite.
        chosen: variants by name.
        known: every variant that a method file defines.
        source: what messages call the suite.

    Raises:
        ConfigError: a sweep is of a variant that is not chosen, changes one setting on two axes, makes a name that is
            taken, or a level has a setting that the method refuses.
    """
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for place, sweep in enumerate(suite["sweeps"]):
        name = sweep["variant"]
        if name not in chosen:
            raise ConfigError(
                f"{source}: 'sweeps.{place}.variant' is '{name}', which is not among 'variants'"
                f"{nearest(name, set(chosen))}"
            )
        by_variant.setdefault(name, []).append(sweep["axes"])
    found: dict[str, Any] = {}
    for name, variant in chosen.items():
        swept = [child for axes in by_variant.get(name, ()) for child in _children(variant, axes, source)]
        for child in swept or [variant]:
            if child.name in found or (child.name != name and child.name in known):
                raise ConfigError(
                    f"{source}: a sweep of '{name}' makes the variant '{child.name}', a name that is taken; rename a "
                    "level"
                )
            found[child.name] = child
    return found


def _children(variant: Any, axes: Mapping[str, Mapping[str, Mapping]], source: str) -> Iterator[Any]:
    """Yield a variant for each combination of levels."""
    method = get_method(variant.method)
    owner: dict[str, str] = {}
    for axis, levels in axes.items():
        for setting in sorted({key for changes in levels.values() for key in changes}):
            if owner.setdefault(setting, axis) != axis:
                raise ConfigError(
                    f"{source}: the axes '{owner[setting]}' and '{axis}' of a sweep of '{variant.name}' both change "
                    f"'{setting}'; a setting belongs to one axis"
                )
    for names in itertools.product(*axes.values()):
        levels = dict(zip(axes, names, strict=True))
        changes = {key: value for axis, level in levels.items() for key, value in axes[axis][level].items()}
        name = "-".join([variant.name, *names])
        try:
            settings = method.all_settings({**variant.settings, **changes})
        except ConfigError as error:
            raise ConfigError(f"{source}: sweep of '{variant.name}', variant '{name}': {error}") from error
        yield dataclasses.replace(
            variant, name=name, settings=settings, sweep={"variant": variant.name, "levels": levels}
        )
