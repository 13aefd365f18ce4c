"""From text to plain documents: YAML and JSON, read so strictly that what is read is what the writer sees.

Both formats have corners in which a reader silently takes another thing than is written: of two equal keys the last
one counts, ``no`` is false, ``010`` is eight, ``1e999`` is infinite. Here all of that is refused.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from moelora.errors import ConfigError
from moelora.secrets import holds_secret

DEPTH = 40
"""Levels of nesting that a configuration file may have; ours have ten."""

BYTES = 8 * 1024 * 1024
"""Size that a configuration file may have; ours have fifty thousand."""

LARGEST = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exactly."""

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters but tab and line break, what turns the direction of writing, and halves of surrogate pairs."""
_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?")
_TRUE_AND_FALSE = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})
_SHOWN = 120
_DIGITS = 40

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):
    """A YAML loader that refuses a key given twice, or one that is no text (YAML itself keeps the last, silently)."""

    def construct_mapping(self, node, deep=False):
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # raises YAML's own error
        seen = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.source}: the key on line {line} is a collection; keys are words")
            key = key_node.value
            if key in seen:
                raise ConfigError(
                    f"{self.source}: key {show(key)} stands on line {seen[key]} and again on line {line}; "
                    "keep one of them"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def show(value: Any) -> str:
    """Return a value for a message: in quotes where it is text, cut where it is long.

    What is not ASCII in a word is written out, or a look-alike of a letter would be shown beside it as its equal.
    """
    if isinstance(value, str):
        shown = f"'{value}'" if value.isascii() and value.isprintable() else ascii(value)
    else:
        try:
            shown = repr(value)
        except ValueError:  # a whole number of more digits than Python prints
            shown = f"a {type(value).__name__}"
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 2]}…{shown[-1]}"


def parse_yaml(data: bytes, source: str) -> Any:
    """Return the document in a YAML text: plain values with words as keys.

    Args:
        data: The text in UTF-8.
        source: The file, for messages.

    Raises:
        ConfigError: It is not YAML, has tags, aliases or two equal keys, is too deep or long, or a value is not what
            it looks like. The message names the file and the line or key.
    """
    if len(data) > BYTES:
        raise ConfigError(f"{source} has {len(data)} bytes, expected {BYTES} at the most; it is no configuration file")
    try:
        text = data.decode("utf-8")
        _check_events(text, source)
        loader = _UniqueKeyLoader(text)
        loader.source = source
        try:
            return plain_copy(loader.get_single_data(), source, secrets=holds_secret(text))
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"{source} cannot be read as YAML: {said or type(error).__name__}") from error


class _Place:
    """The key at which a walk through the events of a YAML text stands."""

    def __init__(self):
        self.frames: list[list] = []  # whether a mapping; its key or the index; whether a key comes next

    def step(self, event: Any) -> None:
        """Take one event in."""
        if isinstance(event, yaml.CollectionEndEvent):
            self.frames.pop()
            return
        if self.frames and isinstance(event, yaml.NodeEvent):
            frame = self.frames[-1]
            if frame[0]:
                if frame[2]:
                    frame[1] = getattr(event, "value", "?")
                frame[2] = not frame[2]
            else:
                frame[1] += 1
        if isinstance(event, yaml.CollectionStartEvent):
            mapping = isinstance(event, yaml.MappingStartEvent)
            self.frames.append([mapping, "?" if mapping else -1, mapping])

    def __str__(self) -> str:
        return show(".".join(str(frame[1]) for frame in self.frames))


def _check_events(text: str, source: str) -> None:
    """Walk through a YAML text before anything is built from it: its depth, aliases, tags and odd spellings."""
    loader = _Loader(text)
    place = _Place()
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent) and len(place.frames) >= DEPTH:
                raise ConfigError(f"{source}: {place} is nested more than {DEPTH} levels deep; flatten it")
            place.step(event)
            at = f"{source}: {place} (line {event.start_mark.line + 1})"
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{at} repeats what stands elsewhere (*{event.anchor}); write it out")
            if getattr(event, "tag", None) is not None:
                raise ConfigError(f"{at} has the tag {show(event.tag)}; plain values only, take it out")
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                _check_spelling(loader, event.value, at)
    finally:
        loader.dispose()


def _check_spelling(loader: Any, text: str, at: str) -> None:
    """Refuse an unquoted word that YAML takes for something else than it looks like."""
    kind = loader.resolve(yaml.ScalarNode, text, (True, False)).rpartition(":")[2]
    if kind == "bool" and text not in _TRUE_AND_FALSE:
        raise ConfigError(f"{at}: YAML reads {show(text)} as true or false; write that, or put it into quotes")
    if kind in ("int", "float") and (not _PLAIN_NUMBER.fullmatch(text) or len(text) > _DIGITS):
        raise ConfigError(
            f"{at}: {show(text)} is not the number to YAML that it looks like; write finite plain digits, or quotes"
        )
    if kind == "timestamp":
        raise ConfigError(f"{at}: YAML reads {show(text)} as a date; put it into quotes")
    if kind == "merge":
        raise ConfigError(f"{at}: '<<' merges mappings, which is not read; write the keys out")


def plain_copy(value: Any, source: str, place: str = "", secrets: bool = True) -> Any:
    """Return a document as dicts, lists, text, numbers, booleans and null, after a look at each.

    Args:
        value: What was read, or what a caller hands over (Snakemake has its own kind of dict).
        source: The file, for messages.
        place: The key that it stands at.
        secrets: Whether to look for access tokens.

    Raises:
        ConfigError: A key is no text, a number is not finite or too large, a text has characters that cannot be seen
            or an access token, or there is a value of another kind. The message names file and key.
    """
    at = f"{source}: '{place}'" if place else str(source)
    if isinstance(value, str):
        _check_text(value, at, secrets)
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise ConfigError(f"{at} is a whole number beyond {LARGEST}; nothing here is so large")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{at} is {value}; expected a finite number")
        return value
    if place.count(".") > 3 * DEPTH:
        raise ConfigError(f"{at[:_SHOWN]}… is nested more than {DEPTH} levels deep; flatten it")
    if isinstance(value, Mapping):
        copied = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{at}: key {show(key)} is no word to YAML; put it into quotes")
            _check_text(key, f"{at}: key {show(key)}", secrets)
            copied[key] = plain_copy(inner, source, f"{place}.{key}" if place else key, secrets)
        return copied
    if isinstance(value, list | tuple):
        places = (f"{place}.{index}" if place else str(index) for index in range(len(value)))
        return [plain_copy(inner, source, inside, secrets) for inside, inner in zip(places, value, strict=True)]
    raise ConfigError(f"{at} is a {type(value).__name__} to YAML; expected text, a number, a list or a mapping")


def _check_text(text: str, at: str, secrets: bool) -> None:
    if found := _UNSEEN.search(text):
        raise ConfigError(f"{at} has the character U+{ord(found[0]):04X}, which cannot be seen; take it out")
    if secrets and holds_secret(text):
        raise ConfigError(
            f"{at} holds an access token or a password, which would be copied into plans, logs and records; take it "
            "out and use the variable HF_TOKEN or 'hf auth login'"
        )


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


def read_words(value: Any, source: str) -> Any:
    """Return a value of a command line as YAML means it, at any depth.

    Snakemake's ``--config`` leaves what stands inside lists and mappings as text.

    Raises:
        ConfigError: A text is not YAML, or not read as it looks (`parse_yaml`).
    """
    if isinstance(value, Mapping):
        return {key: read_words(inner, source) for key, inner in value.items()}
    if isinstance(value, list):
        return [read_words(inner, source) for inner in value]
    return parse_yaml(value.encode("utf-8", "surrogateescape"), source) if isinstance(value, str) else value
