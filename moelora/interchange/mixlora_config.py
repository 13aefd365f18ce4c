"""The ``adapter_config.json`` of the packages mixlora and moe-peft, and what our MixLoRA makes of it.

No torch here. Source of the format: ``mixlora`` 0.2.3 and ``moe-peft`` 2.0.2, which read and write the same keys.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moelora.errors import AdapterError, nearest, show
from moelora.strangers import refuse_code

PEFT_TYPE = "MIXLORA"
# Their names for what ours call a router. Package mixlora knows the first only.
ROUTERS = {"mixlora": "top_k", "mixlora-dynamic": "top_p"}
SWITCH = "mixlora-switch"
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
REQUIRED = ("peft_type", "routing_strategy", "r", "lora_alpha", "lora_dropout", "num_experts", "target_modules")
# moe-peft marks the answers of multiple-choice tasks so; the model is a causal one all the same.
CAUSAL_TASKS = ("CAUSAL_LM", "QUESTION_ANS")
# The packages refuse a dropout of 0. With this one no element is ever dropped and 1 / (1 - p) is exactly 1.
SMALLEST_DROPOUT = 1e-30


@dataclass(frozen=True)
class ForeignSettings:
    """What a foreign config says.

    Attributes:
        r: Rank of the attention's LoRA.
        alpha: Its increments are scaled by alpha / r (a config with rsLoRA has been converted).
        dropout: On the input of its increments.
        expert_r: Rank of the experts.
        expert_alpha: Their alpha.
        expert_dropout: Their dropout.
        experts: Experts of every feed-forward block.
        router: "top_k" or "top_p".
        experts_per_token: k of "top_k".
        top_p: p of "top_p".
        targets: Names of the linear modules that have a LoRA, without their place.
        activation: Name of the blocks' activation, or None for the base model's own.
        base_model: Name or path of the base model, or None.
        balance_coefficient: Factor of the balance loss; 0 when it is switched off.
        router_std: Standard deviation of the router's first weights.
    """

    r: int
    alpha: float
    dropout: float
    expert_r: int
    expert_alpha: float
    expert_dropout: float
    experts: int
    router: str
    experts_per_token: int
    top_p: float
    targets: tuple[str, ...]
    activation: str | None
    base_model: str | None
    balance_coefficient: float
    router_std: float


def understand(document: Any) -> ForeignSettings:
    """Return what a foreign config says, as far as our MixLoRA can be it exactly.

    Raises:
        AdapterError: Keys are missing, it is no MixLoRA adapter, or it asks for something our tuner does not do.
    """
    if not isinstance(document, dict):
        raise AdapterError(f"adapter_config.json holds a {type(document).__name__}; expected an object")
    if document.get("peft_type") != PEFT_TYPE:
        raise AdapterError(
            f"peft_type is {document.get('peft_type')!r}; expected {PEFT_TYPE!r}. PEFT's own adapters and ours are "
            "loaded with PeftModel.from_pretrained"
        )
    missing = [key for key in REQUIRED if key not in document]
    if missing:
        raise AdapterError(f"adapter_config.json lacks {missing}; expected {list(REQUIRED)}")
    _check_kinds(document, "adapter_config.json")
    _check_kinds(document.get("expert_lora") or {}, "adapter_config.json, expert_lora")
    refuse_code(document, Path("adapter_config.json"))
    # Experts inherit what their own part of the config does not say.
    expert = {**document, **(document.get("expert_lora") or {})}
    for one in (document, expert):
        _check_numbers(one)
        _refuse(one)
    rank, alpha, dropout = _lora(document)
    expert_rank, expert_alpha, expert_dropout = _lora(expert)
    balance_is_on = document.get("router_loss", True)
    return ForeignSettings(
        r=rank,
        alpha=alpha,
        dropout=dropout,
        expert_r=expert_rank,
        expert_alpha=expert_alpha,
        expert_dropout=expert_dropout,
        experts=document["num_experts"],
        router=_router(document),
        experts_per_token=document.get("top_k", 2),
        top_p=document.get("top_p", 0.8),
        targets=_targets(document["target_modules"]),
        activation=document.get("act_fn"),
        base_model=document.get("base_model_name_or_path"),
        balance_coefficient=document.get("router_aux_loss_coef", 0.001) if balance_is_on else 0.0,
        router_std=document.get("router_init_range", 0.02),
    )


_NUMBER, _NAMES = (int, float), (str, type(None))
KINDS = {
    "routing_strategy": (str,),
    "task_type": (str,),
    "bias": (str,),
    "act_fn": _NAMES,
    "base_model_name_or_path": _NAMES,
    "top_p": _NUMBER,
    "router_aux_loss_coef": _NUMBER,
    "router_init_range": _NUMBER,
    "temperature": (*_NUMBER, type(None)),
    "jitter_noise": (*_NUMBER, type(None)),
    "use_rslora": (bool, type(None)),
    "use_dora": (bool, type(None)),
    "router_loss": (bool, type(None)),
    "expert_lora": (dict, type(None)),
}
"""Kinds of the values that are looked at in other ways than by their size."""


def _check_kinds(document: Any, where: str) -> None:
    """Refuse a config whose values are of kinds that nothing below expects."""
    if not isinstance(document, dict):
        raise AdapterError(f"{where} holds a {type(document).__name__}; expected an object")
    for key, kinds in KINDS.items():
        value = document.get(key)
        flag = isinstance(value, bool) and bool not in kinds  # to Python true is a number
        if key in document and (flag or not isinstance(value, kinds)):
            words = [kind.__name__ for kind in kinds]
            raise AdapterError(f"{where}: {key} is {show(value)}; expected {' or '.join(words)}")


def _check_numbers(document: dict) -> None:
    for key, least in (("r", 1), ("num_experts", 2), ("top_k", 1)):
        value = document.get(key, 2)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise AdapterError(f"{key} is {value!r}; expected an integer of at least {least}")
    for key in ("lora_alpha", "lora_dropout"):
        value = document[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise AdapterError(f"{key} is {value!r}; expected a number from 0")


def _lora(settings: dict) -> tuple[int, float, float]:
    """Return rank, alpha and dropout as ours count them."""
    rank, alpha, dropout = settings["r"], settings["lora_alpha"], settings["lora_dropout"]
    if settings.get("use_rslora"):
        alpha = alpha * math.sqrt(rank)
    return rank, alpha, 0.0 if dropout <= SMALLEST_DROPOUT else dropout


def _router(document: dict) -> str:
    found = document["routing_strategy"]
    if found == SWITCH:
        raise AdapterError(
            f"routing_strategy is {SWITCH!r}; expected one of {list(ROUTERS)}. moe-peft returns a switch block's input "
            "unchanged in inference, so there is no model to rebuild"
        )
    if found not in ROUTERS:
        raise AdapterError(f"routing_strategy is {found!r}{nearest(str(found), (*ROUTERS, SWITCH))}")
    if ROUTERS[found] == "top_p" and document.get("temperature"):
        raise AdapterError(f"temperature is {document['temperature']}; expected 0: our top-p router has none")
    return ROUTERS[found]


def _refuse(document: dict) -> None:
    """Refuse what would change the function and has no place in our tuner."""
    if document.get("use_dora"):
        raise AdapterError(
            "use_dora is true; the format does not hold DoRA's magnitudes, so the trained model cannot be rebuilt "
            "from it; train the adapter again with use_dora false"
        )
    if document.get("jitter_noise"):
        raise AdapterError(
            f"jitter_noise is {document['jitter_noise']}; expected 0. The packages multiply noise into the block's "
            "input; ours only into the router's. Set it to 0 in adapter_config.json to load the adapter without"
        )
    if document.get("bias", "none") != "none":
        raise AdapterError(f"bias is {document['bias']!r}; expected 'none', the only form the packages write")
    task = document.get("task_type", CAUSAL_TASKS[0])
    if task not in CAUSAL_TASKS:
        raise AdapterError(
            f"task_type is {task!r}; expected one of {list(CAUSAL_TASKS)}. A classification head belongs to "
            "moe-peft's own model class, which transformers does not have"
        )


def _targets(found: Any) -> tuple[str, ...]:
    if isinstance(found, dict):
        found = [name for name, wanted in found.items() if wanted]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise AdapterError(f"target_modules is {found!r}; expected a list of names or an object of names to booleans")
    absent = sorted(set(FEED_FORWARD) - set(found))
    if absent:
        raise AdapterError(
            f"target_modules {sorted(found)} lack {absent}; our MixLoRA has experts on all of {list(FEED_FORWARD)} "
            "(Llama's names; blocks with fc1 and fc2 or a fused gate_up_proj cannot be read)"
        )
    return tuple(sorted(set(found)))


def express(settings: ForeignSettings) -> dict:
    """Return the foreign config of some settings.

    Raises:
        AdapterError: alpha is neither an integer nor one times sqrt(r), which is all the packages accept, or the
            experts have settings of their own.
    """
    _check_same_for_experts(settings)
    root = settings.alpha / math.sqrt(settings.r)
    if float(settings.alpha).is_integer():
        alpha, scaled_by_root = int(settings.alpha), False
    elif math.isclose(root, round(root), rel_tol=1e-12):
        alpha, scaled_by_root = round(root), True
    else:
        raise AdapterError(
            f"alpha is {settings.alpha}; the format holds integers only (or, with rsLoRA, an integer times sqrt(r)). "
            "Scale every B by alpha / n and write n instead"
        )
    strategy = next(theirs for theirs, ours in ROUTERS.items() if ours == settings.router)
    kept = {"top_k": settings.experts_per_token} if settings.router == "top_k" else {"top_p": float(settings.top_p)}
    return {
        "bias": "none",
        "peft_type": PEFT_TYPE,
        "task_type": CAUSAL_TASKS[0],
        "base_model_name_or_path": settings.base_model or "",
        "r": settings.r,
        "lora_alpha": alpha,
        "use_rslora": scaled_by_root,
        "lora_dropout": float(settings.dropout) or SMALLEST_DROPOUT,
        "target_modules": list(settings.targets),
        "routing_strategy": strategy,
        "num_experts": settings.experts,
        **kept,
        "act_fn": settings.activation,
        "router_aux_loss_coef": float(settings.balance_coefficient),
        "router_init_range": float(settings.router_std),
    }


def _check_same_for_experts(settings: ForeignSettings) -> None:
    """Refuse to write experts with settings of their own: moe-peft would obey them, package mixlora would not."""
    for name in ("r", "alpha", "dropout"):
        own, shared = getattr(settings, f"expert_{name}"), getattr(settings, name)
        if own != shared:
            raise AdapterError(
                f"expert_{name} is {own} but the attention has {shared}; package mixlora gives its experts the "
                "attention's settings whatever the file says, and would compute another function. Use the same for both"
            )
