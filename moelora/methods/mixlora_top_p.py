"""MixLoRA with a top-p router: as many experts a token as it takes to reach probability p, not renormalised.

Faithful to: MoE-PEFT's dynamic router: sorted softmax, the expert that crosses p is kept, weights are the probabilities
    themselves, p = 0.8.
Differs from: it in the balance loss, which counts the experts that a token really uses; everything else as `mixlora`.
"""

import dataclasses

from moelora.methods import _mixlora
from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, p, rank and the balance coefficient; the rest as in `mixlora`."""

    experts: int = setting(8, origin="arXiv 2404.15159")
    top_p: float = setting(0.8, origin="MoE-PEFT's default")
    r: int = setting(8, origin="ours; the published runs used 16")
    alpha: float = setting(16, origin="ours; 2 r, as published")
    dropout: float = setting(0.0, origin="ours; the published runs used 0.05")
    expert_r: "int | None" = None
    expert_alpha: "float | None" = None
    jitter_noise: float = 0.0
    balance_coefficient: float = setting(1e-3, origin="MoE-PEFT's default")
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        _mixlora.check_settings(self)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], found {self.top_p}")


def attach(model, settings, context):
    """Wrap every feed-forward block and attach plain LoRA to the attention linears."""
    return _mixlora.attach(model, settings, context, router="top_p", top_p=settings.top_p)


def parameters(shapes, settings, context) -> Counts:
    """Return the count of `mixlora`; all experts may be active."""
    return _mixlora.parameters(shapes, settings, settings.experts)


METHOD = Method(
    name="mixlora_top_p",
    title="MixLoRA (top-p)",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="experts are chosen per token",
        balance_loss=True,
        routed=True,
        mixture=True,
        starts_as_base=False,
        start_note="the kept probabilities do not sum to 1, so the feed-forward output starts scaled down",
    ),
    attach=attach,
    parameters=parameters,
    one_expert={"experts": 1},
    reference="MoE-PEFT (dynamic router)",
)
