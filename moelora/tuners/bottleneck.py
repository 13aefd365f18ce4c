"""A mixture of low-rank experts in place of what an attention block hands on: the Dense MoE LoRA notebooks.

With a the block's output (its LayerNorm included), D wide: m = Σ_e g_e B_e A_e a, and m, not a + m, is what the
feed-forward and its residual get. There is no frozen path around the mixture, so all that a layer passes on lies in at
most E * R dimensions. Nothing is scaled and nothing is dropped out.
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from moelora.errors import AdapterError, ConfigError, MergeError, TargetModulesError
from moelora.ops import gated_wide_lora
from moelora.routers import RouterOutput, dense, router_logits
from moelora.tuners import targets
from moelora.tuners.config import MoeloraConfig
from moelora.tuners.layer import MoeloraLayer
from moelora.tuners.model import NO_BALANCE, MoeloraModel
from moelora.tuners.registration import BOTTLENECK
from moelora.tuners.routing import RoutingContext

EXAMPLE = "['encoder.layer.11.attention']"


@dataclass
class BottleneckConfig(PeftConfig):
    """Experts in place of the output of attention blocks.

    Args:
        r: Rank R of every expert.
        num_experts: Experts E of every block; one has no router.
        sorted_weights: Whether expert e is weighted with the e-th largest probability, as the notebooks do by
            mistake, or with its own.
        target_modules: Attention blocks of a BERT-like encoder: full names or name endings, or one regular expression.
        exclude_modules: Modules to leave out although a target matches them.
        modules_to_save: Modules trained in full and saved with the adapter, such as a new head.
    """

    r: int = field(default=4)
    num_experts: int = field(default=8)
    sorted_weights: bool = field(default=True)
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = BOTTLENECK
        for name in ("r", "num_experts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected an integer of at least 1")
        if not isinstance(self.sorted_weights, bool):
            raise ConfigError(f"sorted_weights is {self.sorted_weights!r}; expected true or false")

    to_dict = MoeloraConfig.to_dict  # with names sorted


class BottleneckAttention(nn.Module, MoeloraLayer):
    """An attention block whose output is replaced by the mixture of its low-rank images."""

    adapter_layer_names = ("moelora_A", "moelora_B", "moelora_router")
    other_param_names = ("r", "experts", "sorted_weights")

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext):
        super().__init__()
        self._start(base_layer, module_name, context)
        self.sorted_weights: dict[str, bool] = {}
        self.width = base_layer.output.dense.out_features

    def update_layer(self, adapter: str, config: BottleneckConfig, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self.r[adapter], self.experts[adapter] = config.r, config.num_experts
        self.sorted_weights[adapter] = config.sorted_weights
        stacked = config.num_experts * config.r
        # Xavier-uniform of each expert's own (R, D) and (D, R), not of the stack.
        bound = sqrt(6 / (config.r + self.width))
        self.moelora_A[adapter] = nn.Parameter(torch.empty(stacked, self.width).uniform_(-bound, bound))
        self.moelora_B[adapter] = nn.Parameter(torch.empty(self.width, stacked).uniform_(-bound, bound))
        if config.num_experts > 1:
            router = nn.Parameter(torch.empty(config.num_experts, self.width))
            nn.init.xavier_uniform_(router)
            self.moelora_router[adapter] = router
        self._finish_adapter(adapter, inference_mode)

    def is_routed(self, adapter: str) -> bool:
        """Say whether an adapter has several experts here."""
        return adapter in self.moelora_router

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the frozen block and replace its output (..., D); what else it returns (attention weights) is kept."""
        result = self.base_layer(*args, **kwargs)
        active = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.moelora_A]
        if not active:
            return result
        if len(active) > 1:
            raise AdapterError(
                f"adapters {active} are active together, but the output of {self.module_name} can be replaced only "
                "once; activate one with set_adapter()"
            )
        if isinstance(result, tuple):
            return (self._mix(result[0], active[0]), *result[1:])
        return self._mix(result, active[0])

    def _mix(self, attended: Tensor, adapter: str) -> Tensor:
        """Map (..., D) to (..., D)."""
        a, b = self.moelora_A[adapter], self.moelora_B[adapter]
        weights = None
        if self.is_routed(adapter):
            weights = self._weigh(attended, adapter).weights.view(*attended.shape[:-1], -1)
        nothing = attended.new_zeros(*attended.shape[:-1], b.shape[0], dtype=b.dtype)  # no frozen output to add to
        return gated_wide_lora(nothing, self._cast_input_dtype(attended, a.dtype), a, b, weights, 1.0).to(
            attended.dtype
        )

    def _weigh(self, attended: Tensor, adapter: str) -> RouterOutput:
        """Route the tokens and tell the model's context what the experts are really multiplied by.

        The e-th largest probability is the e-th entry of the softmax over sorted logits, so the notebooks' mistake
        is dense routing on sorted logits.
        """
        logits = router_logits(attended, self.moelora_router[adapter]).flatten(0, -2)
        if self.sorted_weights[adapter]:
            logits = logits.sort(dim=-1, descending=True, stable=True).values
        output = dense(logits)
        self.routing_context.report(self.module_name, adapter, output, attended.shape, self.training, NO_BALANCE)
        return output

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module):
        # An attention block has no weight of its own; its experts follow its output linear.
        return super()._get_base_layer_device_and_dtype(self.get_base_layer().output.dense)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: what replaces a block's output cannot be merged into a frozen weight.

        Raises:
            MergeError: Always, when an adapter of this layer is asked for.
        """
        for name in self.active_adapters if adapter_names is None else adapter_names:
            if name in self.moelora_A:
                raise MergeError(
                    f"adapter {name!r} replaces the output of {self.module_name} behind its LayerNorm by a mixture "
                    "that depends on the token, so no single weight equals it; keep it attached, or drop it with "
                    "unload()"
                )

    def unmerge(self) -> None:
        """Do nothing: nothing was ever merged here."""


class BottleneckModel(MoeloraModel):
    """PEFT tuner of `BottleneckConfig`."""

    def _resolve_targets(self, config: BottleneckConfig, modules: dict[str, nn.Module], model_config: dict) -> None:
        if not config.target_modules:
            raise TargetModulesError(f"target_modules is empty; name attention blocks, such as {EXAMPLE}")
        found = targets.resolve("target_modules", config.target_modules, modules, config, linear=False)
        targets.check_not_nested(found)
        for name in found:
            _check_block(name, modules)
        config.target_modules = found

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = self._layer(BottleneckAttention, target, target_name, parent, current_key, adapter_name)
        layer.update_layer(adapter_name, peft_config, peft_config.inference_mode)


def _check_block(name: str, modules: dict[str, nn.Module]) -> None:
    """Refuse a module that is no attention block with its LayerNorm in front of a feed-forward.

    Raises:
        ConfigError: The module is laid out otherwise.
    """
    parent = name.rpartition(".")[0]
    needed = (f"{name}.output.dense", f"{name}.output.LayerNorm", f"{parent}.intermediate", f"{parent}.output")
    missing = [part for part in needed if part not in modules]
    if missing:
        raise ConfigError(
            f"{name} ({type(modules[name]).__name__}) cannot be followed by a bottleneck of experts: the notebooks "
            "replace the output of a BERT-like attention block, behind its residual and LayerNorm, which is all that "
            f"the feed-forward sees; here {missing} are missing. In a Llama-like decoder the residual stream bypasses "
            f"the attention block, so there is no such output to replace; use an encoder and blocks such as {EXAMPLE}"
        )
