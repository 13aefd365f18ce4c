"""How a suite's mixtures are sampled: what a plan says of it, and what is refused."""

from collections.abc import Iterable, Mapping
from typing import Any

from moelora.errors import ConfigError

KEY = "sampling"
DEFAULT = "proportional"


def plan_sampling(training: Mapping[str, Any], tasks: int) -> dict[str, Any]:
    """Return a run's training settings with the way of mixing in its one spelling.

    The key is left out where it says nothing: a single task, and the proportional mixture that runs have without it.

    Args:
        training: merged training settings.
        tasks: how many tasks the run has.
    """
    kept = {key: value for key, value in training.items() if key != KEY}
    sampling = training.get(KEY, DEFAULT)
    if tasks < 2 or sampling == DEFAULT or sampling == {"temperature": 1}:
        return kept
    return kept | {KEY: sampling}


def check_sampling(suite: Mapping[str, Any], source: str) -> None:
    """Refuse a way of mixing where nothing is mixed, and one that would differ between variants.

    Raises:
        ConfigError: as said.
    """
    mixtures = {name for cell in suite["grid"] for name in cell.get("mixtures", {})}
    for name, block in suite["training_by_variant"].items():
        if KEY in block:
            raise ConfigError(
                f"{source}: 'training_by_variant.{name}.{KEY}' would show a variant other data than the rest; set "
                f"'{KEY}' in 'training', or for a mixture in 'regimes.<regime>.training_by_task'"
            )
    for place, names in _places(suite, mixtures):
        if not names:
            raise ConfigError(
                f"{source}: '{place}.{KEY}' has nothing to mix: it is for runs on two tasks or more; add such a run to "
                f"'mixtures' of a cell of 'grid', or take '{KEY}' out"
            )


def _places(suite: Mapping[str, Any], mixtures: set[str]) -> Iterable[tuple[str, set[str]]]:
    """Yield where the key stands, and the mixtures that it is about."""
    if KEY in suite["training"]:
        yield "training", mixtures
    for regime, rules in suite["regimes"].items():
        if KEY in rules.get("training", {}):
            yield f"regimes.{regime}.training", mixtures
        for task, block in rules.get("training_by_task", {}).items():
            if KEY in block:
                yield f"regimes.{regime}.training_by_task.{task}", mixtures & {task}
