"""Dense MoE LoRA as described: y = W0 x + b + (α/r)·Σ_e softmax(Wg x)_e B_e A_e drop(x) on feed-forward linears.

Faithful to: the description in the repository sami10644/Dense-MoE-LoRA…: dense softmax gate over E = 4 experts of
    rank 8, feed-forward layers, a balance loss. B starts at zero, so training starts from the base model.
Differs from: its notebooks, where the mixture replaces the attention output and experts are weighted by sorted
    probability. The Switch form of the balance loss is constant under dense routing; the squared coefficient of
    variation of the mean router weights is used instead (ours), which is not.
"""

import dataclasses

from moelora.methods._choices import TRAIN_ROUTER
from moelora.methods._common import attach_config, check_rank, names
from moelora.methods._contract import Abilities, Counts, Method, setting
from moelora.methods._mixture import mixture_counts


@dataclasses.dataclass(frozen=True)
class Settings:
    """Experts, their rank, the balance loss, and where."""

    experts: int = setting(4, origin="README; the notebooks have 8")
    r: int = setting(8, origin="README; the notebooks have 4")
    alpha: float = setting(16, origin="ours: twice the rank; no scaling is stated")
    dropout: float = setting(0.0, origin="the notebooks have none")
    balance_loss: str = setting("cv_squared", origin="ours: the Switch form is constant under dense routing")
    balance_coefficient: float = setting(0.01, origin="ours; the notebooks write 0.05 and never add it to the loss")
    modules: "str | list[str]" = setting("feed_forward", origin="README")
    train_router: bool = setting(True, origin=TRAIN_ROUTER, later=True)

    def __post_init__(self):
        check_rank(self.r, self.alpha, self.dropout)
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, found {self.experts}")


def attach(model, settings, context):
    """Attach a dense mixture to each chosen linear."""
    from moelora.tuners import MixtureConfig

    config = MixtureConfig(
        r=settings.r,
        alpha=settings.alpha,
        dropout=settings.dropout,
        experts=settings.experts,
        router="dense",
        balance_loss=settings.balance_loss,
        balance_coefficient=settings.balance_coefficient,
        train_router=settings.train_router,
        target_modules=names(context.shapes.select(settings.modules)),
    )
    return attach_config(model, config, context)


def parameters(shapes, settings, context) -> Counts:
    """Return Σ E·r·(inputs + outputs) + E·inputs over the chosen linears, plus the head; all of it is active."""
    return mixture_counts(
        shapes.select(settings.modules),
        settings.r,
        settings.experts,
        None,
        context,
        train_router=settings.train_router,
    )


METHOD = Method(
    name="dense_moe_lora",
    title="Dense MoE LoRA",
    settings=Settings,
    abilities=Abilities(
        mergeable=False,
        merge_note="expert weights depend on the input",
        balance_loss=True,
        routed=True,
        mixture=True,
    ),
    attach=attach,
    parameters=parameters,
    one_expert={"experts": 1},
    reference="github.com/sami10644 (README; no paper found)",
)
