"""Reading the YAML files: models, tasks, methods and suites, each checked against the schema of its kind.

A file that cannot be meant is refused with its name, the key and the nearest valid spelling, before
anything is built from it. Defaults stand in the schemas, and are filled in here.
"""

import copy
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, nearest, show
from moelora.meaning import check_meaning
from moelora.reading import parse_yaml, plain_copy
from moelora.validation import find_trouble, make_validator

FORMS = ("nf4", "int8")
"""Forms in which bitsandbytes holds a base model's linears; any model may be named with one, as in llama-2-7b-nf4."""

KINDS = {"model": "models", "task": "tasks", "method": "methods", "suite": "suites", "claim": "claims"}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a file may be called: a name becomes a part of paths and of command lines."""


def load_yaml(path: "Path | str") -> dict:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, holds a key twice, is not a mapping, or says something that YAML
            reads otherwise than it looks (:func:`moelora.reading.parse_yaml`).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        siblings = [p.stem for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path} does not exist{nearest(path.stem, siblings)}") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    document = parse_yaml(data, str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, found {type(document).__name__}")
    return document


@cache
def load_schema(kind: str, schema_dir: Path) -> dict:
    """Return the JSON schema of a kind of file.

    Raises:
        ConfigError: the schema is missing, which means that the folder given is not a configuration folder.
    """
    path = schema_dir / f"{kind}.schema.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"schema {path} cannot be read: {error.strerror}; --config-dir must name a folder with models/, tasks/, "
            "methods/ and suites/, with schemas/ beside it"
        ) from error


@cache
def _validator(kind: str, schema_dir: Path):
    return make_validator(load_schema(kind, schema_dir))


def check(document: Any, kind: str, schema_dir: Path, source: "Path | str") -> None:
    """Check a document against the schema of its kind.

    Raises:
        ConfigError: the message names the source, the key and, for an unknown key, the nearest valid spelling.
    """
    if trouble := find_trouble(document, _validator(kind, schema_dir)):
        raise ConfigError(f"{source}: {trouble}")


def fill_defaults(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict:
    """Return a copy in which every absent property that has a default in the schema has it.

    Inner mappings are filled too, except where a definition is referred to (``$ref``): those are layers that are
    merged first and filled by whoever merges them.
    """
    filled = copy.deepcopy(dict(document))
    for key, rule in schema.get("properties", {}).items():
        if key not in filled and "default" in rule:
            filled[key] = copy.deepcopy(rule["default"])
        if isinstance(filled.get(key), dict) and "properties" in rule:
            filled[key] = fill_defaults(filled[key], rule)
    return filled


def find_config_dir(path: "Path | str | None" = None) -> "ConfigDir":
    """Return the configuration folder for those who call from Python.

    It is the folder given, else the one in MOELORA_CONFIG_DIR, else that of the checkout that the package lies in,
    else ``workflow/config`` here. An installed package alone has none: the files belong to the workflow.

    Raises:
        ConfigError: there is none in any of these places.
    """
    given = path or os.environ.get("MOELORA_CONFIG_DIR")
    places = [Path(given)] if given else [Path(__file__).parents[1] / "workflow" / "config", Path("workflow/config")]
    for place in places:
        if (place / KINDS["task"]).is_dir():
            return ConfigDir(place)
    raise ConfigError(
        f"no configuration folder with {KINDS['task']}/ in {' or '.join(map(str, places))}: the YAML files are not "
        "part of the installed package; pass config_dir=…, set MOELORA_CONFIG_DIR to workflow/config of a checkout, or "
        "give the examples themselves"
    )


def split_form(name: str) -> tuple[str, str]:
    """Return a model's name without the quantised form at its end, and that form; empty where it names none."""
    stem, _, form = name.rpartition("-")
    return (stem, form) if stem and form in FORMS else (name, "")


def as_quantised(document: Mapping[str, Any], form: str, source: "Path | str") -> dict:
    """Return a model's document in a quantised form: another model, with a name and a column of its own.

    Raises:
        ConfigError: it is quantised already.
    """
    if document.get("quantisation"):
        raise ConfigError(
            f"{source}: model '{document['name']}' is quantised already ({document['quantisation']}); name it as it is"
        )
    name, title = f"{document['name']}-{form}", f"{document['title']}, {form} base"
    return {**document, "name": name, "title": title, "quantisation": form}


@dataclasses.dataclass(frozen=True)
class ConfigDir:
    """A configuration folder: ``models/``, ``tasks/``, ``methods/`` and ``suites/``, with ``schemas/`` beside it."""

    path: Path

    @property
    def schema_dir(self) -> Path:
        """Return the folder of the schemas."""
        return self.path.parent / "schemas"

    def schema(self, kind: str) -> dict:
        """Return the schema of a kind."""
        return load_schema(kind, self.schema_dir)

    def file(self, kind: str, name: str) -> Path:
        """Return where the file of this kind and name lies; a quantised form of a model is described by the model's."""
        path = self.path / KINDS[kind] / f"{name}.yaml"
        if kind == "model" and not path.is_file() and split_form(name)[1]:
            return path.with_name(f"{split_form(name)[0]}.yaml")
        return path

    def names(self, kind: str) -> list[str]:
        """Return the names of all files of a kind, sorted."""
        return sorted(path.stem for path in (self.path / KINDS[kind]).glob("*.yaml"))

    def find(self, kind: str, name: str, wanted_by: "Path | str" = "") -> Path:
        """Return the existing file of this kind and name.

        Raises:
            ConfigError: there is none; the message names the nearest.
        """
        path = self.path / KINDS[kind]
        if NAME.fullmatch(name):
            path = self.file(kind, name)
        if not path.is_file():
            prefix = f"{wanted_by}: " if wanted_by else ""
            raise ConfigError(
                f"{prefix}unknown {kind} {show(name)}{nearest(name, self.names(kind))} (looked for {path})"
            )
        return path

    def load(self, kind: str, name: str, wanted_by: "Path | str" = "") -> dict:
        """Return a checked document of a kind, its defaults filled in.

        Args:
            kind: ``model``, ``task``, ``method`` or ``suite``.
            name: its file name without the ending.
            wanted_by: the file that names it, for the message.

        Raises:
            ConfigError: there is none of this name, or it does not follow its schema.
        """
        path = self.find(kind, name, wanted_by)
        document = load_yaml(path)
        check(document, kind, self.schema_dir, path)
        check_meaning(kind, document, path)
        if kind == "model" and path.stem != name and document["name"] == path.stem:
            document = as_quantised(document, split_form(name)[1], path)
        identity = document["method" if kind == "method" else "name"]
        if identity != name:
            raise ConfigError(f"{path}: its name is '{identity}', expected '{name}' as the file is called; rename one")
        return fill_defaults(document, self.schema(kind))

    def load_suite(self, path: "Path | str") -> dict:
        """Return a checked suite from a file.

        Raises:
            ConfigError: the file is missing or does not follow the schema.
        """
        return self.check_suite(load_yaml(path), path)

    def check_suite(self, document: Mapping[str, Any], source: "Path | str" = "suite") -> dict:
        """Return a checked copy of a suite, its defaults filled in.

        Raises:
            ConfigError: the suite does not follow the schema.
        """
        plain = plain_copy(document, str(source))  # Snakemake hands over its own kind of dictionary
        check(plain, "suite", self.schema_dir, source)
        filled = fill_defaults(plain, self.schema("suite"))
        for regime in filled["regimes"].values():
            if "tune" in regime:
                regime["tune"] = fill_defaults(regime["tune"], self.schema("suite")["$defs"]["tune"])
        return filled
