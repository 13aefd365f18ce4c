"""HydraLoRA: one shared A and several B on each feed-forward linear, densely routed; arXiv 2404.19245.

y = W0 x + b + s·Σ_i softmax(Wg x)_i B_i (A drop(x)).

Faithful to: Clin0212/HydraLoRA's script: feed-forward linears, r 4, α 32, four B, no balance loss.
Differs from: the paper's choice of the number of B by clustering the data; it is a setting here.
"""

import dataclasses

from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._common import attach_config, check_rank, names
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts (second factors), rank, alpha and where."""

    experts: int = setting(4, origin="Clin0212/HydraLoRA's script")
    r: int = setting(4, origin="Clin0212/HydraLoRA's script")
    alpha: float = setting(32, origin="Clin0212/HydraLoRA's script")
    dropout: float = setting(0.0, origin="ours; the script has 0.05")
    modules: "str | list[str]" = "feed_forward"
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, found {self.experts}")


def attach(model, settings, context):
    """Attach a dense mixture with a shared first factor to each chosen linear."""
    from moelora.tuners import MixtureConfig

    config = MixtureConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        experts=settings.experts,
        shared_a=True,
        router="dense",
        router_init="kaiming_uniform",
        train_router=settings.train_router,
        target_modules=names(context.shapes.select(settings.modules)),
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·inputs + E·r·outputs + E·inputs (router, where E > 1), plus the head; everything is active."""
    parts = {"attention": 0, "feed_forward": 0}
    router = 0
    for linear in shapes.select(settings.modules):
        parts[linear.part] += settings.r * (linear.inputs + settings.experts * linear.outputs)
        router += settings.experts * linear.inputs if settings.experts > 1 else 0
    experts, head = sum(parts.values()), shapes.head_parameters
    trained = router if settings.train_router else 0
    return Counts(
        experts=experts, router=trained, **parts, head=head, active=experts + router + head, frozen=router - trained
    )


METHOD = Method(
    name="hydralora",
    title="HydraLoRA",
    settings=Settings,
    abilities=Abilities(mergeable=False, merge_note="experts are weighted by the input", routed=True, mixture=True),
    attach=attach,
    parameters=parameters,
    one_expert={"experts": 1},
    reference="arXiv 2404.19245",
)
