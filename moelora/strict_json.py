"""From JSON to plain documents, read so strictly that what is read is what is written.

Python's reader keeps the last of two equal keys, takes NaN and makes 1e999 infinite. Here all of that is refused.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from moelora.errors import show


def parse_json(text: str) -> Any:
    """Return the document in a JSON text.

    Raises:
        ValueError: It is not JSON, has two equal keys, a number that is not finite or does not fit into 64 bits, text
            that is no Unicode, or too many levels.
    """
    try:
        document = _decode(text, {})
        if _LONG_NUMBER.search(text):  # rare, and a hook for every number would cost more than all else
            document = _decode(text, {"parse_float": _finite})
    except _OddNumberError as error:
        hooks = {"parse_constant": _Odd, "parse_int": _keep_odd(_bounded), "parse_float": _keep_odd(_finite)}
        place = _find_odd(json.loads(text, **hooks))
        raise ValueError(f"'{place}' is {error}") from error
    except RecursionError as error:
        raise ValueError("it has too many levels") from error
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("it has half of a surrogate pair, which is no Unicode") from error
    return document


_LONG_NUMBER = re.compile(r"[eE]\+?[0-9]{3}|[0-9]{300}")


def _decode(text: str, hooks: dict[str, Any]) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_bounded, **hooks)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {show(twice)} stands twice in one object")
    return document


class _OddNumberError(ValueError):
    """A number that JSON does not have, or that does not fit."""


class _Odd(str):
    """Such a number, kept as it is written to find its place."""


def _keep_odd(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def keep(digits: str) -> Any:
        try:
            return read(digits)
        except _OddNumberError:
            return _Odd(digits)

    return keep


def _find_odd(document: Any, place: str = "") -> str:
    """Return the place of the first odd number in a document; empty where there is none."""
    if isinstance(document, _Odd):
        return place or "the whole file"
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else ())
    )
    return next(
        (found for key, value in inner if (found := _find_odd(value, f"{place}.{key}" if place else str(key)))), ""
    )


def _refuse_constant(word: str) -> None:
    raise _OddNumberError(f"{word}, which is no number of JSON")


def _bounded(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**63:
        raise _OddNumberError(f"the whole number {show(digits)}, which does not fit into 64 bits")
    return number


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise _OddNumberError(f"the number {show(digits)}, which is not finite")
    return number
