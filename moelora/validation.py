"""JSON schemas with the two readings that documents here need, and one sentence for what is wrong with a document.

A whole number is one that is written so: to JSON Schema 2.0 is one too, and Python then counts layers with a float. And
``$`` at the end of a pattern is the end: to Python a line break may follow.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from moelora.errors import nearest, show


@cache
def _validator_class() -> Any:
    from jsonschema import Draft202012Validator, validators

    checker = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return validators.extend(Draft202012Validator, {"pattern": _pattern}, type_checker=checker)


def make_validator(schema: dict[str, Any]) -> Any:
    """Return the validator of a schema."""
    return _validator_class()(schema)


@cache
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(re.sub(r"(?<!\\)\$(?=$|\))", r"\\Z", pattern))


def _pattern(validator: Any, pattern: str, instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _compiled(pattern).search(instance):
        yield ValidationError(f"{show(instance)} does not match {pattern}")


def find_trouble(document: Any, validator: Any) -> str:
    """Return what is wrong with a document in one sentence, which names the key; empty where nothing is.

    For an unknown key it has the nearest valid spelling.
    """
    errors = sorted(validator.iter_errors(document), key=lambda error: (len(error.absolute_path), _place(error)))
    if not errors:
        return ""
    # An unknown key explains more than what follows from it (a required key that is "missing" because it is misspelt).
    leaves = [leaf for error in errors for leaf in _leaves(error)]
    unknown = [leaf for leaf in leaves if leaf.validator == "additionalProperties"]
    return _explain((unknown or leaves)[0])


def _place(error: Any) -> str:
    return ".".join(str(part) for part in error.absolute_path)


def _leaves(error: Any) -> list:
    """Return what a failed alternative really complained about: the branch that came furthest."""
    if error.validator not in ("oneOf", "anyOf") or not error.context:
        return [error]
    branches: dict[Any, list] = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    # A branch of the wrong type was not meant; among the others the one with fewest complaints was.
    meant = [b for b in branches.values() if not any(e.validator == "type" and not e.path for e in b)]
    if not meant:
        return [error]
    best = min(meant, key=lambda b: (sum(e.validator == "required" for e in b), len(b)))
    return [leaf for inner in best for leaf in _leaves(inner)]


def _explain(error: Any) -> str:
    place = _place(error)
    inside = f" in '{place}'" if place else ""
    at = f"'{place}'" if place else "the file"
    if error.validator == "additionalProperties":
        known = set(error.schema.get("properties", {}))
        key = sorted(set(error.instance) - known, key=str)[0]
        return f"unknown key {show(key)}{inside}{nearest(key, known)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"key '{missing[0]}' is missing{inside}; add it"
    if error.validator == "enum":
        return f"{at} is {show(error.instance)}{nearest(error.instance, [str(v) for v in error.validator_value])}"
    if error.validator == "type":
        expected = error.validator_value
        expected = " or ".join(expected) if isinstance(expected, list) else expected
        hint = ""
        if isinstance(error.instance, str) and _is_number(error.instance):
            hint = "; YAML reads this spelling as text, write it with a point, as in 2.0e-5"
        return f"{at} must be {expected}, found {show(error.instance)}{hint}"
    described = error.schema.get("description") if isinstance(error.schema, dict) else None
    if error.validator in ("oneOf", "anyOf", "pattern") and described:
        return f"{at} must be {described}, found {show(error.instance)}"
    if error.validator == "pattern":
        return f"{at}: {show(error.instance)} does not match {show(error.validator_value)}"
    if error.validator in ("minLength", "maxLength", "uniqueItems", "minItems", "maxItems"):
        return f"{at}: found {show(error.instance)}, expected {error.validator} {show(error.validator_value)}"
    return f"{at}: {error.message[:300]}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def load_validator(path: Path) -> Any:
    """Return the validator of a schema that comes with the package."""
    return make_validator(json.loads(path.read_text(encoding="utf-8")))
