"""MixLoRA with a switch router: one expert a token, weighted by its probability, while the expert has room.

Faithful to: MoE-PEFT's switch strategy and the Switch Transformer (arXiv 2101.03961): top-1, weight p, 32 tokens of a
    sequence per expert in training, jitter 0.01, z-loss 1e-3, balance coefficient 1e-3.
Differs from: MoE-PEFT's inference branch, which hands back its input (a bug). A token without room gets nothing from
    the block and keeps its residual; outside training nobody is turned away. The router starts from N(0, 0.02) as
    in `mixlora`, not from the code's standard deviation of 1.
"""

import dataclasses

from moelora.methods import _mixlora
from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, their room, rank, jitter and the two coefficients; the rest as in `mixlora`."""

    experts: int = setting(8, origin="arXiv 2404.15159")
    capacity: "int | None" = setting(32, origin="MoE-PEFT's default")
    r: int = setting(8, origin="ours; the published runs used 16")
    alpha: float = setting(16, origin="ours; 2 r, as published")
    dropout: float = setting(0.0, origin="ours; the published runs used 0.05")
    expert_r: "int | None" = None
    expert_alpha: "float | None" = None
    jitter_noise: float = setting(0.01, origin="MoE-PEFT's default")
    init_router_std: float = setting(0.02, origin="ours, as `mixlora`; MoE-PEFT's is 1.0")
    balance_coefficient: float = setting(1e-3, origin="MoE-PEFT's default")
    z_loss_coefficient: float = setting(1e-3, origin="MoE-PEFT's default")
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        _mixlora.check_settings(self)
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"capacity must be at least 1 or null, found {self.capacity}")


def attach(model, settings, context):
    """Wrap every feed-forward block and attach plain LoRA to the attention linears."""
    return _mixlora.attach(
        model,
        settings,
        context,
        router="switch",
        experts_per_token=1,
        expert_capacity=settings.capacity,
        init_router_std=settings.init_router_std,
        z_loss_coefficient=settings.z_loss_coefficient,
    )


def parameters(shapes, settings, context) -> Counts:
    """Return the count of `mixlora`; one expert is active."""
    return _mixlora.parameters(shapes, settings, 1)


METHOD = Method(
    name="mixlora_switch",
    title="MixLoRA (switch)",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="experts are chosen per token",
        balance_loss=True,
        routed=True,
        mixture=True,
        starts_as_base=False,
        start_note="the one expert is weighted by its probability, so the feed-forward output starts scaled down",
    ),
    attach=attach,
    parameters=parameters,
    one_expert={"experts": 1},
    reference="MoE-PEFT (switch router), arXiv 2101.03961",
)
