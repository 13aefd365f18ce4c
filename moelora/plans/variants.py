"""Which variants a suite compares: those it names, those that enrolled themselves, and the controls of mixtures."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moelora.config import ConfigDir
from moelora.errors import ConfigError, nearest
from moelora.methods import get_method, method_names
from moelora.plans.controls import equal_lora_of, make_controls, wanted_controls
from moelora.plans.placements import place_variants
from moelora.plans.sweeps import sweep_variants


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method with settings.

    ``match`` is the mixture whose parameters a LoRA control is to come near, ``allocation`` says how experts
    per module are found where the method wants that, and ``placement`` from which entry of ``placements`` it comes:
    ``variant``, ``strategy`` and ``budget``. A control says in ``control`` whose it is (``of``) and of which ``kind``,
    and a variant made by a sweep in ``sweep`` from which ``variant`` and by which ``levels``.
    """

    name: str
    method: str
    version: int
    settings: Mapping[str, Any]
    abilities: Any
    match: "Variant | None" = None
    allocation: Mapping[str, Any] | None = None
    placement: Mapping[str, "str | None"] | None = None
    control: Mapping[str, str] | None = None
    sweep: Mapping[str, Any] | None = None

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
            if variant in variants or equal_lora_of(variant):
                other = origin.get(variant, "the LoRA controls of mixtures")
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
    """Return the variants of a suite in table order: named, enrolled, then each mixture's controls after it.

    A variant with ``sweeps`` or ``placements`` is replaced by what these make of it.

    Raises:
        ConfigError: the suite names a variant that no method file defines, a sweep or control cannot be meant, or an
            allocation cannot.
    """
    known, documents = load_variants(config_dir)

    def find(name: str, key: str) -> Variant:
        if name not in known:
            raise ConfigError(f"{source}: unknown method or variant '{name}' in '{key}'{nearest(name, set(known))}")
        return known[name]

    chosen = {name: find(name, "variants") for name in suite["variants"]}
    wanted = wanted_controls(suite)
    matches = any("equal_trainable" in kinds for kinds in wanted.values())
    for document in documents:
        if suite["name"] in document["enrol"]:
            for name in document["default_variants"]:
                if name not in chosen:
                    chosen[name] = known[name]
                    if matches and known[name].abilities.mixture:  # where mixtures have controls, all have
                        wanted.setdefault(name, set()).add("equal_trainable")
    swept = sweep_variants(suite, chosen, known, source)
    placed = place_variants(suite, swept, config_dir.schema("suite"), source)
    children = [child for found in placed.values() for child in found]
    there = {name for child in children for name in lineage(child)} | set(placed)
    for key in ("match", "controls"):
        for name in suite[key]:
            if name not in there and find(name, key):
                raise ConfigError(f"{source}: '{key}' names '{name}', which is not among 'variants'; add it there")
    ordered: dict[str, Variant] = {}
    for name, found in placed.items():
        for variant in found:
            kinds = {kind for own in {name, *lineage(variant)} for kind in wanted.get(own, ())}
            for one in (variant, *make_controls(variant, kinds, source)):
                if one.name in ordered or (one.control and one.name in (known.keys() | swept.keys())):
                    raise ConfigError(
                        f"{source}: a control of '{variant.name}' is called '{one.name}', a name that is taken; rename "
                        "the other variant"
                    )
                ordered[one.name] = one
    return list(ordered.values())


def lineage(variant: Variant) -> list[str]:
    """Return the names under which a suite may speak of a variant, the most general first.

    These are the variant that it was swept from, the mixture that it is a changed form of, and its own.
    """
    names = [variant.sweep["variant"]] if variant.sweep else []
    if variant.control and variant.match is None:
        names.append(variant.control["of"])
    return [*names, variant.name]
