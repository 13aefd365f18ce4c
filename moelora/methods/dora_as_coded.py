"""DoRA as coded in MoE-PEFT: y = (m / ‖W0 + s·B A‖) ∘ (W0 x + s·B A drop(x)), and m keeps its first values.

The norm is computed anew in every pass and detached, so what is trained is LoRA whose rows are rescaled to the first
row norms of W0.

Faithful to: TUDB-Labs/MoE-PEFT (tags 1.0.0, 1.0.1, 2.0.2): the magnitude is in no list of parameters from which an
    optimiser or a checkpoint is built, and dropout acts on the low-rank path alone.
Differs from: it on linears with a bias, which it rescales with the row and which is left alone here; Llama has none.
    Whether the DoRA rows of MixLoRA's tables come from such a build cannot be told.
"""

import dataclasses

from moelora.methods import dora_low_rank_dropout
from moelora.methods._common import check_rank, plain_counts
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank, alpha, dropout and where."""

    r: int = setting(8, origin="as for dora; the templates have 80 for LoRA")
    alpha: float = setting(16, origin="twice the rank, as in the templates")
    dropout: float = setting(0.05, origin="MoE-PEFT's templates")
    modules: "str | list[str]" = setting("all", origin="MoE-PEFT's templates: all seven linears")

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)


def attach(model, settings, context):
    """Attach DoRA with dropout on the low-rank path to each chosen linear, its magnitudes frozen."""
    frozen = dora_low_rank_dropout.Settings(**dataclasses.asdict(settings), train_magnitude=False)
    return dora_low_rank_dropout.attach(model, frozen, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·(inputs + outputs) over the chosen linears, plus the head: magnitudes are not trained."""
    return plain_counts(shapes.select(settings.modules), settings.r, context)


METHOD = Method(
    name="dora_as_coded",
    title="DoRA (as coded in MoE-PEFT)",
    settings=Settings,
    abilities=Abilities(mergeable=True),
    attach=attach,
    parameters=parameters,
    reference="github.com/TUDB-Labs/MoE-PEFT",
)
