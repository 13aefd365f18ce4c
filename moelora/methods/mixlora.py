"""MixLoRA: E feed-forward experts around shared frozen weights, top-k routed per block; plain LoRA on attention.

y = Σ_k g_k h_k(x), arXiv 2404.15159; softmax over all experts in float32, top-k, renormalised.

Faithful to: TUDB-Labs/MixLoRA and MoE-PEFT: one router a block N(0, 0.02), kaiming-uniform A, zero B, one balance loss
    over the router logits of all layers, coefficient 1e-3 (the code's value and the paper's best), balanced value k.
Differs from: equation 7 read literally (no renormalising); the loss covers answers only, as for every method here.
"""

import dataclasses

from moelora.methods._common import attach_config, check_rank, count_linears, lora_pair, names
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, experts per token, rank and the balance coefficient."""

    experts: int = setting(8, origin="paper and MoE-PEFT's templates")
    experts_per_token: int = setting(2, origin="paper and MoE-PEFT's templates")
    r: int = setting(8, origin="ours, as for LoRA; the templates have 16")
    alpha: float = setting(16, origin="twice the rank, as in the templates")
    dropout: float = setting(0.0, origin="ours, as for LoRA; the templates have 0.05")
    balance_coefficient: float = setting(1e-3, origin="MoE-PEFT's default and the paper's best; its text says 1e-2")

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"experts_per_token must lie between 1 and experts ({self.experts}), found {self.experts_per_token}"
            )


def attach(model, settings, context):
    """Wrap every feed-forward block and attach plain LoRA to the attention linears."""
    from moelora.tuners import MixLoraConfig

    shapes = context.shapes
    feed_forward = shapes.select("feed_forward")
    blocks: dict[str, list] = {}
    if shapes.feed_forward_layout == "gated":
        blocks["feed_forward_modules"] = sorted({linear.name.rsplit(".", 1)[0] for linear in feed_forward})
    else:
        # BERT keeps its feed-forward in two modules: "…intermediate" (linear and activation) and "…output.dense"
        kinds = {kind: [x.name for x in feed_forward if x.kind == kind] for kind in ("intermediate", "output")}
        blocks["feed_forward_modules"] = [name.rsplit(".", 1)[0] for name in kinds["intermediate"]]
        blocks["output_modules"] = kinds["output"]
    config = MixLoraConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        num_experts=settings.experts,
        experts_per_token=settings.experts_per_token,
        balance_coefficient=settings.balance_coefficient,
        target_modules=names(shapes.select("attention")),
        feed_forward_layout=shapes.feed_forward_layout,
        **blocks,
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return r·Σ_attention + E·r·Σ_feed-forward of (inputs + outputs) + L·E·D routers, plus the head."""
    attention, _ = count_linears(shapes.select("attention"), settings.r)
    one_expert = sum(lora_pair(linear, settings.r) for linear in shapes.select("feed_forward"))
    router = len(shapes.layers()) * settings.experts * shapes.hidden
    return Counts(
        experts=attention + settings.experts * one_expert,
        router=router,
        attention=attention,
        feed_forward=settings.experts * one_expert,
        head=shapes.head_parameters,
        active=attention + settings.experts_per_token * one_expert + router + shapes.head_parameters,
    )


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
