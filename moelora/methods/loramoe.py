"""LoRAMoE: a dense mixture on every feed-forward linear, balanced by the type of the sample; arXiv 2312.09979.

y = W0 x + b + s·Σ_e softmax(Wg x)_e B_e A_e drop(x); the first half of the experts is for samples of type 1.

Faithful to: the paper's form with 6 experts of rank 4, α 32, and the code's balance: variance over squared mean of the
    weighted loads, β 0.1, δ 0.1 (the paper prints variance over mean, whose β is not the same number).
Differs from: the released script, which sets the balance to zero (variant ``loramoe-as-coded``), and from its data:
    ``knowledge_tasks`` names the tasks of type 1; without any, types are unknown and the loss is plain balance.
"""

import dataclasses

from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._common import attach_config, check_rank, names
from moelora.methods._contract import Abilities, Counts, Hooks, Method, setting
from moelora.methods._mixture import mixture_counts


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, rank, β (``balance_coefficient``), δ (``balance_delta``) and which tasks are of type 1."""

    experts: int = setting(6, origin="arXiv 2312.09979; the released script has 8")
    r: int = setting(4, origin="arXiv 2312.09979")
    alpha: float = setting(32, origin="arXiv 2312.09979")
    dropout: float = setting(0.0, origin="ours; the published runs used 0.05")
    balance_loss: str = setting("localised", origin="the code's form; the paper prints variance over mean")
    balance_coefficient: float = setting(0.1, origin="arXiv 2312.09979; 0 in the released script")
    balance_delta: float = setting(0.1, origin="arXiv 2312.09979")
    knowledge_tasks: "list[str]" = dataclasses.field(default_factory=list)
    modules: "str | list[str]" = "feed_forward"
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, found {self.experts}")
        if not 0 <= self.balance_delta < 1:
            raise ValueError(f"balance_delta must lie in [0, 1), found {self.balance_delta}")


def attach(model, settings, context):
    """Attach a dense mixture to each chosen linear."""
    from moelora.tuners import MixtureConfig

    config = MixtureConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        experts=settings.experts,
        router="dense",
        router_init="kaiming_uniform",
        balance_loss=settings.balance_loss,
        balance_delta=settings.balance_delta,
        balance_coefficient=settings.balance_coefficient,
        train_router=settings.train_router,
        target_modules=names(context.shapes.select(settings.modules)),
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ E·r·(inputs + outputs) + E·inputs (router, where E > 1), plus the head; every expert is active."""
    return mixture_counts(
        shapes.select(settings.modules),
        settings.r,
        settings.experts,
        None,
        context,
        train_router=settings.train_router,
    )


def hooks(settings) -> Hooks:
    """Return the hook that tells the routers the types of a batch's samples."""
    if not settings.knowledge_tasks:
        return Hooks()

    def tell_types(model, batch):
        import torch

        from moelora.tuners import set_sample_types

        set_sample_types(model, torch.tensor([int(example.task in settings.knowledge_tasks) for example in batch]))

    return Hooks(before_batch=tell_types)


METHOD = Method(
    name="loramoe",
    title="LoRAMoE",
    settings=Settings,
    abilities=Abilities(
        mergeable=False, merge_note="experts are weighted by the input", balance_loss=True, routed=True, mixture=True
    ),
    attach=attach,
    parameters=parameters,
    hooks=hooks,
    one_expert={"experts": 1},
    reference="arXiv 2312.09979",
)
