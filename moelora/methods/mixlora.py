"""MixLoRA: E feed-forward experts around shared frozen weights, top-k routed per block; plain LoRA on attention.

y = Σ_k g_k h_k(x), arXiv 2404.15159; softmax over all experts in float32, top-k, renormalised.

Faithful to: TUDB-Labs/MixLoRA and MoE-PEFT: one router a block N(0, 0.02), kaiming-uniform A, zero B, one balance loss
    over the router logits of all layers, coefficient 1e-3 (the code's value and the paper's best), balanced value k.
Differs from: equation 7 read literally (no renormalising); the loss covers answers only, as for every method here.
"""

import dataclasses

from moelora.methods import _mixlora
from moelora.methods._choices import BALANCE_FORMS, FACTOR_INITS, TRAIN_ROUTER
from moelora.methods._common import check_choice
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, experts per token, rank and the balance coefficient.

    ``expert_r`` and ``expert_alpha`` are the experts' own where they differ from the attention LoRA's, which
    ``attention_lora`` can leave out.
    """

    experts: int = setting(8, origin="paper and MoE-PEFT's templates")
    experts_per_token: int = setting(2, origin="paper and MoE-PEFT's templates")
    r: int = setting(8, origin="ours, as for LoRA; the templates have 16")
    alpha: float = setting(16, origin="twice the rank, as in the templates")
    dropout: float = setting(0.0, origin="ours, as for LoRA; the templates have 0.05")
    expert_r: "int | None" = setting(None, origin="MoE-PEFT: experts inherit the rank")
    expert_alpha: "float | None" = setting(None, origin="MoE-PEFT: experts inherit α")
    jitter_noise: float = setting(0.0, origin="MoE-PEFT's default")
    balance_coefficient: float = setting(1e-3, origin="MoE-PEFT's default and the paper's best; its text says 1e-2")
    balance_loss: str = setting("switch_slots", origin="MoE-PEFT; others are ours, for ablation", later=True)
    init_router_std: float = setting(0.02, origin="MoE-PEFT's default", later=True)
    factor_init: str = setting("kaiming_uniform", origin="MoE-PEFT", later=True)
    attention_lora: bool = setting(True, origin="arXiv 2404.15159; without it is ours, for ablation", later=True)
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        _mixlora.check_settings(self)
        check_choice("balance_loss", self.balance_loss, BALANCE_FORMS)
        check_choice("factor_init", self.factor_init, FACTOR_INITS)
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"experts_per_token must lie between 1 and experts ({self.experts}), found {self.experts_per_token}"
            )


def attach(model, settings, context):
    """Wrap every feed-forward block and attach plain LoRA to the attention linears."""
    return _mixlora.attach(
        model,
        settings,
        context,
        attention=settings.attention_lora,
        experts_per_token=settings.experts_per_token,
        balance_loss=settings.balance_loss,
        init_router_std=settings.init_router_std,
        factor_init=settings.factor_init,
    )


def linears(shapes, settings, context):
    """Return the linears of the feed-forward blocks, and those of attention where it has a LoRA."""
    return shapes.select("all" if settings.attention_lora else "feed_forward")


def parameters(shapes, settings, context) -> Counts:
    """Return r·Σ_attention + E·r·Σ_feed-forward of (inputs + outputs) + L·E·D routers, plus the head."""
    return _mixlora.parameters(shapes, settings, settings.experts_per_token, attention=settings.attention_lora)


METHOD = Method(
    name="mixlora",
    title="MixLoRA",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="experts are chosen per token",
        balance_loss=True,
        routed=True,
        mixture=True,
    ),
    attach=attach,
    parameters=parameters,
    linears=linears,
    one_expert={"experts": 1, "experts_per_token": 1},
    reference="arXiv 2404.15159",
)
