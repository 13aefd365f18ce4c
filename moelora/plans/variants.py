"""Which variants a suite compares: those it names, those that enrolled themselves, and the matched LoRA controls."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moelora.config import ConfigDir
from moelora.errors import ConfigError, nearest
from moelora.methods import get_method, method_names
from moelora.plans.placements import place_variants

MATCH_PREFIX = "lora-match-"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method with settings.

    ``match`` is the mixture whose trainable parameters a LoRA control is to come near, ``allocation`` says how experts
    per module are found where the method wants that, and ``placement`` from which entry of ``placements`` it comes:
    ``variant``, ``strategy`` and ``budget``.
    """

    name: str
    method: str
    version: int
    settings: Mapping[str, Any]
    abilities: Any
    match: "Variant | None" = None
    allocation: Mapping[str, Any] | None = None
    placement: Mapping[str, "str | None"] | None = None

    @property
    def allocated(self) -> bool:
        """Return whether experts per module must be known before training."""
        return self.abilities.needs_allocation


def is_untrained(variant: Variant, model: Mapping[str, Any]) -> bool:
    """Return whether nothing is trained: the method does not, or it is ``base`` on a model without a head."""
    return not variant.abilities.trains or (variant.method == "base" and model["architecture"] == "decoder")


def load_variants(config_dir: ConfigDir) -> tuple[dict[str, Variant], list[dict]]:
    """Return all variants that the method files define, by name, and the method documents in file order.

    Raises:
        ConfigError: a file names an unknown method or setting, or two files define one variant.
    """
    variants: dict[str, Variant] = {}
    origin: dict[str, str] = {}
    documents = []
    for name in config_dir.names("method"):
        path = config_dir.file("method", name)
        document = config_dir.load("method", name)
        if name not in method_names():
            raise ConfigError(f"{path}: unknown method '{name}'{nearest(name, method_names())}")
        method = get_method(name)
        for variant, settings in document["variants"].items():
            if variant in variants or variant.startswith(MATCH_PREFIX):
                other = origin.get(variant, "the matched LoRA controls")
                raise ConfigError(f"{path}: variant '{variant}' is already taken by {other}; choose another name")
            try:
                filled = method.all_settings(settings or {})
            except ConfigError as error:
                raise ConfigError(f"{path}: variant '{variant}': {error}") from error
            variants[variant] = Variant(variant, name, method.version, filled, method.abilities)
            origin[variant] = str(path)
        for variant in document["default_variants"]:
            if variant not in document["variants"]:
                raise ConfigError(
                    f"{path}: 'default_variants' names '{variant}'{nearest(variant, set(document['variants']))}"
                )
        documents.append(document)
    return variants, documents


def choose_variants(suite: Mapping[str, Any], config_dir: ConfigDir, source: str) -> list[Variant]:
    """Return the variants of a suite in table order: named, enrolled, then each mixture's matched LoRA after it.

    A variant with ``placements`` is replaced by its placements.

    Raises:
        ConfigError: the suite names a variant that no method file defines, or an allocation cannot be meant.
    """
    known, documents = load_variants(config_dir)

    def find(name: str, key: str) -> Variant:
        if name not in known:
            raise ConfigError(f"{source}: unknown method or variant '{name}' in '{key}'{nearest(name, set(known))}")
        return known[name]

    chosen = {name: find(name, "variants") for name in suite["variants"]}
    matched = set(suite["match"])
    for document in documents:
        if suite["name"] in document["enrol"]:
            for name in document["default_variants"]:
                if name not in chosen:
                    chosen[name] = known[name]
                    if matched and known[name].abilities.mixture:  # where mixtures have controls, all have
                        matched.add(name)
    placed = place_variants(suite, chosen, config_dir.schema("suite"), source)
    there = {*placed, *(child.name for children in placed.values() for child in children)}
    for name in suite["match"]:
        if name not in there and find(name, "match"):
            raise ConfigError(f"{source}: 'match' names '{name}', which is not among 'variants'; add it there")
    ordered = []
    for name, children in placed.items():
        for variant in children:
            ordered.append(variant)
            if matched & {name, variant.name}:
                ordered.append(matched_lora(variant))
    return ordered


def matched_lora(mixture: Variant) -> Variant:
    """Return plain LoRA on the mixture's modules with its scaling; the rank is solved in training.

    Raises:
        ConfigError: the mixture's settings do not say a rank and an alpha.
    """
    try:
        scaling = mixture.settings["alpha"] / mixture.settings["r"]
    except KeyError as error:
        raise ConfigError(
            f"variant '{mixture.name}' has no setting {error}, so no plain LoRA can be matched to it; "
            "take it out of 'match' or set 'mixture=False' in its method's abilities"
        ) from error
    lora = get_method("lora")
    settings = lora.all_settings(
        {
            "r": None,
            "alpha": mixture.settings["alpha"],
            "scaling": scaling,
            "modules": mixture.settings.get("modules", "all"),
            **({"dropout": mixture.settings["dropout"]} if "dropout" in mixture.settings else {}),
        }
    )
    return Variant(f"{MATCH_PREFIX}{mixture.name}", "lora", lora.version, settings, lora.abilities, mixture)
