"""How many results a search is to have."""

from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError
from moelora.search.space import Space


def count_trials(search: Mapping[str, Any], space: Space, source: str = "the study") -> int:
    """Return how many results a search is to have; a grid's own size where none is said.

    Raises:
        ConfigError: a grid has fewer points than trials are asked for, or another sampler is not told how many.
    """
    asked = search["trials"]
    if search["sampler"]["name"] != "grid":
        if asked is None:
            raise ConfigError(
                f"{source}: 'search.trials' is null, which only the grid sampler understands; say how many"
            )
        return asked
    points = len(space.grid())
    if asked is not None and asked > points:
        raise ConfigError(
            f"{source}: 'search.trials' is {asked}, but the grid has {points} points; give the ranges more 'points', "
            "or write null for all"
        )
    return points if asked is None else asked
