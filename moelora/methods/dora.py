"""DoRA: W' = diag(m / ‖W0 + s·B A‖) (W0 + s·B A), row norms, arXiv 2402.09353; through PEFT.

Faithful to: NVlabs/DoRA and PEFT: one magnitude per output row, norm detached, dropout on the correction term too.
Differs from: the paper's text, which writes the norm over columns; its own code and all others take rows.
"""

import dataclasses

from moelora.methods._common import attach_config, check_rank, freeze_weights, names, plain_counts
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank, alpha, dropout, where, and whether the magnitudes are trained."""

    r: int = setting(8, origin="ours, as for LoRA; the paper has 16 and 32")
    alpha: float = setting(16, origin="α = 2r, table 8")
    dropout: float = setting(0.0, origin="ours, as for LoRA; table 8 has 0.05")
    modules: "str | list[str]" = setting("all", origin="ours, as for LoRA; table 8 has query, key, value, up and down")
    train_magnitude: bool = setting(True, origin="the paper; without is ours, for ablation", later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)


def attach(model, settings, context):
    """Attach one LoRA pair and a magnitude vector to each chosen linear; an untrained one keeps its first values."""
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names(context.shapes.select(settings.modules)),
        use_dora=True,
    )
    model = attach_config(model, config, context, fused=True)
    if not settings.train_magnitude:
        freeze_weights(model, "lora_magnitude_vector")
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·(inputs + outputs) + outputs (where trained) over the chosen linears, plus the head."""
    return plain_counts(shapes.select(settings.modules), settings.r, context, magnitude=settings.train_magnitude)


METHOD = Method(
    name="dora",
    title="DoRA",
    settings=Settings,
    abilities=Abilities(mergeable=True),
    attach=attach,
    parameters=parameters,
    reference="arXiv 2402.09353",
)
