"""AdaLoRA: ΔW = (α/r)·B diag(E) A, whose triplets are pruned while training to where they matter; arXiv 2303.10512.

Faithful to: QingruZhang/AdaLoRA through PEFT: importance |p·∂L/∂p| smoothed twice (β 0.85), cubic schedule from
    ``init_r`` to ``target_r`` on average, orthogonality γ·mean ‖P Pᵀ − I‖ over all A and B (γ 0.1, the authors').
Differs from: their fixed numbers of steps: the warm-up and the final phase are shares of the run's steps, as runs here
    differ in length. The saved adapter keeps all ``init_r`` triplets, the pruned ones with E = 0, which is the same
    function.
"""

import dataclasses

from moelora.methods._common import attach_config, check_rank, count_linears, names
from moelora.methods._contract import Abilities, Counts, Hooks, Method, setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Ranks, alpha, dropout, where, and the schedule: shares of the steps, and steps between two prunings."""

    init_r: int = setting(12, origin="PEFT's default")
    target_r: int = setting(8, origin="PEFT's default")
    alpha: float = setting(16, origin="the authors' MNLI script")
    dropout: float = setting(0.0, origin="ours; the same for every method")
    modules: "str | list[str]" = "all"
    warmup_share: float = setting(0.1, origin="ours")
    final_share: float = setting(0.3, origin="ours")
    interval: int = setting(10, origin="ours; the authors' 100 is for longer runs")
    beta1: float = setting(0.85, origin="arXiv 2303.10512")
    beta2: float = setting(0.85, origin="arXiv 2303.10512")
    orthogonality: float = setting(0.1, origin="the authors' scripts; PEFT's default is 0.5")

    def __post_init__(self):
        check_rank(self.target_r, self.alpha, self.dropout)
        if self.init_r <= self.target_r:
            raise ValueError(f"init_r must be above target_r ({self.target_r}), found {self.init_r}")
        if min(self.warmup_share, self.final_share) < 0 or self.warmup_share + self.final_share >= 1:
            raise ValueError(
                f"warmup_share and final_share must not be negative and leave steps to prune in, found "
                f"{self.warmup_share} and {self.final_share}"
            )


def attach(model, settings, context):
    """Attach ``init_r`` triplets to each chosen linear."""
    from peft import AdaLoraConfig

    config = AdaLoraConfig(
        init_r=settings.init_r,
        target_r=settings.target_r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names(context.shapes.select(settings.modules)),
        deltaT=settings.interval,
        beta1=settings.beta1,
        beta2=settings.beta2,
        orth_reg_weight=settings.orthogonality,
        total_step=max(1, context.total_steps),  # the true number is set by the loop's first step
    )
    model = attach_config(model, config, context)
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:  # a count; PEFT makes it trainable when it casts an adapter on a half-precision base
            parameter.requires_grad_(False)
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return Σ init_r·(inputs + outputs + 1) over the chosen linears, plus the head: the triplets before pruning."""
    linears = shapes.select(settings.modules)
    attention, feed_forward = count_linears(linears, settings.init_r)
    attention += settings.init_r * sum(linear.part == "attention" for linear in linears)
    feed_forward += settings.init_r * sum(linear.part == "feed_forward" for linear in linears)
    experts, head = attention + feed_forward, shapes.head_parameters
    return Counts(experts=experts, attention=attention, feed_forward=feed_forward, head=head, active=experts + head)


def hooks(settings) -> Hooks:
    """Return the orthogonality term, the pruning after each step, and the importance that a killed run needs."""

    def orthogonality(model):
        import torch

        norms = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name):
                rows = parameter if ".lora_A." in name else parameter.T
                norms.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(rows.shape[0], device=rows.device)))
        return settings.orthogonality * torch.stack(norms).mean() if settings.orthogonality and norms else None

    def prune(model, step, total):
        tuner = model.base_model
        config = tuner.peft_config[tuner.trainable_adapter_name]
        config.total_step = total
        config.tinit, config.tfinal = int(settings.warmup_share * total), int(settings.final_share * total)
        if step >= total - config.tfinal and not tuner.rankallocator.exp_avg_ipt and not config.rank_pattern:
            return  # a run of a step or two has measured no importance
        tuner.update_and_allocate(step)
        if step == total:
            # Pruned triplets have E = 0. With a pattern PEFT would cut them off while saving, and a fresh model
            # of the same settings could not take the adapter.
            config.rank_pattern = None

    def state(model):
        tuner = model.base_model
        allocator = tuner.rankallocator
        return {
            "importance": dict(allocator.exp_avg_ipt),
            "uncertainty": dict(allocator.exp_avg_unc),
            "pattern": dict(tuner.peft_config[tuner.trainable_adapter_name].rank_pattern or {}),
        }

    def load_state(model, saved):
        tuner = model.base_model
        allocator = tuner.rankallocator
        allocator.exp_avg_ipt, allocator.exp_avg_unc = dict(saved["importance"]), dict(saved["uncertainty"])
        allocator.ipt = dict.fromkeys(saved["importance"])  # only its keys are looked at
        tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = saved["pattern"] or None

    def declare(model):
        kept = [int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name]
        return [f"AdaLoRA kept {sum(kept)} of {settings.init_r * len(kept)} triplets"]

    return Hooks(extra_loss=orthogonality, after_step=prune, state=state, load_state=load_state, declare=declare)


METHOD = Method(
    name="adalora",
    title="AdaLoRA",
    settings=Settings,
    abilities=Abilities(
        mergeable=True, several_adapters=False, several_note="PEFT trains one AdaLoRA adapter of a model only"
    ),
    attach=attach,
    parameters=parameters,
    hooks=hooks,
    reference="arXiv 2303.10512",
)
