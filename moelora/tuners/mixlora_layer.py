"""MixLoRA's feed-forward layers: whole experts around shared frozen weights, one router a block.

A gated block (Llama) is one wrapper. A two-matrix block (BERT) is two wrappers, because the model
calls its halves apart: the inner one returns its mixed hidden rows with the experts' rank-R products
appended on the last axis, (..., F + E * R), and the outer one takes them apart again. Nothing is kept
between the two, so checkpointing, threads and hooks see ordinary modules.
"""

from typing import Any

import torch
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn import functional

from moelora.errors import AdapterError, MergeError
from moelora.ops import Assignment, Frozen, LowRank, Settings, mix_experts, mixlora_gated
from moelora.routers import top_k
from moelora.tuners.frozen import dropout_probability, frozen
from moelora.tuners.layer import MoeloraLayer
from moelora.tuners.routing import Balance, RoutingContext


class MixLoraLayer(nn.Module, MoeloraLayer):
    """What the three wrappers share."""

    linear_name: str | None = None

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext):
        super().__init__()
        self._start(base_layer, module_name, context)

    def is_routed(self, adapter: str) -> bool:
        """Say whether the adapter has several experts here."""
        return self.experts.get(adapter, 1) > 1

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: a feed-forward block of experts has no merged form.

        Raises:
            MergeError: Always, when an adapter of this layer is asked for.
        """
        names = self.active_adapters if adapter_names is None else adapter_names
        for name in names:
            if name in self.experts:
                raise MergeError(
                    f"adapter {name!r} sends each token of {self.module_name} through its own choice of "
                    f"{self.experts[name]} feed-forward experts, so no single weight equals it; keep it "
                    "attached, or drop it with unload()"
                )

    def unmerge(self) -> None:
        """Do nothing: nothing was ever merged here."""

    def _active(self) -> str | None:
        """Return the one adapter to apply, or None for the frozen block."""
        if self.disable_adapters:
            return None
        active = [name for name in self.active_adapters if name in self.experts]
        if len(active) > 1:
            raise AdapterError(
                f"adapters {active} are active together, but a feed-forward block takes one set of experts; "
                "activate one with set_adapter()"
            )
        return active[0] if active else None

    def _linear(self) -> nn.Module:
        """Return the frozen linear whose device and dtype the experts follow."""
        base = self.get_base_layer()
        return getattr(base, self.linear_name) if self.linear_name else base

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module):
        # A whole block has no weight of its own, so PEFT would leave its adapter where it was made.
        return super()._get_base_layer_device_and_dtype(self._linear())

    def _assign(self, x: Tensor, adapter: str) -> Assignment:
        """Route the tokens of x, (..., D)."""
        experts = self.experts[adapter]
        if adapter in self.moelora_router:
            routed = self._route(x, adapter, self.moelora_router[adapter], "top_k")
        else:
            routed = top_k(x.new_zeros(x[..., 0].numel(), 1, dtype=torch.float32), 1)
        return Assignment(routed.chosen, routed.slot_weights, experts)

    def _factors(self, role: str, adapter: str) -> LowRank:
        return LowRank(getattr(self, f"moelora_{role}_A")[adapter], getattr(self, f"moelora_{role}_B")[adapter])

    def _settings(self, adapter: str, activation: Any) -> Settings:
        return Settings(activation, self.scaling[adapter], dropout_probability(self.moelora_dropout[adapter]))


def _for_linear(hidden: Tensor, linear: nn.Module) -> Tensor:
    """Return hidden in the dtype the frozen linear takes; autocast and quantised layers cast themselves."""
    weight = linear.weight
    if torch.is_autocast_enabled(hidden.device.type) or not weight.dtype.is_floating_point:
        return hidden
    return hidden.to(weight.dtype)


def _frozen_last(linear: nn.Module, x: Tensor) -> Frozen:
    """Return the block's last frozen layer, called on hidden rows in the dtype that it takes."""
    last = frozen(linear, x)
    return last if last.module is None else Frozen(None, last.bias, lambda rows: linear(_for_linear(rows, linear)))


def _width(linear: nn.Module) -> tuple[int, int]:
    return linear.in_features, linear.out_features


class MixLoraFeedForward(MixLoraLayer):
    """A gated block: W2 (act(W1 x) * W3 x) with experts on all three matrices."""

    adapter_layer_names = (
        "moelora_gate_A", "moelora_gate_B", "moelora_up_A", "moelora_up_B",
        "moelora_down_A", "moelora_down_B", "moelora_router",
    )  # fmt: skip

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext, names: dict[str, str]):
        super().__init__(base_layer, module_name, context)
        self.names = names
        self.linear_name = names["down"]

    def update_layer(self, adapter: str, config: Any, balance: Balance, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_adapter_numbers(adapter, config, config.num_experts, balance)
        base = self.get_base_layer()
        for role in ("gate", "up", "down"):
            first, second = getattr(self, f"moelora_{role}_A"), getattr(self, f"moelora_{role}_B")
            self._add_factors(first, second, adapter, *_width(getattr(base, self.names[role])))
        width = getattr(base, self.names["gate"]).in_features
        self._add_router(self.moelora_router, adapter, width, config.init_router_std)
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., D)."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        base = self.get_base_layer()
        gate, up, down = (getattr(base, self.names[role]) for role in ("gate", "up", "down"))
        return mixlora_gated(
            x,
            frozen(gate, x),
            frozen(up, x),
            _frozen_last(down, x),
            tuple(self._factors(role, adapter) for role in ("gate", "up", "down")),
            self._assign(x, adapter),
            self._settings(adapter, getattr(base, self.names["activation"])),
        )


class MixLoraInner(MixLoraLayer):
    """The inner half of a two-matrix block: act(W1 x) with experts, plus the outer half's rank-R products."""

    adapter_layer_names = ("moelora_inner_A", "moelora_inner_B", "moelora_outer_A", "moelora_router")

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext, names: dict[str, str]):
        super().__init__(base_layer, module_name, context)
        self.names = names
        self.linear_name = names["inner"]

    def update_layer(self, adapter: str, config: Any, balance: Balance, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_adapter_numbers(adapter, config, config.num_experts, balance)
        width, hidden = _width(self._linear())
        self._add_factors(self.moelora_inner_A, self.moelora_inner_B, adapter, width, hidden)
        # The outer half owns the matching B, so only the first of this pair is used.
        self._add_factors(self.moelora_outer_A, nn.ParameterDict(), adapter, hidden, 0)
        self._add_router(self.moelora_router, adapter, width, config.init_router_std)
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., F), or to (..., F + E * R) with an active adapter."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        last_a = self.moelora_outer_A[adapter]
        hidden, products = mix_experts(
            [self._linear()(x)],
            x,
            (self._factors("inner", adapter),),
            last_a,
            self._assign(x, adapter),
            self._settings(adapter, getattr(self.get_base_layer(), self.names["activation"])),
        )
        dtype = torch.promote_types(hidden.dtype, products.dtype)
        return torch.cat([hidden.to(dtype), products.to(dtype)], dim=-1).view(*x.shape[:-1], -1)


class MixLoraOuter(MixLoraLayer):
    """The outer half of a two-matrix block: W2 of the mixed hidden rows plus B2 of the rank-R products."""

    adapter_layer_names = ("moelora_outer_B",)

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext):
        super().__init__(base_layer, module_name, context)
        self.quantization_backend = resolve_quantization_backend(base_layer)

    def update_layer(self, adapter: str, config: Any, balance: Balance, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_adapter_numbers(adapter, config, config.num_experts, balance)
        self._add_factors(nn.ParameterDict(), self.moelora_outer_B, adapter, *_width(self._linear()))
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., F + E * R) from `MixLoraInner`, or (..., F) without an active adapter, to (..., O)."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        linear, b = self._linear(), self.moelora_outer_B[adapter]
        width = linear.in_features
        if x.shape[-1] != width + b.shape[-1]:
            raise AdapterError(
                f"{self.module_name} got {x.shape[-1]} features, expected {width} + {b.shape[-1]} from the "
                "inner half of its block; name both halves in the config and keep their adapters together"
            )
        hidden, products = x[..., :width], x[..., width:]
        result = linear(_for_linear(hidden, linear), *args, **kwargs)
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        increment = functional.linear(products.to(b.dtype) * self.scaling[adapter], b)
        return (result + increment).to(result.dtype)
