"""A linear layer with a mixture of LoRA experts; one expert is plain LoRA."""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn

from moelora.errors import MergeError
from moelora.ops import (
    Routed,
    gated_wide_lora,
    gated_wide_lora_linear,
    routed_lora,
    takes_router,
    wide_lora_delta,
)
from moelora.routers import RouterSettings, dense, top_k
from moelora.tuners.frozen import dropout_probability, is_plain
from moelora.tuners.layer import MoeloraLayer
from moelora.tuners.routing import Balance, RoutingContext


class MixtureLinear(nn.Module, MoeloraLayer):
    """y = W0 x + b + s * sum_e g_e(x) B_e A_e drop(x), the increments computed as one wide LoRA."""

    adapter_layer_names = ("moelora_A", "moelora_B", "moelora_router")
    other_param_names = (*MoeloraLayer.other_param_names, "shared_a")

    def __init__(self, base_layer: nn.Module, module_name: str, context: RoutingContext):
        super().__init__()
        self._start(base_layer, module_name, context)
        self.shared_a: dict[str, bool] = {}
        self.quantization_backend = resolve_quantization_backend(base_layer)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features

    def update_layer(
        self,
        adapter: str,
        config: Any,
        experts: int,
        router: RouterSettings,
        balance: Balance,
        inference_mode: bool,
        shared_a: bool = False,
    ) -> None:
        """Add an adapter of ``experts`` experts, or replace the one of that name."""
        self._set_adapter_numbers(adapter, config, experts, router, balance)
        self.shared_a[adapter] = shared_a
        self._add_factors(self.moelora_A, self.moelora_B, adapter, self.in_features, self.out_features, shared_a)
        if router.name != "none":
            self._add_router(self.moelora_router, adapter, self.in_features, config)
        self._finish_adapter(adapter, inference_mode)

    def is_routed(self, adapter: str) -> bool:
        """Say whether an adapter has a router here."""
        return adapter in self.moelora_router

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., O)."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        active = [] if self.merged else [name for name in self.active_adapters if name in self.moelora_A]
        if not active:
            return self.base_layer(x, *args, **kwargs)
        fused = not args and not kwargs and is_plain(self.base_layer, x)
        result = None if fused else self.base_layer(x, *args, **kwargs)
        if result is not None and self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        dtype = None if result is None else result.dtype
        for adapter in active:
            result = self._add_increment(result, x, adapter)
        return result if dtype is None else result.to(dtype)

    def _add_increment(self, result: Tensor | None, x: Tensor, adapter: str) -> Tensor:
        """Add an adapter's increment to ``result``; with None, compute the plain frozen layer along with it."""
        a, b = self.moelora_A[adapter], self.moelora_B[adapter]
        dropout, scaling = dropout_probability(self.moelora_dropout[adapter]), self.scaling[adapter]
        if result is None:
            own, frozen = x, {"weight": self.base_layer.weight, "bias": self.base_layer.bias}
        else:
            own, frozen = self._cast_input_dtype(x, a.dtype), {"base": result}
        weights = None
        if adapter in self.moelora_router:
            router, settings = self.moelora_router[adapter], self.router[adapter]
            if settings.is_plain(self.training) and takes_router(x, a, b, router):
                per_token = None if settings.name == "dense" else settings.experts_per_token
                routed = routed_lora(own, a, b, router, scaling, per_token, dropout=dropout, **frozen)
                self._report(adapter, routed, x.shape)
                return routed.output
            weights = self._route(x, adapter, router).weights
        elif self.shared_a[adapter]:
            weights = x.new_ones(self.experts[adapter]).expand(*x.shape[:-1], -1)  # the stack has one A only
        if result is None:
            return gated_wide_lora_linear(own, a=a, b=b, weights=weights, scaling=scaling, dropout=dropout, **frozen)
        return gated_wide_lora(result, own, a, b, weights, scaling, dropout)

    def _report(self, adapter: str, routed: Routed, shape: torch.Size) -> None:
        """Tell the model's context about a routing, if somebody may want to know."""
        context, balance = self.routing_context, self.balance[adapter]
        # Gradient checkpointing must find the same graph again, so what is in it never depends on who listens.
        in_graph = self.training and balance.active
        if in_graph or context.recording:
            logits, chosen = (routed.logits if in_graph else routed.logits.detach()).T, routed.chosen
            output = dense(logits) if chosen is None else top_k(logits, len(chosen), chosen.T)
            context.report(self.module_name, adapter, output, shape, self.training, balance)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return s * B A, (O, D), of an adapter without a router.

        Raises:
            MergeError: The adapter is routed here.
        """
        if self.is_routed(adapter):
            raise MergeError(
                f"adapter {adapter!r} weighs {self.experts[adapter]} experts by token in {self.module_name}, "
                "so no single weight equals it; keep it attached, or drop it with unload()"
            )
        a, b = self.moelora_A[adapter], self.moelora_B[adapter]
        if self.shared_a[adapter]:
            b = b.unflatten(-1, (self.experts[adapter], -1)).sum(dim=-2)
        return wide_lora_delta(a, b, self.scaling[adapter])

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the increments of unrouted adapters to the frozen weight.

        Raises:
            MergeError: An adapter is routed here; nothing has been changed then.
            ValueError: With ``safe_merge``, the merged weight is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.moelora_A]
        deltas = {name: self.get_delta_weight(name) for name in names}
        for name, delta in deltas.items():
            weight = self.get_base_weight()
            merged = weight + delta.to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"merging adapter {name!r} into {self.module_name} gives weights that are not finite")
            self.set_base_weight(merged)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged increments out of the frozen weight again."""
        if not self.merged:
            warnings.warn("nothing is merged, so there is nothing to unmerge", stacklevel=2)
            return
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_weight()
            self.set_base_weight(weight - self.get_delta_weight(name).to(weight.dtype))
