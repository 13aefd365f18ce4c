"""Who is measured: PEFT's adapters, ours through their public tuners, the packages of `bench.rivals`."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench import rivals
from bench.workloads import FEED_FORWARD, Workload, share
from moelora.ops.triton import SWITCH

REFERENCE = "lora-peft"
TRAINING, INFERENCE, SENSITIVITY = "training", "inference", "sensitivity"
MODES = (TRAINING, INFERENCE, SENSITIVITY)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The adapters' numbers, the same for all variants of a comparison.

    Args:
        experts: Experts of a mixture.
        per_token: Experts per token of those that choose.
        rank: Rank of a LoRA or an expert.
        dropout: On the increments' input, in training.
        adapters_in_float32: As PEFT does by default for half-precision models; else in the frozen weights' dtype.
    """

    experts: int = 8
    per_token: int = 2
    rank: int = 8
    dropout: float = 0.0
    adapters_in_float32: bool = True

    @property
    def alpha(self) -> int:
        """2 R, so that increments are scaled by 2."""
        return 2 * self.rank


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a table.

    Args:
        title: What tables call it.
        build: From a model of shared frozen weights to the model with adapters and their parameters.
        modes: What it can be measured at.
        package: A package that it needs beyond the project's own.
        peer: The variant of ours that computes the same.
        device: The only device that it runs on, "cuda"; None for any.
    """

    title: str
    build: Callable[[nn.Module, Workload, Settings], tuple[Any, list[torch.Tensor]]]
    modes: tuple[str, ...] = (TRAINING,)
    package: str | None = None
    peer: str | None = None
    device: str | None = None


class WithKernels(nn.Module):
    """A model that computes with the Triton kernels while others in this process do not."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with the switch on."""
        before = os.environ.get(SWITCH)
        os.environ[SWITCH] = "1"  # read in the forward pass alone
        try:
            return self.model(*args, **kwargs)
        finally:
            if before is None:
                del os.environ[SWITCH]
            else:
                os.environ[SWITCH] = before


def _with_peft(
    config_of: Callable[[Workload, Settings], Any],
) -> Callable[[nn.Module, Workload, Settings], tuple[Any, list[torch.Tensor]]]:
    def build(model: nn.Module, workload: Workload, settings: Settings) -> tuple[Any, list[torch.Tensor]]:
        from peft import get_peft_model

        config = config_of(workload, settings)
        adapted = get_peft_model(model, config, autocast_adapter_dtype=settings.adapters_in_float32)
        return adapted, [p for p in adapted.parameters() if p.requires_grad]

    return build


def _base(model: nn.Module, workload: Workload, settings: Settings) -> tuple[Any, list[torch.Tensor]]:
    return model, []


def _peft(workload: Workload, settings: Settings, dora: bool = False) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=workload.targets,
        use_dora=dora,
    )


def _mixture(workload: Workload, settings: Settings, targets: list[str] | None = None, **chosen: Any) -> Any:
    from moelora.tuners import MixtureConfig

    targets = workload.targets if targets is None else targets
    numbers = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout}
    return MixtureConfig(target_modules=targets, **numbers, **chosen)


def _mixlora(workload: Workload, settings: Settings, dora: bool = False) -> Any:
    from moelora.tuners import MixLoraConfig

    return MixLoraConfig(
        r=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        num_experts=settings.experts,
        experts_per_token=min(settings.per_token, settings.experts),
        target_modules=workload.attention or None,
        feed_forward_modules=["mlp"],
        dora=dora,
    )


def _dora(model: nn.Module, workload: Workload, settings: Settings) -> tuple[Any, list[torch.Tensor]]:
    """Attach PEFT's DoRA and let our operator compute its layers."""
    from moelora.tuners import fuse

    adapted, parameters = _with_peft(lambda w, s: _peft(w, s, dora=True))(model, workload, settings)
    fuse(adapted)
    return adapted, parameters


def _mixlora_by_kernels(model: nn.Module, workload: Workload, settings: Settings) -> tuple[Any, list[torch.Tensor]]:
    adapted, parameters = _with_peft(_mixlora)(model, workload, settings)
    return WithKernels(adapted), parameters


def _top_k(workload: Workload, settings: Settings) -> Any:
    per_token = min(settings.per_token, settings.experts)
    return _mixture(workload, settings, experts=settings.experts, router="top_k", experts_per_token=per_token)


def _dense(workload: Workload, settings: Settings) -> Any:
    return _mixture(workload, settings, list(FEED_FORWARD), experts=settings.experts, router="dense")


def _low_rank_dora(model: nn.Module, workload: Workload, settings: Settings) -> tuple[Any, list[torch.Tensor]]:
    """Do the same with dropout on the low-rank path only."""
    from moelora.tuners import drop_low_rank_only

    adapted, parameters = _dora(model, workload, settings)
    drop_low_rank_only(adapted)
    return adapted, parameters


BOTH = (TRAINING, INFERENCE)
VARIANTS = {
    "base": Variant("frozen base", _base, BOTH),
    REFERENCE: Variant("LoRA (PEFT)", _with_peft(_peft), BOTH, peer="lora"),
    "lora": Variant("LoRA", _with_peft(lambda w, s: _mixture(w, s, experts=1)), BOTH),
    "dora-peft": Variant("DoRA (PEFT)", _with_peft(lambda w, s: _peft(w, s, dora=True)), peer="dora"),
    "dora": Variant("DoRA (our operator in PEFT's layers)", _dora),
    "dora-low-rank-dropout": Variant("DoRA, dropout on the low-rank path", _low_rank_dora),
    "dense": Variant("dense mixture on the feed-forward", _with_peft(_dense)),
    "loramoe-moe-peft": Variant("LoRAMoE (moe-peft)", rivals.loramoe, package="moe_peft", peer="dense"),
    "top-k": Variant("top-k mixture on all linears", _with_peft(_top_k)),
    "mola-moe-peft": Variant("MoLA (moe-peft)", rivals.mola, package="moe_peft", peer="top-k"),
    "mixlora": Variant("MixLoRA", _with_peft(_mixlora), BOTH),
    "mixlora-triton": Variant("MixLoRA (Triton kernels)", _mixlora_by_kernels, BOTH, peer="mixlora", device="cuda"),
    "mixlora-moe-peft": Variant("MixLoRA (moe-peft)", rivals.mixlora, BOTH, "moe_peft", "mixlora"),
    "mixlora-package": Variant("MixLoRA (mixlora)", rivals.mixlora_package, (INFERENCE,), "mixlora", "mixlora"),
    "mixdora": Variant("MixDoRA", _with_peft(lambda w, s: _mixlora(w, s, dora=True))),
}


def build(name: str, base: nn.Module, workload: Workload, settings: Settings, training: bool) -> tuple[Any, list]:
    """Return a variant's model around the shared weights and its trainable tensors.

    All trainable tensors are moved off their first values, so that no product is with zeros.

    Raises:
        NotInstalledError: The package that it needs cannot be imported.
    """
    variant = VARIANTS[name]
    rivals.check_installed(variant.package)
    torch.manual_seed(1)
    if not training:
        settings = dataclasses.replace(settings, dropout=0.0)
    model, parameters = variant.build(share(base), workload, settings)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.train(training)
    return model, parameters
