"""What several verbs share: making a verb, kinds of argument, the sources of a run."""

import argparse
from pathlib import Path


def add_verb(verbs, name: str, handler: str, help_text: str) -> argparse.ArgumentParser:
    """Add a verb that ``module:function`` carries out; return its parser."""
    verb = verbs.add_parser(name, help=help_text, description=help_text, fromfile_prefix_chars="@")
    verb.set_defaults(handler=handler, verb=name)
    return verb


def json_text_or_file(text: str) -> dict:
    """Return the mapping that an argument holds, as JSON text or as the path of a JSON file."""
    from moelora.errors import show
    from moelora.strict_json import parse_json

    try:
        document = parse_json(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"expected JSON text or a JSON file, found {show(text)} ({error})") from error
    if not isinstance(document, dict):
        raise argparse.ArgumentTypeError(f"expected an object in JSON, found {show(document)}")
    return document


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as ``8,16,32``."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers joined by commas, found {text!r}") from error


def positive(text: str) -> int:
    """Return a whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def add_sources(verb: argparse.ArgumentParser) -> None:
    """Add the options that say where built-in data and a built base model lie."""
    verb.add_argument("--data", type=Path, metavar="DIR", help="built-in data, where a task uses it")
    verb.add_argument("--base", type=Path, metavar="DIR", help="base model built by `moelora base`, where one is used")
