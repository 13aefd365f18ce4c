"""DoRA with dropout on the low-rank path only: y = (m / ‖W0 + s·B A‖) ∘ (W0 x + s·B A drop(x)); ours, after DoRA.

Faithful to: arXiv 2402.09353 without dropout and outside training, where it is `dora`; files are those of PEFT's DoRA.
Differs from: PEFT's and the authors' code in training with dropout. There W0 multiplies the dropped input too, in
    (m / ‖W‖ − 1) ∘ W0 drop(x), which is a second product with the frozen weight; here it multiplies x once.
"""

import dataclasses

from moelora.methods import dora
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings(dora.Settings):
    """As for `dora`, but with dropout: without it the two are one."""

    dropout: float = setting(0.05, origin="table 8 of the paper; with 0 the method is dora")


def attach(model, settings, context):
    """Attach PEFT's DoRA to each chosen linear and let its dropout act on the low-rank path only."""
    from moelora.tuners import drop_low_rank_only

    model = dora.attach(model, settings, context)
    drop_low_rank_only(model)
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return Σ r·(inputs + outputs) + outputs over the chosen linears, plus the head."""
    return dora.parameters(shapes, settings, context)


METHOD = Method(
    name="dora_low_rank_dropout",
    title="DoRA, dropout on the low-rank path",
    settings=Settings,
    abilities=Abilities(mergeable=True),
    attach=attach,
    parameters=parameters,
    reference="after arXiv 2402.09353",
)
