"""MixLoRA's feed-forward layers: whole experts around shared frozen weights, one router a block.

A gated block (Llama) is one wrapper, and so is a two-matrix block that is one module (Phi, GPT-NeoX). BERT calls
the halves of its block apart, hence two wrappers: the inner one returns its mixed hidden rows with the experts'
rank-R products and the sum of the token's weights appended on the last axis, (..., F + E * R + 1), and the outer one
takes them apart again. Nothing is kept between the two, so checkpointing, threads and hooks see ordinary modules.

The frozen bias of the last matrix counts as often as the token's weights sum to: once under top-k.
"""

from typing import Any

import torch
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn import functional

from moelora.errors import AdapterError, MergeError
from moelora.ops import Assignment, Frozen, LowRank, Settings, mix_experts, mixlora_gated, mixlora_two_matrix
from moelora.routers import top_k
from moelora.tuners.frozen import dropout_probability, frozen
from moelora.tuners.layer import MoeloraLayer
from moelora.tuners.routing import RoutingContext


class MixLoraLayer(nn.Module, MoeloraLayer):
    """What the three wrappers share.

    Attributes:
        chunk: Tokens worked on at a time, by adapter; None for the operators' default.
    """

    linear_name: str | None = None
    other_param_names = (*MoeloraLayer.other_param_names, "chunk")

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext):
        super().__init__()
        self._start(base_layer, module_name, context)
        self.chunk: dict[str, int | None] = {}

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

    def _set_experts(self, adapter: str, config: Any) -> None:
        """Keep the numbers of a block's experts and router."""
        router = config.router_settings(config.router, config.num_experts)
        self._set_adapter_numbers(adapter, config.experts_settings, config.num_experts, router, config.balance)
        self.chunk[adapter] = config.chunk

    def _assign(self, x: Tensor, adapter: str) -> Assignment:
        """Route the tokens of x, (..., D)."""
        experts = self.experts[adapter]
        if adapter not in self.moelora_router:
            routed = top_k(x.new_zeros(x[..., 0].numel(), 1, dtype=torch.float32), 1)
        else:
            routed = self._route(x, adapter, self.moelora_router[adapter])
        return Assignment(routed.chosen, routed.slot_weights, experts)

    def _normalised(self, adapter: str) -> bool:
        """Say whether a token's weights always sum to 1."""
        return self.router[adapter].name == "top_k" or adapter not in self.moelora_router

    def _factors(self, role: str, adapter: str) -> LowRank:
        return LowRank(getattr(self, f"moelora_{role}_A")[adapter], getattr(self, f"moelora_{role}_B")[adapter])

    def _settings(self, adapter: str, activation: Any) -> Settings:
        dropout = dropout_probability(self.moelora_dropout[adapter])
        return Settings(activation, self.scaling[adapter], dropout, self.chunk[adapter])


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


def _bias_excess(linear: nn.Module, weights: Tensor) -> Tensor | None:
    """Return what the frozen layer's bias counts too often, (T, O) to add, for weights (T, K)."""
    bias = getattr(linear, "bias", None)
    if bias is None:
        return None
    return (weights.sum(dim=-1, keepdim=True) - 1).to(bias.dtype) * bias


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

    def update_layer(self, adapter: str, config: Any, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_experts(adapter, config)
        base = self.get_base_layer()
        for role in ("gate", "up", "down"):
            first, second = getattr(self, f"moelora_{role}_A"), getattr(self, f"moelora_{role}_B")
            self._add_factors(first, second, adapter, *_width(getattr(base, self.names[role])))
        width = getattr(base, self.names["gate"]).in_features
        self._add_router(self.moelora_router, adapter, width, config)
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


class MixLoraTwoMatrix(MixLoraLayer):
    """A two-matrix block in one module: W2 act(W1 x) with experts on both matrices."""

    adapter_layer_names = (
        "moelora_inner_A", "moelora_inner_B", "moelora_outer_A", "moelora_outer_B", "moelora_router",
    )  # fmt: skip

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext, names: dict[str, str]):
        super().__init__(base_layer, module_name, context)
        self.names = names
        self.linear_name = names["outer"]

    def update_layer(self, adapter: str, config: Any, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_experts(adapter, config)
        base = self.get_base_layer()
        for role in ("inner", "outer"):
            first, second = getattr(self, f"moelora_{role}_A"), getattr(self, f"moelora_{role}_B")
            self._add_factors(first, second, adapter, *_width(getattr(base, self.names[role])))
        self._add_router(self.moelora_router, adapter, getattr(base, self.names["inner"]).in_features, config)
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., D)."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        base = self.get_base_layer()
        inner, outer = (getattr(base, self.names[role]) for role in ("inner", "outer"))
        return mixlora_two_matrix(
            x,
            frozen(inner, x),
            _frozen_last(outer, x),
            tuple(self._factors(role, adapter) for role in ("inner", "outer")),
            self._assign(x, adapter),
            self._settings(adapter, getattr(base, self.names["activation"])),
        )


class MixLoraInner(MixLoraLayer):
    """The inner half of BERT's block: act(W1 x) with experts, plus the outer half's rank-R products."""

    adapter_layer_names = ("moelora_inner_A", "moelora_inner_B", "moelora_outer_A", "moelora_router")

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext, names: dict[str, str]):
        super().__init__(base_layer, module_name, context)
        self.names = names
        self.linear_name = names["inner"]

    def update_layer(self, adapter: str, config: Any, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_experts(adapter, config)
        width, hidden = _width(self._linear())
        self._add_factors(self.moelora_inner_A, self.moelora_inner_B, adapter, width, hidden)
        # The outer half owns the matching B, so only the first of this pair is used.
        self._add_factors(self.moelora_outer_A, nn.ParameterDict(), adapter, hidden, 0)
        self._add_router(self.moelora_router, adapter, width, config)
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., F), or to (..., F + E * R + 1) with an active adapter."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        last_a = self.moelora_outer_A[adapter]
        assignment = self._assign(x, adapter)
        hidden, products = mix_experts(
            [self._linear()(x)],
            x,
            (self._factors("inner", adapter),),
            last_a,
            assignment,
            self._settings(adapter, getattr(self.get_base_layer(), self.names["activation"])),
        )
        dtype = torch.promote_types(hidden.dtype, products.dtype)
        if self._normalised(adapter):
            total = hidden.new_ones(hidden.shape[0], 1, dtype=dtype)
        else:
            total = assignment.weights.sum(dim=-1, keepdim=True).to(dtype)
        return torch.cat([hidden.to(dtype), products.to(dtype), total], dim=-1).view(*x.shape[:-1], -1)


class MixLoraOuter(MixLoraLayer):
    """The outer half of BERT's block: W2 of the mixed hidden rows plus B2 of the rank-R products."""

    adapter_layer_names = ("moelora_outer_B",)

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext):
        super().__init__(base_layer, module_name, context)
        self.quantization_backend = resolve_quantization_backend(base_layer)

    def update_layer(self, adapter: str, config: Any, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_experts(adapter, config)
        self._add_factors(nn.ParameterDict(), self.moelora_outer_B, adapter, *_width(self._linear()))
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., F + E * R + 1) from `MixLoraInner`, or (..., F) without an active adapter, to (..., O)."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        linear, b = self._linear(), self.moelora_outer_B[adapter]
        width = linear.in_features
        if x.shape[-1] != width + b.shape[-1] + 1:
            raise AdapterError(
                f"{self.module_name} got {x.shape[-1]} features, expected {width} + {b.shape[-1]} + 1 from the "
                "inner half of its block; name both halves in the config and keep their adapters together"
            )
        hidden, products, total = x[..., :width], x[..., width:-1], x[..., -1:]
        result = linear(_for_linear(hidden, linear), *args, **kwargs)
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        mixed = result + functional.linear(products.to(b.dtype) * self.scaling[adapter], b)
        if self.router[adapter].name != "top_k" and (excess := _bias_excess(linear, total)) is not None:
            mixed = mixed + excess
        return mixed.to(result.dtype)


BLOCK_LAYERS = {
    "gated": MixLoraFeedForward,
    "two_matrix": MixLoraInner,
    "two_matrix_block": MixLoraTwoMatrix,
}
