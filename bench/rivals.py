"""The public packages' own layers, put into the same frozen model in the place of its linear layers.

Only their adapter layers are theirs: attention, norms and loss are those of every other variant. Where a rate of
dropout is 0, which they refuse, their dropout module is replaced by an identity, so they do not pay for a mask.
Their adapters sit in plain dicts that no ``.parameters()`` finds; the tensors are handed out here.
"""

import importlib.metadata
import importlib.util
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.workloads import FEED_FORWARD, Workload

INSTALL = "pip install --no-deps -r bench/requirements.txt"
_ADAPTER = "m"
_REFUSED = 0.5  # stands for a rate of 0 until the dropout modules are replaced


class NotInstalledError(Exception):
    """A package that a variant needs cannot be imported."""


def is_there(package: str) -> bool:
    """Say whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def check_installed(package: str | None) -> None:
    """Refuse where the package is missing.

    Raises:
        NotInstalledError: It cannot be imported.
    """
    if package is not None and not is_there(package):
        raise NotInstalledError(f"{package.replace('_', '-')} is not installed: {INSTALL}")


def versions() -> dict[str, str]:
    """Return the versions of the packages, "absent" for those that are not there."""
    found = {}
    for name in ("moe-peft", "mixlora"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


class _Linear(nn.Module):
    """moe-peft's linear layer, called as a model calls a linear layer."""

    def __init__(self, linear: Any, arguments: Any):
        super().__init__()
        self.linear, self.arguments = linear, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.linear.forward(x, self.arguments)


class _Block(nn.Module):
    """moe-peft's feed-forward block, called as a model calls its own."""

    def __init__(self, block: Any, arguments: Any):
        super().__init__()
        self.block, self.arguments = block, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.block.forward(x, self.arguments)[0]


def _config(workload: Workload, settings: Any, kind: str, **chosen: Any) -> Any:
    from moe_peft.adapters import lora_config_factory

    return lora_config_factory(
        {
            "peft_type": kind,
            "name": _ADAPTER,
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout or _REFUSED,
            "target_modules": workload.targets,
            "num_experts": settings.experts,
            **chosen,
        }
    )


def _arguments(workload: Workload, efficient: bool) -> Any:
    from moe_peft.common import LLMBatchConfig, LLMModelInput

    return LLMModelInput(batch_configs_=[LLMBatchConfig(_ADAPTER, 0, workload.batch)], efficient_operator_=efficient)


def _feed_forwards(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return each feed-forward block with the module that holds it as ``mlp``."""
    return [(module, module.mlp) for module in model.modules() if hasattr(module, "mlp")]


def _finish(linears: list[Any], settings: Any) -> list[Tensor]:
    """Return the tensors of all LoRAs of moe-peft's linear layers; take dropout out where it is 0."""
    found = []
    for lora in (lora for linear in linears for lora in linear.loras_.values()):
        if not settings.dropout:
            lora.dropout_ = nn.Identity()
        found += [lora.lora_a_.weight, lora.lora_b_.weight]
    return found


def _mixtures(model: nn.Module, workload: Workload, settings: Any, names: list[str], kind: str, **chosen: Any) -> tuple:
    """Give each named linear layer a mixture of moe-peft's."""
    from moe_peft.adapters import moe_layer_factory
    from moe_peft.common import Linear

    config = _config(workload, settings, kind, **chosen)
    arguments = _arguments(workload, efficient=True)
    linears, routers = [], []
    for parent in list(model.modules()):
        for name in [name for name in names if isinstance(getattr(parent, name, None), nn.Linear)]:
            linear = Linear(getattr(parent, name), workload.device)
            mixture = moe_layer_factory(linear.in_features_, torch.device(workload.device), config)
            linear.moes_[_ADAPTER] = mixture
            for expert in range(settings.experts):
                linear.init_lora_weight(config.expert_config(expert))
            setattr(parent, name, _Linear(linear, arguments))
            linears.append(linear)
            routers.append(mixture.gate_.weight)
    return model, [*_finish(linears, settings), *routers]


def mola(model: nn.Module, workload: Workload, settings: Any) -> tuple[nn.Module, list[Tensor]]:
    """Put moe-peft's MoLA on all linears."""
    top_k = min(settings.per_token, settings.experts)
    return _mixtures(model, workload, settings, workload.targets, "MOLA", top_k=top_k)


def loramoe(model: nn.Module, workload: Workload, settings: Any) -> tuple[nn.Module, list[Tensor]]:
    """Put moe-peft's LoRAMoE on the feed-forward's linears."""
    return _mixtures(model, workload, settings, list(FEED_FORWARD), "LORAMOE")


def mixlora(model: nn.Module, workload: Workload, settings: Any) -> tuple[nn.Module, list[Tensor]]:
    """Put moe-peft's MixLoRA in the feed-forward blocks, and its LoRA on the attention."""
    from moe_peft.adapters import moe_layer_factory
    from moe_peft.common import FeedForward, Linear
    from moe_peft.models.modeling_llama import LlamaMLP

    top_k = min(settings.per_token, settings.experts)
    config = _config(workload, settings, "MIXLORA", routing_strategy="mixlora", top_k=top_k, act_fn="silu")
    linears, routers = [], []
    for parent, block in _feed_forwards(model):
        arguments = SimpleNamespace(device_=workload.device, hidden_act_="silu")
        theirs = LlamaMLP(block.gate_proj, block.down_proj, block.up_proj, arguments)
        mixture = moe_layer_factory(workload.hidden, torch.device(workload.device), config)
        for linear in theirs.state_dict().values():
            for expert in range(settings.experts):
                linear.init_lora_weight(config.expert_config(expert))
            linears.append(linear)
        whole = FeedForward(theirs)
        whole.moes_[_ADAPTER] = mixture
        routers.append(mixture.gate_.weight)
        parent.mlp = _Block(whole, _arguments(workload, efficient=True))
    # Their fused LoRA function always draws a mask; without dropout their other path is the cheaper one.
    arguments = _arguments(workload, efficient=settings.dropout > 0)
    for parent in list(model.modules()):
        for name in [name for name in workload.attention if isinstance(getattr(parent, name, None), nn.Linear)]:
            linear = Linear(getattr(parent, name), workload.device)
            linear.init_lora_weight(config, adapter_name=_ADAPTER)
            setattr(parent, name, _Linear(linear, arguments))
            linears.append(linear)
    return model, [*_finish(linears, settings), *routers]


def mixlora_package(model: nn.Module, workload: Workload, settings: Any) -> tuple[nn.Module, list[Tensor]]:
    """Inject an adapter of the package ``mixlora`` with random weights: for inference only."""
    from mixlora.config import MixLoraConfig
    from mixlora.lora_linear import LoraLinear
    from mixlora.model import MixLoraSparseMoe

    config = MixLoraConfig.from_config(
        {
            "peft_type": "MIXLORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "none",
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": _REFUSED,
            "target_modules": workload.targets,
            "num_experts": settings.experts,
            "routing_strategy": "mixlora",
            "top_k": min(settings.per_token, settings.experts),
            "act_fn": "silu",
        }
    ).check()
    config.dtype_, config.model_type_ = workload.torch_dtype, "llama"
    found: list[Tensor] = []

    def lora(base: nn.Module) -> Any:
        one = LoraLinear(base, config)
        one.dropout_ = nn.Identity()  # it would stay on: ``.eval()`` does not reach it
        found.extend([one.lora_A.weight, one.lora_B.weight])
        return one

    for _, block in _feed_forwards(model):
        mixture = MixLoraSparseMoe(block, config)
        mixture.gate_ = torch.randn(settings.experts, workload.hidden, device=workload.device).to(config.dtype_) * 0.02
        for name in FEED_FORWARD:
            for expert in range(settings.experts):
                mixture.experts_[f"experts.{expert}.{name}"] = lora(getattr(block, name))
        block.forward = mixture.forward
    for parent in list(model.modules()):
        for name in [name for name in workload.attention if isinstance(getattr(parent, name, None), nn.Linear)]:
            setattr(parent, name, lora(getattr(parent, name)))
    return model, found
