"""The ``adapter_config.json`` of the packages mixlora and moe-peft, and what our MixLoRA makes of it.

No torch here. Source of the format: ``mixlora`` 0.2.3 and ``moe-peft`` 2.0.2, which read and write the same keys.
"""

import math
from dataclasses import dataclass
from typing import Any

from moelora.errors import AdapterError, nearest

PEFT_TYPE = "MIXLORA"
ROUTER = "mixlora"
OTHER_ROUTERS = ("mixlora-dynamic", "mixlora-switch")
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
        r: Rank of every LoRA.
        alpha: Increments are scaled by alpha / r (a config with rsLoRA has been converted).
        dropout: On the input of the increments.
        experts: Experts of every feed-forward block.
        experts_per_token: k.
        targets: Names of the linear modules that have a LoRA, without their place.
        activation: Name of the blocks' activation, or None for the base model's own.
        base_model: Name or path of the base model, or None.
        balance_coefficient: Factor of the balance loss; 0 when it is switched off.
        router_std: Standard deviation of the router's first weights.
    """

    r: int
    alpha: float
    dropout: float
    experts: int
    experts_per_token: int
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
    _check_numbers(document)
    _check_router(document)
    _check_expert_settings(document)
    _refuse(document)
    rank, alpha = document["r"], document["lora_alpha"]
    balance_is_on = document.get("router_loss", True)
    return ForeignSettings(
        r=rank,
        alpha=alpha * math.sqrt(rank) if document.get("use_rslora") else alpha,
        dropout=0.0 if document["lora_dropout"] <= SMALLEST_DROPOUT else document["lora_dropout"],
        experts=document["num_experts"],
        experts_per_token=document.get("top_k", 2),
        targets=_targets(document["target_modules"]),
        activation=document.get("act_fn"),
        base_model=document.get("base_model_name_or_path"),
        balance_coefficient=document.get("router_aux_loss_coef", 0.001) if balance_is_on else 0.0,
        router_std=document.get("router_init_range", 0.02),
    )


def _check_numbers(document: dict) -> None:
    for key, least in (("r", 1), ("num_experts", 2), ("top_k", 1)):
        value = document.get(key, 2)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise AdapterError(f"{key} is {value!r}; expected an integer of at least {least}")
    for key in ("lora_alpha", "lora_dropout"):
        value = document[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise AdapterError(f"{key} is {value!r}; expected a number from 0")


def _check_router(document: dict) -> None:
    found = document["routing_strategy"]
    if found in OTHER_ROUTERS:
        raise AdapterError(
            f"routing_strategy is {found!r}; only {ROUTER!r} (softmax, top k, renormalised) can be read. The adapter's "
            "weights would load, but its tokens would be routed in another way"
        )
    if found != ROUTER:
        raise AdapterError(f"routing_strategy is {found!r}{nearest(str(found), (ROUTER, *OTHER_ROUTERS))}")


def _check_expert_settings(document: dict) -> None:
    """Refuse experts whose rank, alpha or dropout differ from the attention's.

    The one place to change once the tuner's config has settings for experts apart.
    """
    own = document.get("expert_lora") or {}
    differing = {
        key: (own[key], document.get(key))
        for key in ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora")
        if key in own and own[key] != document.get(key, False)
    }
    if differing:
        raise AdapterError(
            f"expert_lora differs from the attention's settings: {differing} as (expert, attention); expected the "
            "same for both. Train the adapter with one rank, alpha and dropout, or split it by hand"
        )


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
            "input; ours do not. Set it to 0 in adapter_config.json to load the adapter without"
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
    if not isinstance(found, list):
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
        AdapterError: alpha is neither an integer nor one times sqrt(r), which is all the packages accept.
    """
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
        "routing_strategy": ROUTER,
        "num_experts": settings.experts,
        "top_k": settings.experts_per_token,
        "act_fn": settings.activation,
        "router_aux_loss_coef": float(settings.balance_coefficient),
        "router_init_range": float(settings.router_std),
    }
