"""What a suite measures of forgetting, as the plans of its runs say it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moelora.config import fill_defaults
from moelora.errors import ConfigError

KEY = "forgetting"


def check_forgetting(suite: Mapping[str, Any], models: Iterable[Mapping[str, Any]], source: str) -> None:
    """Refuse a text that is not said in one way, and the built-in text where a decoder comes from the hub.

    A part that no model has use for, as probes without an encoder, measures nothing.

    Raises:
        ConfigError: as said.
    """
    text = (suite[KEY] or {}).get("text")
    if text is None:
        return
    if ("builtin" in text) == ("hub" in text):
        raise ConfigError(
            f"{source}: '{KEY}.text' must name either builtin: corpus or the hub id of a data set, found {sorted(text)}"
        )
    if "hub" in text:
        return
    if foreign := sorted({"config", "revision", "split", "field"} & set(text)):
        raise ConfigError(f"{source}: '{KEY}.text.{foreign[0]}' is for data sets of the hub; take it out")
    for model in models:
        if model["architecture"] == "decoder" and "builtin" not in model["source"]:
            raise ConfigError(
                f"{source}: '{KEY}.text' is held out of the corpus of the built-in models, but '{model['name']}' is of "
                "the hub; name a data set of the hub instead, as in {hub: Salesforce/wikitext, config: "
                "wikitext-2-raw-v1}"
            )


def plan_forgetting(
    suite: Mapping[str, Any],
    model: Mapping[str, Any],
    own: Iterable[str],
    load: Callable[[str], dict[str, Any]],
    schema: Mapping[str, Any],
    source: str,
) -> "dict[str, Any] | None":
    """Return what is measured on a run; None where nothing is.

    Args:
        suite: a checked suite.
        model: the run's model.
        own: the tasks that the run is trained on; no probe is of one of them.
        load: returns a task's document.
        schema: the schema of suites.
        source: what messages call the suite.

    Raises:
        ConfigError: a probe's task is unknown, or has no labels to probe for.
    """
    asked = suite[KEY] or {}
    if model["architecture"] == "decoder":
        text = asked.get("text")
        return None if text is None else {"text": _filled(text, schema)}
    probes = asked.get("probes")
    if probes is None:
        return None
    names = met_tasks(suite, model["name"]) if probes["tasks"] == "others" else probes["tasks"]
    tasks = [load(name) for name in names if name not in set(own)]
    for task in tasks:
        if task["kind"] == "multiple_choice":
            raise ConfigError(
                f"{source}: '{KEY}.probes.tasks' names '{task['name']}', which is multiple choice; a probe tells "
                "labels or grades: name classification or graded tasks"
            )
    return {"probes": {**probes, "tasks": tasks}} if tasks else None


def met_tasks(suite: Mapping[str, Any], model: str) -> list[str]:
    """Return the tasks that a model meets in the grid, alone, in a mixture or at the end of a transfer, sorted."""
    found: set[str] = set()
    for cell in suite["grid"]:
        if model in cell["models"]:
            found.update(cell.get("tasks", []))
            found.update(name for members in cell.get("mixtures", {}).values() for name in members)
            found.update(entry["to"] for entry in cell.get("transfer", []))
    return sorted(found)


def _filled(text: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    filled = fill_defaults(text, schema["$defs"]["text"])
    return {key: filled[key] for key in ("builtin", "limit")} if "builtin" in text else filled
