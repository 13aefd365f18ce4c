"""Ways to spoil a valid document, each making it invalid wherever it is applied, and what a message must say of it."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import assume
from hypothesis import strategies as st

MARK = "PLACEHOLDER"
TOKEN = "hf_" + "A1b2" * 8
JUNK = {
    "string": "no-such-word",
    "integer": 7,
    "number": 2.5,
    "boolean": True,
    "null": None,
    "array": [[]],
    "object": {"zzz": {}},
}
HOSTILE = (
    "a\nb",
    "a b",
    "a;b",
    "a'b",
    'a"b',
    "a`b`",
    "$(touch x)",
    "${IFS}",
    "..",
    "../a",
    "a/../b",
    "a|b",
    "a&b",
    "a>b",
    "-rf",
    "{a}",
    "t\u0430sk",
    "na\u00efve",
    "a\n",
    "~",
    "a\\b",
    "*",
    "",
)
UNSEEN = ("\x07", "\x1b[31m", "\u202e", "\u200b", "\ufeff", "\x85", "\r")
SPELLINGS = (
    "no",
    "Yes",
    "off",
    "ON",
    "010",
    "0x1F",
    "0b11",
    "1:30",
    "1_000",
    "2020-01-31",
    "2020-13-45",
    ".nan",
    ".inf",
    "-.INF",
    "1.0e+999",
    "9" * 30,
    "9" * 5000,
    "!!python/object/apply:os.system ['touch pwned']",
    "!!python/name:os.system ''",
    "!!binary aGVsbG8=",
    "!!timestamp 2020-01-01",
    "!!set {a, b}",
    "!!str 5",
    "!local x",
    "*nowhere",
    "{? [a, b] : c}",
    "{1: a}",
    "{null: a}",
    "{true: a}",
    "{a: 1, a: 2}",
    "{<<: {a: 1}}",
    "[" * 60 + "]" * 60,
    "{a: " * 60 + "1" + "}" * 60,
)


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A spoilt document as bytes, what the message must say, and how it was spoilt."""

    data: bytes
    says: tuple[str, ...]
    how: str


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value in a document with its path and the part of the schema that speaks of it."""

    path: tuple
    value: Any
    rule: dict

    @property
    def key(self) -> str:
        """The last word of the path."""
        return next((part for part in reversed(self.path) if isinstance(part, str)), "")


def leaves(document: Any, rule: dict, schema: dict, path: tuple = ()) -> Iterator[Leaf]:
    """Yield every value that the schema speaks of in one way, the document itself first."""
    while "$ref" in rule:
        rule = {**schema["$defs"][rule["$ref"].rsplit("/", 1)[1]], **{k: v for k, v in rule.items() if k != "$ref"}}
    yield Leaf(path, document, rule)
    if isinstance(document, dict) and "oneOf" not in rule:
        for key, value in document.items():
            inner = rule.get("properties", {}).get(key, rule.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from leaves(value, inner, schema, (*path, key))
    if isinstance(document, list) and isinstance(rule.get("items"), dict):
        for index, value in enumerate(document):
            yield from leaves(value, rule["items"], schema, (*path, index))


def change(document: Any, path: tuple, value: Any) -> Any:
    """Return a copy with another value at a path."""
    if not path:
        return value
    copied = dict(document) if isinstance(document, dict) else list(document)
    copied[path[0]] = change(document[path[0]], path[1:], value)
    return copied


def remove(document: Any, path: tuple) -> Any:
    """Return a copy without the key at a path."""
    if len(path) > 1:
        return change(document, path[:1], remove(document[path[0]], path[1:]))
    return {key: value for key, value in document.items() if key != path[0]}


def as_yaml(document: Any) -> bytes:
    return yaml.dump(
        document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), width=10**6, sort_keys=False
    ).encode()


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def misspell(draw, word: str) -> str:
    """Return a word with a letter lost, doubled or changed."""
    place = draw(st.integers(0, len(word) - 1))
    form = draw(st.sampled_from(("lose", "double", "change")))
    letter = {"lose": "", "double": word[place] * 2, "change": "q"}[form]
    return word[:place] + letter + word[place + 1 :]


def closed(found: list[Leaf]) -> list[Leaf]:
    return [leaf for leaf in found if isinstance(leaf.value, dict) and leaf.rule.get("additionalProperties") is False]


def spoil_key(draw, document, found):
    leaf = draw(st.sampled_from([one for one in closed(found) if one.value]))
    key = draw(st.sampled_from(sorted(leaf.value)))
    typo = misspell(draw, key)
    known = set(leaf.rule["properties"])
    assume(typo and typo not in known)
    spoilt = {(typo if name == key else name): value for name, value in leaf.value.items()}
    hint = difflib.get_close_matches(typo, sorted(known), n=1, cutoff=0.5)
    return change(document, leaf.path, spoilt), (f"'{typo}'", *(f"did you mean '{one}'?" for one in hint))


def spoil_missing(draw, document, found):
    places = [(leaf, key) for leaf in closed(found) for key in leaf.rule.get("required", ())]
    leaf, key = draw(st.sampled_from(places))
    return remove(document, (*leaf.path, key)), (f"'{key}'",)


def spoil_type(draw, document, found):
    typed = [leaf for leaf in found if leaf.path and ("type" in leaf.rule or "enum" in leaf.rule)]
    leaf = draw(st.sampled_from(typed))
    allowed = leaf.rule.get("type", ())
    allowed = {allowed} if isinstance(allowed, str) else set(allowed)
    if "number" in allowed:
        allowed.add("integer")
    kind = draw(st.sampled_from(sorted(set(JUNK) - allowed)))
    return change(document, leaf.path, JUNK[kind]), (leaf.key,)


def spoil_range(draw, document, found):
    limits = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    numbers = [
        leaf for leaf in found if leaf.path and set(limits) & set(leaf.rule) and type(leaf.value) in (int, float)
    ]
    assume(numbers)
    leaf = draw(st.sampled_from(numbers))
    limit = draw(st.sampled_from(sorted(set(limits) & set(leaf.rule))))
    edge = leaf.rule[limit]
    step = 0 if limit.startswith("exclusive") else 1 if limit == "maximum" else -1
    value = (
        edge + step
        if "integer" in leaf.rule["type"]
        else float(math.nextafter(edge, step * math.inf))
        if step
        else edge
    )
    return change(document, leaf.path, value), (leaf.key,)


def spoil_whole_number(draw, document, found):
    whole = [leaf for leaf in found if leaf.path and type(leaf.value) is int and "integer" in leaf.rule.get("type", ())]
    assume(whole)
    leaf = draw(st.sampled_from(whole))
    return change(document, leaf.path, float(leaf.value)), (leaf.key,)


def spoil_name(draw, document, found):
    named = [leaf for leaf in found if leaf.path and "pattern" in leaf.rule and isinstance(leaf.value, str)]
    assume(named)
    leaf = draw(st.sampled_from(named))
    longs = ("x" * (leaf.rule["maxLength"] + 1),) if "maxLength" in leaf.rule else ()
    value = draw(st.sampled_from((*HOSTILE, *longs, leaf.value + "\n")))
    if "@" in leaf.rule["pattern"]:  # paths may begin with a hyphen or be a plain word
        assume(value not in ("-rf",))
    return change(document, leaf.path, value), (leaf.key,)


def spoil_named_key(draw, document, found):
    places = [one for one in found if isinstance(one.value, dict) and one.value and "propertyNames" in one.rule]
    assume(places)
    leaf = draw(st.sampled_from(places))
    key = draw(st.sampled_from(sorted(leaf.value)))
    hostile = draw(st.sampled_from([*HOSTILE, "Zwei Worte", key + "\n"]))
    spoilt = {(hostile if name == key else name): value for name, value in leaf.value.items()}
    return change(document, leaf.path, spoilt), (leaf.key,) if leaf.path else ()


def spoil_list(draw, document, found):
    lists = [leaf for leaf in found if isinstance(leaf.value, list) and leaf.value]
    lists = [leaf for leaf in lists if leaf.rule.get("uniqueItems") or leaf.rule.get("minItems")]
    assume(lists)
    leaf = draw(st.sampled_from(lists))
    if leaf.rule.get("uniqueItems") and (not leaf.rule.get("minItems") or draw(st.booleans())):
        return change(document, leaf.path, [*leaf.value, leaf.value[0]]), (leaf.key,)
    return change(document, leaf.path, leaf.value[: leaf.rule["minItems"] - 1]), (leaf.key,)


def spoil_unseen(draw, document, found):
    texts = [leaf for leaf in found if isinstance(leaf.value, str)]
    leaf = draw(st.sampled_from(texts))
    sign = draw(st.sampled_from(UNSEEN))
    return change(document, leaf.path, f"{leaf.value}{sign}x"), (leaf.key, f"U+{ord(sign[0]):04X}")


def spoil_token(draw, document, found):
    leaf = draw(st.sampled_from([leaf for leaf in found if isinstance(leaf.value, str)]))
    text = draw(st.sampled_from((TOKEN, f"https://me:{TOKEN[3:]}@example.org/x")))
    return change(document, leaf.path, text), (leaf.key,)


BY_SCHEMA = (
    spoil_key,
    spoil_key,
    spoil_missing,
    spoil_type,
    spoil_type,
    spoil_range,
    spoil_whole_number,
    spoil_name,
    spoil_named_key,
    spoil_list,
)
TEXT_ONLY = (spoil_unseen, spoil_token)

YAML_FILES = (
    b"",
    b"null\n",
    b"[]\n",
    b"just text\n",
    b"- a\n- b\n",
    b"\xff\xfe\x00",
    b"name: caf\xe9\n",
    b"a: [1, 2\n",
    b"a: b: c\n",
    b"\x00",
    b"---\na: 1\n---\nb: 2\n",
    b"[" * 100_000,
    b"{a: " * 100_000,
    b"%YAML 9.9\n---\na: 1\n",
    b"\t- a\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    b"&a [*a]\n",
    b"a: 1\na: 1\n",
    b"? [a]\n: 1\n",
    b"!!python/object/apply:os.system ['touch pwned']\n",
    b"!!python/object/new:type [x]\n",
    b"name: " + b"x" * 10**6,
    b"a: 1" + b" " * 9_000_000,
)
JSON_FILES = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"\xff\xfe\x00",
    b'{"a": "caf\xe9"}',
    b"{",
    b"[" * 100_000,
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e999}',
    b'{"a": -1e4000}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": 99999999999999999999}',
    b'{"a": 1, "a": 2}',
    b'{"a": "\\ud800"}',
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a": 010}',
    b"\x00",
    b'{"a": 1} x',
    b'{"a":' * 100_000,
)


@st.composite
def spoilt_yaml(draw, document: dict, schema: dict) -> Spoilt:
    """Return a spoilt form of a YAML file that follows a schema."""
    found = list(leaves(document, schema, schema))
    form = draw(st.sampled_from((*BY_SCHEMA, *TEXT_ONLY, "spelling", "spelling", "twice", "file")))
    if form == "file":
        return Spoilt(draw(st.sampled_from(YAML_FILES)), (), "file")
    if form == "spelling":
        leaf = draw(st.sampled_from([leaf for leaf in found if leaf.path]))
        spelling = draw(st.sampled_from(SPELLINGS))
        text = as_yaml(change(document, leaf.path, MARK)).replace(MARK.encode(), spelling.encode())
        says = () if spelling.startswith("{") else (leaf.key,)  # the message then names a key inside
        return Spoilt(text, says, f"spelling {spelling[:40]}")
    if form == "twice":
        key = draw(st.sampled_from(sorted(document)))
        return Spoilt(as_yaml(document) + f"{key}: again\n".encode(), (f"'{key}'", "again on line"), "twice")
    spoilt, says = form(draw, document, found)
    return Spoilt(as_yaml(spoilt), says, form.__name__)


@st.composite
def spoilt_json(draw, document: Any, schema: dict) -> Spoilt:
    """Return a spoilt form of a JSON file that follows a schema."""
    found = list(leaves(document, schema, schema))
    form = draw(st.sampled_from((*BY_SCHEMA, "number", "twice", "file")))
    if form == "file":
        return Spoilt(draw(st.sampled_from(JSON_FILES)), (), "file")
    if form == "number":
        leaf = draw(st.sampled_from([leaf for leaf in found if leaf.path]))
        number = draw(st.sampled_from(("NaN", "-Infinity", "1e999", "9" * 400, "1" + "0" * 400 + ".5")))
        text = as_json(change(document, leaf.path, MARK)).replace(f'"{MARK}"'.encode(), number.encode())
        return Spoilt(text, (leaf.key,), f"number {number[:20]}")
    if form == "twice":
        key = draw(st.sampled_from(sorted(document)))
        return Spoilt(as_json(document)[:-1] + f', "{key}": 0}}'.encode(), (f"'{key}'", "twice"), "twice")
    spoilt, says = form(draw, document, found)
    return Spoilt(as_json(spoilt), says, form.__name__)
