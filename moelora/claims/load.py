"""Reading `workflow/config/claims/*.yaml`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from moelora.claims.claim import METRICS, Claim, Key, Recipe, kind_of
from moelora.claims.shapes import SIZES
from moelora.config import ConfigDir
from moelora.errors import ConfigError, nearest, show
from moelora.methods import get_method


def load_documents(config: ConfigDir) -> dict[str, dict[str, Any]]:
    """Return the checked claim files by name, sorted.

    Raises:
        ConfigError: A file does not follow its schema; the message names it and the key.
    """
    return {name: config.load("claim", name) for name in config.names("claim")}


def load_claims(documents: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """Return all claims in the order of their files.

    Raises:
        ConfigError: Two claims have the same place, a value is no number, or a note is about nothing.
    """
    found: list[Claim] = []
    for name, document in documents.items():
        _check_names(name, document)
        mine = [c for table in document["tables"] for c in _of_table(name, document, table)]
        for note in document.get("notes") or []:
            if not any(c.matches(note["about"]) for c in mine):
                raise ConfigError(
                    f"claims/{name}.yaml: no claim has {note['about']}, which a note is about; correct it"
                )
        found += mine
    seen: set[str] = set()
    for claim in found:
        if claim.id in seen:
            raise ConfigError(f"claims/{claim.file}.yaml: {claim.id} is there twice; make setup or method differ")
        seen.add(claim.id)
    return found


def _check_names(name: str, document: Mapping[str, Any]) -> None:
    """Refuse methods, their settings and shapes that there are none of here."""
    for place, methods in (("methods", document["methods"]), *_tables_methods(document)):
        for printed, known in methods.items():
            try:
                get_method(known["method"]).make_settings(known.get("settings") or {})
            except ConfigError as error:
                raise ConfigError(f"claims/{name}.yaml: '{place}.{printed}': {error}") from error
    for printed, model in document["models"].items():
        if (found := model.get("shapes")) is not None and found not in SIZES:
            raise ConfigError(
                f"claims/{name}.yaml: 'models.{printed}.shapes' is {show(found)}, of which none are known"
                f"{nearest(found, set(SIZES))}"
            )
    for printed, facts in document["tasks"].items():
        if facts.get("constant", 0) > facts.get("items", facts.get("constant", 0)):
            raise ConfigError(
                f"claims/{name}.yaml: 'tasks.{printed}.constant' is more than 'items'; correct one of them"
            )


def _tables_methods(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(f"tables.{place}.methods", table.get("methods") or {}) for place, table in enumerate(document["tables"])]


def _of_table(name: str, document: Mapping[str, Any], table: Mapping[str, Any]) -> list[Claim]:
    methods = document["methods"] if "methods" not in table else {**document["methods"], **table["methods"]}
    if table.get("methods") == {}:  # the table is of other settings than the file's, and does not say which
        methods = {}
    found = []
    for row in table["rows"]:
        model = document["models"].get(row["model"]) or {}
        known = methods.get(row["method"])
        metric = row.get("metric", table["metric"])
        for task, printed in row["values"].items():
            text, value, digits = _number(printed, table["digits"], f"claims/{name}.yaml: {table['table']}, {task}")
            facts = document["tasks"].get(task) or {}
            recipe = None
            if known:
                training = {**(document.get("training") or {}), **(facts.get("training") or {})}
                recipe = Recipe(known["method"], known.get("settings") or {}, training)
            found.append(
                Claim(
                    id="/".join(map(_slug, (name, *_place(document["title"], table, row), task, metric))),
                    file=name,
                    document=table.get("document", document["title"]),
                    table=table["table"],
                    setup=table["setup"],
                    kind=kind_of(metric, table["kind"]),
                    model=row["model"],
                    method=row["method"],
                    task=task,
                    metric=metric,
                    text=text,
                    value=value,
                    digits=digits,
                    source=row.get("source", table["source"]),
                    trainable_percent=row.get("trainable_percent"),
                    seeds=table.get("seeds"),
                    items=facts.get("items"),
                    constant=facts.get("constant"),
                    guess=facts.get("guess"),
                    key=_key(document, facts, metric, model.get("file", row["model"])),
                    recipe=recipe,
                    conditions=table.get("conditions") or {},
                    suite=document.get("suite"),
                    shapes=model.get("shapes"),
                    nominal=model.get("nominal"),
                    founding=bool(document.get("founding")),
                )
            )
    notes = document.get("notes") or []
    return [_with_notes(claim, notes) for claim in found]


def _with_notes(claim: Claim, notes: list[Mapping[str, Any]]) -> Claim:
    about = tuple(" ".join(note["text"].split()) for note in notes if claim.matches(note["about"]))
    return dataclasses.replace(claim, notes=about)


def _key(document: Mapping[str, Any], facts: Mapping[str, Any], metric: str, model: str) -> Key:
    return Key(
        task=facts.get("task"),
        version=facts.get("version"),
        split=facts.get("split", document["split"]),
        metric=METRICS[metric][0] if metric in METRICS else None,
        protocol=document["protocol"],
        model=model,
        start=facts.get("start", document.get("start", "base")),
        selection=document["selection"],
    )


def _place(title: str, table: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, ...]:
    document = table.get("document", title)
    head = () if document == title else (document,)
    return (*head, table["table"], table["setup"], row["model"], row["method"])


def _number(printed: Any, digits: int, where: str) -> tuple[str, float, int]:
    """Return a number as printed, its value and its digits; a quoted one says its digits itself."""
    if not isinstance(printed, str):
        return f"{printed:.{digits}f}", float(printed), digits
    try:
        value = float(printed)
    except ValueError as error:
        raise ConfigError(f"{where}: found {printed!r}, expected a number") from error
    return printed, value, len(printed.partition(".")[2])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "-"
