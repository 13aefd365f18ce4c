"""From YAML to plain documents, read so strictly that what is read is what the writer sees.

YAML has corners in which a reader silently takes another thing than is written: of two equal keys the last one counts,
``no`` is false, ``010`` is eight. Here all of that is refused; `moelora.strict_json` does the same for JSON.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from moelora.errors import ConfigError, show
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
            if trouble := _trouble_of(loader, event):
                raise ConfigError(f"{source}: {place} (line {event.start_mark.line + 1}) {trouble}")
    finally:
        loader.dispose()


def _trouble_of(loader: Any, event: Any) -> str:
    """Return what is wrong with one event of a YAML text; empty where nothing is."""
    if isinstance(event, yaml.AliasEvent):
        return f"repeats what stands elsewhere (*{event.anchor}); write it out"
    if getattr(event, "tag", None) is not None:
        return f"has the tag {show(event.tag)}; plain values only, take it out"
    if not isinstance(event, yaml.ScalarEvent) or not event.implicit[0]:
        return ""
    # an unquoted word, which YAML may take for something else than it looks like
    kind = loader.resolve(yaml.ScalarNode, event.value, (True, False)).rpartition(":")[2]
    if kind == "bool" and event.value not in _TRUE_AND_FALSE:
        return f"is {show(event.value)}, which YAML reads as true or false; write that, or put it into quotes"
    if kind in ("int", "float") and (not _PLAIN_NUMBER.fullmatch(event.value) or len(event.value) > _DIGITS):
        return (
            f"is {show(event.value)}, to YAML not the number that it looks like; write finite plain digits, or quotes"
        )
    if kind == "timestamp":
        return f"is {show(event.value)}, which YAML reads as a date; put it into quotes"
    if kind == "merge":
        return "is '<<', which merges mappings and is not read; write the keys out"
    return ""


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
        raise ConfigError(f"{at[:120]}… is nested more than {DEPTH} levels deep; flatten it")
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
            f"{at} holds a password or an access token, which would be copied into plans, logs and records; take it "
            "out, and use the variable HF_TOKEN, 'hf auth login' or, for a database, ~/.pgpass"
        )


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
