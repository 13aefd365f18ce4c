"""Which modules a config means, resolved and checked before anything is replaced.

Names are those of the base model: tuner layers and PEFT's wrappers that are already there do not show.
"""

import re
from collections.abc import Iterable

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from moelora.errors import TargetModulesError


def base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the base model's modules by name, looking through tuner layers and wrappers."""
    found: dict[str, nn.Module] = {}
    _collect(model, "", found)
    return found


def _collect(module: nn.Module, name: str, found: dict[str, nn.Module]) -> None:
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    elif isinstance(module, AuxiliaryTrainingWrapper):
        module = module.original_module
    if name:
        found[name] = module
    for child_name, child in module.named_children():
        _collect(child, f"{name}.{child_name}" if name else child_name, found)


def matches(patterns: list[str] | str | None, name: str) -> bool:
    """Say whether a full name or ending in a list, or a regular expression, means this module."""
    if not patterns:
        return False
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def is_saved_in_full(modules_to_save: Iterable[str] | None, name: str) -> bool:
    """Say whether a module lies in one that is trained in full, which no adapter may enter."""
    parts = f".{name}."
    return any(f".{saved}." in parts for saved in modules_to_save or ())


def resolve(what: str, patterns: list[str] | str, modules: dict[str, nn.Module], config, linear: bool) -> list[str]:
    """Return the full names that ``patterns`` mean, sorted; every single pattern must match something.

    Args:
        what: Name of the setting, for the message.
        patterns: Full names or endings, or one regular expression.
        modules: The base model's modules by name.
        config: For what it excludes and what it saves in full.
        linear: Whether only linear modules will do.

    Raises:
        TargetModulesError: A pattern matches nothing, or a module that is not linear.
    """
    names = [
        name
        for name in modules
        if not matches(config.exclude_modules, name) and not is_saved_in_full(config.modules_to_save, name)
    ]
    found: set[str] = set()
    missing = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        one = pattern if isinstance(patterns, str) else [pattern]
        hits = [name for name in names if matches(one, name)]
        found.update(hits)
        if not hits:
            missing.append(pattern)
    if missing:
        raise TargetModulesError(
            f"{what}: {missing} match no module (tried {patterns!r}); {describe(modules)}; correct the names"
        )
    if linear:
        wrong = [name for name in found if not is_linear(modules[name])]
        if wrong:
            kinds = sorted({type(modules[name]).__name__ for name in wrong})
            raise TargetModulesError(
                f"{what}: {_shorten(wrong)} are {kinds}, expected linear modules; {describe(modules)}"
            )
    return sorted(found)


def is_linear(module: nn.Module) -> bool:
    """Say whether a module is a linear layer; bitsandbytes' 4- and 8-bit layers are."""
    return isinstance(module, nn.Linear)


def describe(modules: dict[str, nn.Module]) -> str:
    """List the linear modules there are, one line a kind, numbers as a star."""
    linear = _shorten(name for name, module in modules.items() if is_linear(module))
    return f"linear modules there are: {', '.join(linear) or 'none'}"


def _shorten(names: Iterable[str]) -> list[str]:
    return sorted({re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names})


def check_not_nested(names: Iterable[str]) -> None:
    """Refuse a target inside another: one of the two would never run.

    Raises:
        TargetModulesError: A target lies inside another target.
    """
    names = set(names)
    for name in sorted(names):
        parts = name.split(".")
        for end in range(1, len(parts)):
            outer = ".".join(parts[:end])
            if outer in names:
                raise TargetModulesError(f"both {outer!r} and {name!r} inside it are targets; keep one of the two")
