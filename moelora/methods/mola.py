"""MoLA: a top-2 mixture with a router of its own on every linear, and more experts in some layers; arXiv 2402.08562.

y = W0 x + b + s·Σ_{e in top 2} g_e·B_e A_e drop(x); softmax over all experts in float32, top-2, renormalised.

Faithful to: GCYZSL/MoLA: routers and A kaiming-uniform(√5), B zero, one balance loss (Switch form, assignments summing
    to 1) over each layer's routers together, coefficient 1e-3; the paper's shapes, from the bottom layer up: inverted
    triangle 2-4-6-8, triangle 8-6-4-2, hourglass 8-2-2-8, square 5-5-5-5.
Differs from: the code's default, where the balance loss is off unless a flag is given (variant ``mola-as-coded``).
    Layers that four groups do not divide are cut as evenly as possible (ours).
"""

import dataclasses

from moelora.methods._choices import BALANCE_FORMS, FACTOR_INITS, ROUTER_INITS, TRAIN_ROUTER
from moelora.methods._common import attach_config, check_choice, check_rank
from moelora.methods._contract import Abilities, Counts, Method, setting
from moelora.methods._mixture import mixture_counts

ROUTERS = ("top_k", "top_p", "switch", "dense")

SHAPES = {
    "inverted_triangle": (2, 4, 6, 8),
    "triangle": (8, 6, 4, 2),
    "hourglass": (8, 2, 2, 8),
    "square": (5, 5, 5, 5),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The shape by name or as experts per group of layers from the bottom ("2-4-6-8"), rank and balance.

    With another ``router`` than ``top_k`` ``experts_per_token`` says nothing; ``dense`` needs another ``balance_loss``,
    since the Switch form is then a constant.
    """

    shape: str = setting("inverted_triangle", origin="the paper's best, 2-4-6-8")
    experts_per_token: int = setting(2, origin="arXiv 2402.08562")
    r: int = setting(8, origin="arXiv 2402.08562")
    alpha: float = setting(16, origin="arXiv 2402.08562")
    dropout: float = setting(0.0, origin="ours; the published runs used 0.05")
    balance_loss: str = setting("switch", origin="the paper; off in the code unless a flag is given")
    balance_coefficient: float = setting(1e-3, origin="arXiv 2402.08562")
    modules: "str | list[str]" = "all"
    router: str = setting("top_k", origin="arXiv 2402.08562; others are ours, for ablation", later=True)
    top_p: float = setting(0.8, origin="MoE-PEFT's, with the router top_p", later=True)
    capacity: "int | None" = setting(None, origin="ours: no limit, with the router switch", later=True)
    router_init: str = setting("kaiming_uniform", origin="GCYZSL/MoLA", later=True)
    init_router_std: float = setting(0.02, origin="MixLoRA's, with the router_init normal", later=True)
    factor_init: str = setting("kaiming_uniform", origin="GCYZSL/MoLA; the paper says Gaussian", later=True)
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        check_choice("router", self.router, ROUTERS)
        check_choice("router_init", self.router_init, ROUTER_INITS)
        check_choice("factor_init", self.factor_init, FACTOR_INITS)
        check_choice("balance_loss", self.balance_loss, BALANCE_FORMS)
        if self.router == "dense" and self.balance_loss.startswith("switch"):
            raise ValueError(
                f"balance_loss '{self.balance_loss}' is a constant with the router 'dense'; take cv_squared, "
                "mean_probability or none"
            )
        if self.experts_per_token < 1:
            raise ValueError(f"experts_per_token must be at least 1, found {self.experts_per_token}")
        groups(self.shape)


def groups(shape: str) -> tuple[int, ...]:
    """Return the experts of each group of layers, from the bottom.

    Raises:
        ValueError: the shape is neither a known name nor positive numbers joined by hyphens.
    """
    if shape in SHAPES:
        return SHAPES[shape]
    parts = str(shape).split("-")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"shape must be one of {', '.join(SHAPES)} or experts a group as '2-4-6-8', found '{shape}'")
    return tuple(int(part) for part in parts)


def allocated(shapes, settings) -> dict[str, int]:
    """Return full module name → experts.

    Raises:
        ValueError: there are more groups than layers.
    """
    by_group, layers = groups(settings.shape), shapes.layers()
    if len(by_group) > len(layers):
        by_group = by_group[:: -(-len(by_group) // len(layers))]
    of_layer = {layer: by_group[index * len(by_group) // len(layers)] for index, layer in enumerate(layers)}
    return {linear.name: of_layer[linear.layer] for linear in shapes.select(settings.modules)}


def attach(model, settings, context):
    """Attach a top-k mixture with its layer's number of experts to each chosen linear."""
    from moelora.tuners import MixtureConfig

    config = MixtureConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        experts=allocated(context.shapes, settings),
        router=settings.router,
        router_init=settings.router_init,
        init_router_std=settings.init_router_std,
        factor_init=settings.factor_init,
        train_router=settings.train_router,
        top_p=settings.top_p,
        expert_capacity=settings.capacity,
        experts_per_token=settings.experts_per_token,
        balance_loss=settings.balance_loss,
        balance_coefficient=settings.balance_coefficient,
        balance_scope="layer",
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ_j E_j·r·(inputs + outputs) + E_j·inputs (router, where E_j > 1), plus the head."""
    # a token uses k experts of top_k, one of switch, and as many as there are of the others at the most
    used = {"top_k": settings.experts_per_token, "switch": 1}.get(settings.router)
    return mixture_counts(
        shapes.select(settings.modules),
        settings.r,
        allocated(shapes, settings),
        used,
        context,
        train_router=settings.train_router,
    )


METHOD = Method(
    name="mola",
    title="MoLA",
    settings=Settings,
    abilities=Abilities(
        mergeable=False, merge_note="experts are chosen per token", balance_loss=True, routed=True, mixture=True
    ),
    attach=attach,
    parameters=parameters,
    one_expert={"shape": "1", "experts_per_token": 1},
    reference="arXiv 2402.08562",
)
