"""MixLoRA: E feed-forward experts around shared frozen weights, top-k routed per block; plain LoRA on attention.

y = Σ_k g_k h_k(x), arXiv 2404.15159; softmax over all experts in float32, top-k, renormalised.

Faithful to: TUDB-Labs/MixLoRA and MoE-PEFT: one router a block N(0, 0.02), kaiming-uniform A, zero B, one balance loss
    over the router logits of all layers, coefficient 1e-3 (the code's value and the paper's best), balanced value k.
Differs from: equation 7 read literally (no renormalising); the loss covers answers only, as for every method here.
"""

import dataclasses

from moelora.methods import _mixlora
from moelora.methods._contract import Abilities, Counts, Method


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, experts per token, rank and the balance coefficient.

    ``expert_r`` and ``expert_alpha`` are the experts' own where they differ from the attention LoRA's.
    """

    experts: int = 8
    experts_per_token: int = 2
    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    expert_r: "int | None" = None
    expert_alpha: "float | None" = None
    jitter_noise: float = 0.0
    balance_coefficient: float = 1e-3

    def __post_init__(self):
        _mixlora.check_settings(self)
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"experts_per_token must lie between 1 and experts ({self.experts}), found {self.experts_per_token}"
            )


def attach(model, settings, context):
    """Wrap every feed-forward block and attach plain LoRA to the attention linears."""
    return _mixlora.attach(model, settings, context, experts_per_token=settings.experts_per_token)


def parameters(shapes, settings, context) -> Counts:
    """Return r·Σ_attention + E·r·Σ_feed-forward of (inputs + outputs) + L·E·D routers, plus the head."""
    return _mixlora.parameters(shapes, settings, settings.experts_per_token)


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
    reference="arXiv 2404.15159",
)
