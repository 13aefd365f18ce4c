"""What the MixLoRA pages share: where a model's feed-forward blocks are, attaching, and the closed formula."""

from typing import Any

from moelora.errors import ConfigError
from moelora.methods._common import attach_config, check_rank, count_linears, lora_pair, names
from moelora.methods._contract import AttachContext, Counts, Linear, ModelShapes

ROLES = {"gated": ("gate", "up", "down"), "two_matrix": ("inner", "outer"), "two_matrix_block": ("inner", "outer")}


def check_settings(settings: Any) -> None:
    """Refuse impossible ranks and numbers of experts.

    Raises:
        ValueError: one of them is out of range.
    """
    check_rank(settings.r, settings.alpha, settings.dropout)
    if settings.experts < 1:
        raise ValueError(f"experts must be at least 1, found {settings.experts}")
    if settings.expert_r is not None and settings.expert_r < 1:
        raise ValueError(f"expert_r must be at least 1, found {settings.expert_r}")


def blocks(shapes: ModelShapes) -> dict[str, Any]:
    """Return the settings of `moelora.tuners.MixLoraConfig` that say where the feed-forward blocks are."""
    layout = shapes.feed_forward_layout
    by_layer: dict[int, list[Linear]] = {}
    for linear in shapes.select("feed_forward"):
        by_layer.setdefault(linear.layer, []).append(linear)
    parts = [_roles(found, layout) for found in by_layer.values()]
    first = ROLES[layout][0]
    where: dict[str, Any] = {
        "feed_forward_layout": layout,
        "feed_forward_modules": sorted(part[first].rpartition(".")[0] for part in parts),
    }
    inside = ROLES[layout]
    if layout == "two_matrix":
        # BERT keeps its feed-forward in two modules: "…intermediate" (linear and activation) and "…output.dense"
        where["output_modules"] = sorted(part["outer"] for part in parts)
        inside = ("inner",)
    where["feed_forward_names"] = {role: parts[0][role].rpartition(".")[2] for role in inside}
    return where


def _roles(linears: list[Linear], layout: str) -> dict[str, str]:
    """Return role → full name of a block's linears; their order says nothing, since plans are kept with sorted keys.

    Raises:
        ConfigError: the kinds of a gated block are not gate, up and down, or the two matrices cannot be told apart.
    """
    if layout == "gated":
        found = {linear.kind: linear.name for linear in linears}
        if set(found) != set(ROLES[layout]):
            raise ConfigError(
                f"a gated feed-forward block has the kinds {sorted(found)}; expected gate, up and down under "
                "'modules.feed_forward' in the model's file"
            )
        return found
    widening = [linear for linear in linears if linear.outputs > linear.inputs]
    if len(linears) != 2 or len(widening) != 1:
        raise ConfigError(
            f"a feed-forward block of the layout '{layout}' has the linears {sorted(x.name for x in linears)}; "
            "expected one that widens and one that narrows"
        )
    (outer,) = (linear for linear in linears if linear is not widening[0])
    return {"inner": widening[0].name, "outer": outer.name}


def attach(model: Any, settings: Any, context: AttachContext, *, attention: bool = True, **more: Any) -> Any:
    """Wrap every feed-forward block and attach plain LoRA to the attention linears.

    Args:
        model: the base model.
        settings: of a MixLoRA page.
        context: the model's shapes and head.
        attention: whether attention has its LoRA.
        **more: settings of `moelora.tuners.MixLoraConfig` that the page has beside those of all.
    """
    from moelora.tuners import MixLoraConfig

    shapes = context.shapes
    config = MixLoraConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        num_experts=settings.experts,
        expert_r=settings.expert_r,
        expert_alpha=settings.expert_alpha,
        balance_coefficient=settings.balance_coefficient,
        jitter_noise=settings.jitter_noise,
        train_router=settings.train_router,
        target_modules=names(shapes.select("attention")) if attention else None,
        **blocks(shapes),
        **more,
    )
    return attach_config(model, config, context)


def parameters(
    shapes: ModelShapes, settings: Any, used: int, *, magnitude: bool = False, attention: bool = True
) -> Counts:
    """Return r·Σ_attention + E·r_e·Σ_feed-forward of (inputs + outputs) + L·E·D routers, plus the head.

    Args:
        shapes: the base model's shapes.
        settings: of a MixLoRA page.
        used: experts that serve one token at most.
        magnitude: whether every LoRA has a trained magnitude of ``outputs`` numbers.
        attention: whether attention has its LoRA.
    """
    rank = settings.expert_r or settings.r
    feed_forward = shapes.select("feed_forward")
    plain, _ = count_linears(shapes.select("attention") if attention else (), settings.r, magnitude=magnitude)
    one_expert = sum(lora_pair(linear, rank) + (linear.outputs if magnitude else 0) for linear in feed_forward)
    router = len(shapes.layers()) * settings.experts * shapes.hidden if settings.experts > 1 else 0
    return Counts(
        experts=plain + settings.experts * one_expert,
        router=router if settings.train_router else 0,
        attention=plain,
        feed_forward=settings.experts * one_expert,
        head=shapes.head_parameters,
        active=plain + used * one_expert + router + shapes.head_parameters,
        frozen=0 if settings.train_router else router,
    )
