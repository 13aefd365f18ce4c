"""MoLA: a top-2 mixture with a router of its own on every linear, and more experts in some layers; arXiv 2402.08562.

y = W0 x + b + s·Σ_{e in top 2} g_e·B_e A_e drop(x); softmax over all experts in float32, top-2, renormalised.

Faithful to: GCYZSL/MoLA: routers and A kaiming-uniform(√5), B zero, one balance loss (Switch form, assignments summing
    to 1) over each layer's routers together, coefficient 1e-3; the paper's shapes, from the bottom layer up: inverted
    triangle 2-4-6-8, triangle 8-6-4-2, hourglass 8-2-2-8, square 5-5-5-5.
Differs from: the code's default, where the balance loss is off unless a flag is given (variant ``mola-as-coded``).
    Layers that four groups do not divide are cut as evenly as possible (ours).
"""

import dataclasses

from moelora.methods._common import attach_config, check_rank
from moelora.methods._contract import Abilities, Counts, Method, setting
from moelora.methods._mixture import mixture_counts

SHAPES = {
    "inverted_triangle": (2, 4, 6, 8),
    "triangle": (8, 6, 4, 2),
    "hourglass": (8, 2, 2, 8),
    "square": (5, 5, 5, 5),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The shape by name or as experts per group of layers from the bottom ("2-4-6-8"), rank and balance."""

    shape: str = setting("inverted_triangle", origin="the paper's best, 2-4-6-8")
    experts_per_token: int = setting(2, origin="arXiv 2402.08562")
    r: int = setting(8, origin="arXiv 2402.08562")
    alpha: float = setting(16, origin="arXiv 2402.08562")
    dropout: float = setting(0.0, origin="ours; the published runs used 0.05")
    balance_loss: str = setting("switch", origin="the paper; off in the code unless a flag is given")
    balance_coefficient: float = setting(1e-3, origin="arXiv 2402.08562")
    modules: "str | list[str]" = "all"

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
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
        router="top_k",
        router_init="kaiming_uniform",
        experts_per_token=settings.experts_per_token,
        balance_loss=settings.balance_loss,
        balance_coefficient=settings.balance_coefficient,
        balance_scope="layer",
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ_j E_j·r·(inputs + outputs) + E_j·inputs (router, where E_j > 1), plus the head."""
    adapted = shapes.select(settings.modules)
    return mixture_counts(adapted, settings.r, allocated(shapes, settings), settings.experts_per_token, context)


METHOD = Method(
    name="mola",
    title="MoLA",
    settings=Settings,
    abilities=Abilities(
        mergeable=False, merge_note="experts are chosen per token", balance_loss=True, routed=True, mixture=True
    ),
    attach=attach,
    parameters=parameters,
    reference="arXiv 2402.08562",
)
