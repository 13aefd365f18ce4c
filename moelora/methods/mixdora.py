"""MixDoRA: MixLoRA in which every LoRA, of the experts and of attention, is a DoRA; arXiv 2404.15159.

Expert e uses diag(m / ‖W + s·B_e A_e‖) (W + s·B_e A_e) on every matrix of the block, row norms, detached.

Faithful to: the paper's MixDoRA and DoRA's own code (arXiv 2402.09353): one magnitude per output row of each expert.
Differs from: MoE-PEFT, whose magnitudes never reach the optimiser (``train_magnitude: false`` does the same). Needs K
    frozen down products a token, since each expert rescales their rows. Not for BERT, whose block is two modules.
"""

import dataclasses

from moelora.methods import _mixlora
from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._contract import Abilities, Counts, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """As `mixlora`, and whether the magnitudes are trained."""

    experts: int = setting(8, origin="arXiv 2404.15159, table of hyperparameters")
    experts_per_token: int = setting(2, origin="arXiv 2404.15159")
    r: int = setting(8, origin="ours; the published runs used 16")
    alpha: float = setting(16, origin="ours; 2 r, as published")
    dropout: float = setting(0.0, origin="ours; the published runs used 0.05")
    expert_r: "int | None" = None
    expert_alpha: "float | None" = None
    jitter_noise: float = 0.0
    balance_coefficient: float = setting(1e-3, origin="MoE-PEFT's default and the paper's best")
    train_magnitude: bool = setting(True, origin="the paper; MoE-PEFT's code does not")
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        _mixlora.check_settings(self)
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"experts_per_token must lie between 1 and experts ({self.experts}), found {self.experts_per_token}"
            )


def attach(model, settings, context):
    """Wrap every feed-forward block and attach a DoRA to each attention linear."""
    return _mixlora.attach(
        model,
        settings,
        context,
        experts_per_token=settings.experts_per_token,
        dora=True,
        train_magnitude=settings.train_magnitude,
    )


def parameters(shapes, settings, context) -> Counts:
    """Return the count of `mixlora`, plus ``outputs`` for each LoRA where magnitudes are trained."""
    return _mixlora.parameters(shapes, settings, settings.experts_per_token, magnitude=settings.train_magnitude)


METHOD = Method(
    name="mixdora",
    title="MixDoRA",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="experts are chosen per token",
        balance_loss=True,
        routed=True,
        mixture=True,
        one_expert_is="dora",
        feed_forward_layouts=("gated", "two_matrix_block"),
    ),
    attach=attach,
    parameters=parameters,
    one_expert={"experts": 1, "experts_per_token": 1},
    reference="arXiv 2404.15159",
)
