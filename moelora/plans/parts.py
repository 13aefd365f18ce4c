"""Which part of a suite's grid a filter or a regime takes, and the switches of training that only some plans hold."""

from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.plans.variants import Variant, lineage
from moelora.tasks.protocols import LM_EVAL

SWITCHES = {"loss_on": "answers", "end_of_text": False, "checkpointing": False}
"""Training settings that a plan holds only where they differ from this."""


def without_defaults(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return training settings without the switches that are off: they change no plan written before there were any."""
    return {key: value for key, value in training.items() if key not in SWITCHES or value != SWITCHES[key]}


def check_loss(training: Mapping[str, Any], regime: str, tasks: list[dict], protocol: str) -> None:
    """Refuse switches of a decoder's text and loss for tasks with a head, and another prompt where a protocol has its.

    Raises:
        ConfigError: as said.
    """
    asked = [key for key in ("loss_on", "end_of_text", "prompt") if key in training]
    labelled = [task["name"] for task in tasks if task["kind"] != "multiple_choice"]
    if asked and labelled:
        raise ConfigError(
            f"'{asked[0]}' in the training of regime '{regime}' is about the tokens of a decoder, but task "
            f"'{labelled[0]}' is scored with a head; give it to regimes of decoders only"
        )
    if "prompt" in training and protocol != LM_EVAL:
        raise ConfigError(
            f"'prompt' in the training of regime '{regime}' stands around lm-eval's prompt, but the regime is scored "
            f"under protocol '{protocol}', whose own training text it would change; leave it out"
        )


def check_quantised(variant: Variant, model: Mapping[str, Any], source: str) -> None:
    """Refuse a variant that changes the base model's own weights on a model whose weights are quantised.

    Raises:
        ConfigError: as said.
    """
    if not model.get("quantisation"):
        return
    coded = variant.allocation is not None and variant.allocation["score"] == "as_coded"
    if coded or not variant.abilities.quantised_base:
        what = "is allocated from sensitivities 'as_coded', which update" if coded else "trains"
        raise ConfigError(
            f"{source}: variant '{variant.name}' {what} the base model's own weights, and those of '{model['name']}' "
            f"are quantised ({model['quantisation']}); take it out of 'variants', or put such models into a suite of "
            "their own"
        )


def wanted_cells(suite: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells with the models that the filter ``models`` leaves; no model's numbers depend on another's."""
    wanted = suite["models"]
    cells = [{**cell, "models": [m for m in cell["models"] if wanted is None or m in wanted]} for cell in suite["grid"]]
    return [cell for cell in cells if cell["models"]]


def check_shares(suite: Mapping[str, Any], variants: list[Variant], source: str) -> None:
    """Refuse a regime for variants that are not there, and a variant that no regime has.

    Raises:
        ConfigError: as said.
    """
    known = {name for variant in variants for name in families(variant)}
    for regime, rules in suite["regimes"].items():
        for name in rules.get("variants", ()):
            if name not in known:
                raise ConfigError(
                    f"{source}: unknown variant '{name}' in 'regimes.{regime}.variants'{nearest(name, known)}"
                )
    for variant in variants:
        if not any(has_variant(rules, variant) for rules in suite["regimes"].values()):
            raise ConfigError(f"{source}: no regime has variant '{variant.name}'; add it to the 'variants' of one")


def families(variant: Variant) -> set[str]:
    """Return the names by which a regime may have a variant: of its making, of its mixture, of what was placed."""
    found = set()
    for one in (variant, variant.match):
        if one is not None:
            found |= set(lineage(one)) | ({one.placement["variant"]} if one.placement else set())
    return found


def has_variant(rules: Mapping[str, Any], variant: Variant) -> bool:
    """Return whether a regime runs a variant: those it names, with controls and placements, or all."""
    return "variants" not in rules or bool(families(variant) & set(rules["variants"]))
