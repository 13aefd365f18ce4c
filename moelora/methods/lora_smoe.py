"""LoRA-SMoE: experts per module from the sensitivity of a small sample, then a top-k mixture; arXiv 2505.06272.

Faithful to: the abstract and EMLS-ICTCAS/LoRA-SMoE's allocation: per-task percentile vote over squared gradients, a
    module gets one expert for each task that finds it sensitive; modules without a vote get no adapter.
Differs from: its public code, whose mixture layer is missing; a MoLA layer (a router per module, top-min(k, count),
    softmax over all, renormalised) is its natural reading. Sensitivities here are float32 sums over frozen weights.
"""

import dataclasses

from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._common import attach_config, check_rank
from moelora.methods._contract import Abilities, Counts, Method, setting
from moelora.methods._mixture import mixture_counts


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank, experts per token and the balance loss; experts per module come from the allocation.

    ``most_experts`` cuts what the allocation gives a module.
    """

    r: int = setting(8, origin="default of the public code; that of the published runs is unknown")
    alpha: float = setting(16, origin="default of the public code")
    dropout: float = setting(0.0, origin="ours, as for LoRA; the public code's default is 0.05")
    experts_per_token: int = setting(2, origin="MoLA's, whose layer is used")
    balance_loss: str = setting("switch", origin="MoLA's, whose layer is used")
    balance_coefficient: float = setting(1e-3, origin="MoLA's, whose layer is used")
    modules: "str | list[str]" = setting("all", origin="the seven types of the public notebook's results")
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)
    most_experts: "int | None" = setting(None, origin="ours: 1 makes it plain LoRA where experts went", later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        if self.experts_per_token < 1:
            raise ValueError(f"experts_per_token must be at least 1, found {self.experts_per_token}")
        if self.most_experts is not None and self.most_experts < 1:
            raise ValueError(f"most_experts must be at least 1 or null, found {self.most_experts}")


def allocated(shapes, settings, context) -> dict[str, int]:
    """Return full module name → experts for the chosen linears that have any."""
    chosen = {linear.name for linear in shapes.select(settings.modules)}
    counts = {name: count for name, count in sorted(context.allocation.items()) if count > 0 and name in chosen}
    most = settings.most_experts
    return counts if most is None else {name: min(count, most) for name, count in counts.items()}


def linears(shapes, settings, context):
    """Return the linears that have at least one expert."""
    experts = allocated(shapes, settings, context)
    return tuple(linear for linear in shapes.linears if linear.name in experts)


def attach(model, settings, context):
    """Attach a top-k mixture with its own number of experts to each allocated linear."""
    from moelora.tuners import MixtureConfig

    config = MixtureConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        experts=allocated(context.shapes, settings, context),
        router="top_k",
        experts_per_token=settings.experts_per_token,
        balance_loss=settings.balance_loss,
        balance_coefficient=settings.balance_coefficient,
        train_router=settings.train_router,
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ_j E_j·r·(inputs + outputs) + E_j·inputs (router, where E_j > 1), plus the head."""
    experts = allocated(shapes, settings, context)
    adapted = linears(shapes, settings, context)
    return mixture_counts(
        adapted, settings.r, experts, settings.experts_per_token, context, train_router=settings.train_router
    )


METHOD = Method(
    name="lora_smoe",
    title="LoRA-SMoE",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="experts are chosen per token",
        needs_allocation=True,
        balance_loss=True,
        routed=True,
        mixture=True,
    ),
    attach=attach,
    parameters=parameters,
    linears=linears,
    one_expert={"most_experts": 1, "experts_per_token": 1},
    reference="arXiv 2505.06272",
)
