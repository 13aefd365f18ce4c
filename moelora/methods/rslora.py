"""rsLoRA: LoRA with scaling α/√r instead of α/r, so that the update keeps its size as the rank grows; through PEFT.

Faithful to: arXiv 2312.03732 and PEFT's ``use_rslora``.
Differs from: `lora` in the scaling alone.
"""

import dataclasses

from moelora.methods._common import attach_config, check_rank, names, plain_counts
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank, alpha, dropout and where."""

    r: int = setting(8, origin="PEFT's default")
    alpha: float = setting(16, origin="ours; 2 r as in `lora`")
    dropout: float = setting(0.0, origin="ours; the same for every method")
    modules: "str | list[str]" = "all"

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)


def attach(model, settings, context):
    """Attach one LoRA pair, scaled by α/√r, to each chosen linear."""
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names(context.shapes.select(settings.modules)),
        use_rslora=True,
    )
    return attach_config(model, config, context, fused=True)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·(inputs + outputs) over the chosen linears, plus the head."""
    return plain_counts(shapes.select(settings.modules), settings.r, context)


METHOD = Method(
    name="rslora",
    title="rsLoRA",
    settings=Settings,
    abilities=Abilities(mergeable=True),
    attach=attach,
    parameters=parameters,
    reference="arXiv 2312.03732",
)
