"""Dense MoE LoRA as coded: m = Σ_e p_(e) B_e A_e a replaces the attention output a of the last layers.

p = softmax(Wg a), and p_(e) is the e-th largest probability: the notebooks sort by a top-k over all experts and ignore
the indices that it returns, so an expert is weighted by its rank and never by its own probability. There is no frozen
path around the mixture; the feed-forward and its residual see m alone.

Faithful to: the notebooks in sami10644/Dense-MoE-LoRA…: E 8, rank 4, last four layers, Xavier-uniform gate, A and B (so
    training does not start from the base model), no α, no dropout, no balance loss (theirs is the constant 0.4 a layer,
    and is never collected).
Differs from: nothing known in the model. ``sorted_weights: false`` weights each expert with its own probability. The
    head's first values are ours, as for every method. Without α a plain LoRA of equal scaling does not exist, so it is
    no mixture that one can be matched to; ``lora_as_coded`` is what its authors put beside it.
"""

import dataclasses
import itertools

from moelora.errors import ConfigError
from moelora.methods._common import attach_config
from moelora.methods._contract import Abilities, Counts, Method

NOTE = (
    "the notebooks replace what a BERT-like layer hands from attention, LayerNorm included, to its feed-forward; in a "
    "Llama-like decoder the residual stream bypasses the attention block, so there is no such output to replace"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, their rank, how many of the last layers have them, and the sorting error."""

    experts: int = 8
    r: int = 4
    layers: int = 4
    sorted_weights: bool = True

    def __post_init__(self):
        for name in ("experts", "r", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")


def chosen_layers(shapes, settings) -> tuple[int, ...]:
    """Return the indices of the last ``layers`` layers.

    Raises:
        ConfigError: the model has fewer, or is no BERT-like encoder.
    """
    if shapes.feed_forward_layout != "two_matrix":
        raise ConfigError(
            f"method 'dense_moe_lora_as_coded' cannot be attached to a model with a "
            f"'{shapes.feed_forward_layout}' feed-forward: {NOTE}; use an encoder, or 'dense_moe_lora'"
        )
    found = shapes.layers()
    if len(found) < settings.layers:
        raise ConfigError(f"'layers' is {settings.layers}, but the model has {len(found)}; lower it")
    return found[-settings.layers :]


def blocks(shapes, settings) -> list[str]:
    """Return the full names of the attention blocks: the module that holds all attention linears of a layer."""
    names = []
    for layer in chosen_layers(shapes, settings):
        paths = [x.name.split(".") for x in shapes.linears if x.layer == layer and x.part == "attention"]
        shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
        names.append(".".join(parts[0] for parts in shared))
    return names


def attach(model, settings, context):
    """Put the mixture behind each chosen attention block."""
    from moelora.tuners import BottleneckConfig

    config = BottleneckConfig(
        r=settings.r,
        num_experts=settings.experts,
        sorted_weights=settings.sorted_weights,
        target_modules=blocks(context.shapes, settings),
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return L·(E·2·R·D + E·D), plus the head; all of it is active. The experts count as attention's."""
    layers = len(chosen_layers(shapes, settings))
    experts = layers * settings.experts * 2 * settings.r * shapes.hidden
    router = layers * settings.experts * shapes.hidden if settings.experts > 1 else 0
    return Counts(
        experts=experts,
        router=router,
        attention=experts,
        head=shapes.head_parameters,
        active=experts + router + shapes.head_parameters,
    )


METHOD = Method(
    name="dense_moe_lora_as_coded",
    title="Dense MoE LoRA (as coded)",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="the mixture replaces the attention output, and its weights depend on the input",
        routed=True,
        starts_as_base=False,
        start_note="B is not zero at first, and nothing of the attention output passes around the mixture",
        architectures=("encoder",),
        architecture_note=NOTE,
    ),
    attach=attach,
    parameters=parameters,
    linears=lambda shapes, settings, context: (),
    reference="github.com/sami10644 (notebooks; no paper found)",
)
