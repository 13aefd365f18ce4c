"""LoRA as coded beside Dense MoE LoRA: rank 4 on every linear and on the head's hidden one; the head stays random.

Faithful to: the LoRA notebooks in sami10644/Dense-MoE-LoRA…: r 4, α 8, dropout 0.1, targets query, key, value and all
    that is called dense, which includes the head's hidden linear of RoBERTa. Their task type is that of language
    modelling, so PEFT unfreezes no head: its final projection keeps its random first values.
Differs from: nothing known in the model. A head of one linear (BERT) has no hidden one to adapt; BERT's pooler is left
    alone. The head's first values are ours, as for every method.
"""

import dataclasses

from moelora.methods._common import check_rank, count_linears, names
from moelora.methods._contract import Abilities, Counts, Method


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank, alpha and dropout; the targets are all linears and the head's hidden ones."""

    r: int = 4
    alpha: float = 8
    dropout: float = 0.1

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)


def linears(shapes, settings, context):
    """Return every linear of the layers and the head's hidden ones."""
    return (*shapes.linears, *shapes.head_linears)


def attach(model, settings, context):
    """Attach one LoRA pair to each linear; the head is not trained, unlike everywhere else."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names(linears(context.shapes, settings, context)),
    )
    return get_peft_model(model, config)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·(inputs + outputs); the pair on the head's hidden linear counts as feed-forward's, the head as 0."""
    every = [dataclasses.replace(x, part="feed_forward") if x.part == "head" else x for x in linears(shapes, 0, 0)]
    attention, feed_forward = count_linears(every, settings.r)
    experts = attention + feed_forward
    return Counts(experts=experts, attention=attention, feed_forward=feed_forward, active=experts)


METHOD = Method(
    name="lora_as_coded",
    title="LoRA (as coded beside Dense MoE LoRA)",
    settings=Settings,
    abilities=Abilities(
        mergeable=True,
        trains_head=False,
        architectures=("encoder",),
        architecture_note="its targets are named as in BERT, and its mark is a classification head left frozen",
    ),
    attach=attach,
    parameters=parameters,
    linears=linears,
    reference="github.com/sami10644 (notebooks; no paper found)",
)
