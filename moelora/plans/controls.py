"""Controls beside a mixture: plain LoRA of equal size, and the mixture itself without what is to explain its gain."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moelora.errors import ConfigError
from moelora.methods import AttachContext, Linear, ModelShapes, get_method

LORA_PREFIXES = {"equal_trainable": "lora-match-", "equal_active": "lora-active-"}
"""Plain LoRA on the mixture's modules, by what its count is to come near; the rank is solved in training."""

SUFFIXES = {"one_expert": "-one-expert", "frozen_router": "-frozen-router", "no_balance": "-no-balance"}
"""The mixture with one setting changed."""

CONTROLS = (*LORA_PREFIXES, *SUFFIXES)


def control_name(kind: str, mixture: str) -> str:
    """Return the name of a mixture's control."""
    return f"{LORA_PREFIXES[kind]}{mixture}" if kind in LORA_PREFIXES else f"{mixture}{SUFFIXES[kind]}"


def equal_lora_of(name: str) -> "tuple[str, str] | None":
    """Return the kind of a LoRA control and its mixture from its name; None for another variant."""
    for kind, prefix in LORA_PREFIXES.items():
        if name.startswith(prefix):
            return kind, name.removeprefix(prefix)
    return None


def wanted_controls(suite: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the kinds of controls by variant that a suite asks for, in ``match`` or in ``controls``."""
    wanted: dict[str, set[str]] = {name: {"equal_trainable"} for name in suite["match"]}
    for name, kinds in suite["controls"].items():
        wanted.setdefault(name, set()).update(kinds)
    return wanted


def make_controls(mixture: Any, kinds: Iterable[str], source: str) -> list[Any]:
    """Return a mixture's controls in the order of the tables.

    Args:
        mixture: the variant.
        kinds: some of `CONTROLS`.
        source: what messages call the suite.

    Raises:
        ConfigError: the mixture cannot have one of them, or would be that control itself.
    """
    kinds = set(kinds)
    if "equal_active" in kinds and _uses_all(mixture):
        raise ConfigError(
            f"{source}: 'controls.{mixture.name}' asks for 'equal_active', but any token may use all that "
            f"'{mixture.name}' trains, so it would be the LoRA of 'equal_trainable'; ask for that"
        )
    return [
        equal_lora(mixture, kind) if kind in LORA_PREFIXES else _changed(mixture, kind, source)
        for kind in CONTROLS
        if kind in kinds
    ]


def equal_lora(mixture: Any, kind: str) -> Any:
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
    return dataclasses.replace(
        mixture,
        name=control_name(kind, mixture.name),
        method="lora",
        version=lora.version,
        settings=settings,
        abilities=lora.abilities,
        match=mixture,
        control={"of": mixture.name, "kind": kind},
        allocation=None,
        placement=None,
        sweep=None,
    )


def _uses_all(variant: Any) -> bool:
    """Return whether a token may use all that a variant trains, on a model made up for the purpose."""
    method = get_method(variant.method)
    widths = {"query": ("attention", 8, 8), "up": ("feed_forward", 8, 16), "down": ("feed_forward", 16, 8)}
    linears = tuple(
        Linear(f"{layer}.{kind}", kind, part, layer, inputs, outputs)
        for layer in range(24)  # experts may differ by layer
        for kind, (part, inputs, outputs) in widths.items()
    )
    shapes = ModelShapes(linears, "two_matrix", 8)
    settings = method.make_settings(variant.settings)
    context = AttachContext(shapes, allocation={linear.name: 64 for linear in linears})
    try:
        counts = method.parameters(shapes, settings, context)
    except ConfigError:  # its modules are named as in one model, so training alone can tell
        return False
    return counts.active == counts.trainable


def _changed(mixture: Any, kind: str, source: str) -> Any:
    method = get_method(mixture.method)
    at = f"{source}: 'controls.{mixture.name}' asks for '{kind}', but"
    if not mixture.abilities.mixture:
        raise ConfigError(
            f"{at} method '{mixture.method}' is no mixture, and controls stand beside mixtures; remove it"
        )
    changes = {
        "one_expert": method.one_expert,
        "frozen_router": {"train_router": False} if "train_router" in method.setting_names else None,
        "no_balance": {"balance_coefficient": 0.0} if mixture.abilities.balance_loss else None,
    }[kind]
    lacks = {
        "one_expert": "has no setting for the number of its experts",
        "frozen_router": "has no router that could be frozen",
        "no_balance": "has no balance loss",
    }[kind]
    if changes is None:
        raise ConfigError(f"{at} method '{mixture.method}' {lacks}; remove it")
    reason = _same_already(mixture.settings, kind, method.one_expert)
    if reason:
        raise ConfigError(f"{at} '{mixture.name}' {reason}, so both would be the same run; remove it")
    settings = method.all_settings({**mixture.settings, **changes})
    name = control_name(kind, mixture.name)
    return dataclasses.replace(
        mixture, name=name, settings=settings, control={"of": mixture.name, "kind": kind}, placement=None
    )


def _same_already(settings: Mapping[str, Any], kind: str, one_expert: "Mapping[str, Any] | None") -> str:
    """Return why a mixture with these settings is its own control, or nothing."""
    if one_expert is not None and one_expert.items() <= settings.items():
        return "has one expert and no router already"
    if kind == "frozen_router" and settings.get("train_router") is False:
        return "has a frozen router already"
    if kind == "no_balance" and (settings.get("balance_loss") == "none" or not settings["balance_coefficient"]):
        return "has its balance loss off already"
    return ""
