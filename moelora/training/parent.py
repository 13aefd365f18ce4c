"""The adapter that a run starts from: what it says of itself, and whether it belongs to the run's base and method.

Every saved adapter carries a small identity file. An adapter from elsewhere has none; then its tensors' names and
shapes are all that can be checked.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from moelora.errors import AdapterError, RecordError
from moelora.files import read_object, sha256_file, write_sealed_json
from moelora.strangers import inspect, refuse_other_base, refuse_other_meaning
from moelora.sums import folder_sums, refuse_changed
from moelora.training.identity import base_digest

IDENTITY_FILE = "identity.json"
LABELS = ("suite", "model", "task", "variant", "method", "seed")


def write_identity(folder: Path, attached: Any, model: dict[str, Any], base: str, labels: dict[str, Any]) -> None:
    """Write beside an adapter what it was trained on, and the sums of its tensors' files.

    Args:
        folder: the adapter's folder.
        attached: the trained model.
        model: the model file's content.
        base: hub commit, or digest of a built-in model; empty where neither is known.
        labels: suite, task, variant and seed.
    """
    write_sealed_json(
        folder / IDENTITY_FILE,
        {
            "schema": 1,
            **labels,
            "model": model["name"],
            "source": model["source"],
            **({"quantisation": model["quantisation"]} if model.get("quantisation") else {}),
            "base": base,
            "method": attached.method.name,
            "method_version": attached.method.version,
            "settings": dataclasses.asdict(attached.settings),
            "files": folder_sums(folder, "*.safetensors"),
        },
    )


def read_parent(folder: Path, plan: dict[str, Any], further: bool) -> dict[str, Any]:
    """Return the plan's entry about the adapter in a folder; no path is part of it.

    Args:
        folder: an adapter's folder, or that of the run that left it.
        plan: the plan of the run that starts from it.
        further: whether the run trains it further or only scores it.

    Raises:
        AdapterError: there is no adapter, or it belongs to another base model or method; names both.
    """
    folder = adapter_folder(folder)
    config = inspect(folder)
    identity = read_identity(folder)
    if identity:
        ours = {"source": _origin(plan["model"]), **{key: plan[key] for key in ("method", "method_version")}}
        refuse_difference(folder, {**identity, "source": _origin(identity)}, ours)
    else:
        refuse_other_base(config, plan["model"], folder)
    return {
        "adapter_sha256": sha256_file(adapter_path(folder)),
        "status": "finished",
        "continue": further,
        **{label: identity.get(label) for label in LABELS},
    }


def adapter_folder(folder: Path) -> Path:
    """Return the adapter's folder where that of its run is given."""
    return folder / "adapter" if (folder / "adapter").is_dir() else folder


def adapter_path(folder: Path) -> Path:
    """Return the file with an adapter's tensors.

    Raises:
        AdapterError: the folder has none.
    """
    for name in ("adapter_model.safetensors", "trainable.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise AdapterError(
        f"{folder} holds no adapter_model.safetensors; name the folder of a saved adapter, or of the run that left it"
    )


def read_identity(folder: Path) -> dict[str, Any]:
    """Return what an adapter says of itself; nothing for one from elsewhere.

    Raises:
        AdapterError: the identity was changed since it was written, or one of the files that it names.
    """
    if not (folder / IDENTITY_FILE).is_file():
        return {}
    kinds = {"source": dict, "method": str, "settings": dict}
    try:
        identity = read_object(folder / IDENTITY_FILE, "identity", kinds)
        refuse_changed(folder, identity.get("files", {}), "fetch the adapter anew, or train its run again")
    except RecordError as error:
        raise AdapterError(f"adapter {folder} cannot be used: {error}") from error
    return identity


def load_parent(attached: Any, run: Any) -> None:
    """Load the adapter that the run starts from into the freshly attached model.

    Raises:
        AdapterError: it was changed since the plan was resolved, or belongs to another base, method or setting.
    """
    from moelora.training.attach import load_adapter

    folder, expected = run.adapter_dir, run.plan["parent"]["adapter_sha256"]
    config = inspect(folder)
    path = adapter_path(folder)
    if (found := sha256_file(path)) != expected:
        raise AdapterError(
            f"adapter {path} was changed since the run that left it ended: found sha256 {found[:12]}…, expected "
            f"{expected[:12]}…; train that run again"
        )
    if identity := read_identity(folder):
        base = attached.base.identity or base_digest(run.plan, run.base_dir)
        # an adapter from before a setting was there has its default
        settings = attached.method.later_defaults | (identity.get("settings") or {})
        theirs = {"base": identity.get("base"), **{f"setting {key}": settings[key] for key in sorted(settings)}}
        plain = json.loads(json.dumps(dataclasses.asdict(attached.settings)))  # tuples as the file has them
        ours = {f"setting {key}": value for key, value in plain.items()}
        if base and theirs["base"]:  # a local folder has no commit to compare
            ours["base"] = base
        refuse_difference(folder, theirs, ours)
    elif attached.method.abilities.adapter:
        refuse_other_meaning(config, attached.model.active_peft_config.to_dict(), folder)
    load_adapter(attached, folder)


def refuse_difference(folder: Path, identity: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse an adapter that says something else of itself than the run.

    Raises:
        AdapterError: names both identities.
    """
    theirs = {key: identity.get(key) for key in ours}
    if theirs != ours:
        wrong = [key for key in ours if theirs[key] != ours[key]]
        raise AdapterError(
            f"adapter {folder} belongs to another {' and '.join(wrong)}: it is of {_say(theirs, wrong)}, this run is "
            f"of {_say(ours, wrong)}; give an adapter of the same base model, method and settings"
        )


def _origin(document: dict[str, Any]) -> dict[str, Any]:
    """Return where a model came from, and its quantised form; which commit of it is compared by commit."""
    origin = {key: value for key, value in document.get("source", {}).items() if key != "revision"}
    form = document.get("quantisation")
    return {**origin, "quantisation": form} if form else origin


def _say(identity: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {identity[key]}" for key in keys)
