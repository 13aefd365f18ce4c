"""Whether a value from a file is of the kind that a setting's annotation says; no conversion, no guessing."""

import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

_LARGEST = 1_000_000_000
"""A rank, count or factor beyond this is a slip: nothing of a model is so large. None of them is negative either."""


def trouble_of(settings: type, values: Mapping[str, Any]) -> str:
    """Return what is wrong with the kinds of some settings' values in one sentence; empty where nothing is.

    Args:
        settings: A page's dataclass.
        values: Setting to value, as YAML or JSON has it.
    """
    hints = _hints(settings)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            return f"{name} must be {_said(hints[name])}, found {value!r:.120}"
    return ""


@cache
def _hints(settings: type) -> dict[str, Any]:
    return typing.get_type_hints(settings)


def _fits(value: Any, hint: Any) -> bool:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(_is(value, option) for option in options)


def _is(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        numbers = int if kind is int else int | float
        if not isinstance(value, numbers) or isinstance(value, bool):
            return False
        return math.isfinite(value) and 0 <= value <= _LARGEST
    if typing.get_origin(kind) is list:
        inner = typing.get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_is(one, inner) for one in value)
    return isinstance(value, kind)


def _said(hint: Any) -> str:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(_WORDS.get(option, str(option)) for option in options)


_WORDS = {
    int: "a whole number from 0",
    float: "a finite number from 0",
    bool: "true or false",
    str: "text",
    list[str]: "a list of texts",
    type(None): "null",
}
