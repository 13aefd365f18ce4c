"""LoRA: y = W0 x + b + (α/r)·B A drop(x), arXiv 2106.09685; through PEFT.

Faithful to: microsoft/LoRA and PEFT: A kaiming-uniform(√5), B zero, scaling α/r.
Differs from: the paper's query-and-value targets; all linears by default, as later work does.
"""

import dataclasses

from moelora.methods._choices import FACTOR_INITS
from moelora.methods._common import attach_config, check_choice, check_rank, names, plain_counts
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank, alpha, dropout and where.

    ``r`` may be null in a control of equal parameters: training then solves it from the closed formula.
    ``scaling`` overrides α/r: such a control keeps the scaling of the mixture that it is matched to.
    """

    r: "int | None" = setting(8, origin="PEFT's default; the paper tries 1 to 64")
    alpha: float = setting(16, origin="ours: twice the rank, as DoRA and MixLoRA set their LoRA")
    dropout: float = setting(0.0, origin="PEFT's default")
    modules: "str | list[str]" = setting("all", origin="ours, as later work does; the paper has query and value")
    scaling: "float | None" = setting(None, origin="ours, for controls of equal parameters")
    factor_init: str = setting("kaiming_uniform", origin="microsoft/LoRA and PEFT; the paper: Gaussian", later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        check_choice("factor_init", self.factor_init, FACTOR_INITS)


def attach(model, settings, context):
    """Attach one LoRA pair to each chosen linear."""
    from peft import LoraConfig

    alpha = settings.alpha if settings.scaling is None else settings.scaling * settings.r
    config = LoraConfig(
        r=settings.r,
        lora_alpha=alpha,
        lora_dropout=settings.dropout,
        target_modules=names(context.shapes.select(settings.modules)),
        init_lora_weights=FACTOR_INITS[settings.factor_init],
    )
    return attach_config(model, config, context, fused=True)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·(inputs + outputs) over the chosen linears, plus the head."""
    return plain_counts(shapes.select(settings.modules), settings.r, context)


METHOD = Method(
    name="lora",
    title="LoRA",
    settings=Settings,
    abilities=Abilities(mergeable=True),
    attach=attach,
    parameters=parameters,
    reference="arXiv 2106.09685",
)
