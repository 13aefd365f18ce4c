"""What all our layers share: how they hold experts and reach the model's routing context."""

import math
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from moelora.routers import RouterOutput, RouterSettings, route
from moelora.tuners.routing import Balance, RoutingContext


class MoeloraLayer(BaseTunerLayer):
    """Base of the layers: a frozen ``base_layer`` and, per adapter, stacked experts and a router.

    Attributes:
        module_name: Full name in the base model.
        routing_context: Shared with all layers of the model; told about every routing.
    """

    other_param_names = ("r", "scaling", "experts", "router", "balance", "factor_init", "moelora_dropout")

    def _start(self, base_layer: nn.Module, module_name: str, context: RoutingContext) -> None:
        """Set what a layer has before any adapter; call after `nn.Module.__init__`."""
        self.base_layer = base_layer
        self.module_name = module_name
        self.routing_context = context
        self._disable_adapters = False
        self.merged_adapters = []
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.experts: dict[str, int] = {}
        self.router: dict[str, RouterSettings] = {}
        self.balance: dict[str, Balance] = {}
        self.factor_init: dict[str, str] = {}
        self.moelora_dropout = nn.ModuleDict()
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())

    def _set_adapter_numbers(
        self, adapter: str, config: Any, experts: int, router: RouterSettings, balance: Balance
    ) -> None:
        """Keep an adapter's numbers; ``config`` gives rank, scaling, dropout and the factors' first values."""
        self.r[adapter] = config.r
        self.scaling[adapter] = config.scaling
        self.experts[adapter] = experts
        self.router[adapter] = router
        self.balance[adapter] = balance
        self.factor_init[adapter] = config.factor_init
        self.moelora_dropout[adapter] = (nn.Dropout(config.dropout) if config.dropout else nn.Identity()).train(
            self.training
        )

    def _add_factors(
        self, a: nn.ParameterDict, b: nn.ParameterDict, adapter: str, inner: int, outer: int, shared_a: bool = False
    ) -> None:
        """Add the stacked factors of an adapter's experts: a kaiming-uniform (sqrt 5) or gaussian, b zero."""
        width = self.experts[adapter] * self.r[adapter]
        first = torch.empty(self.r[adapter] if shared_a else width, inner)
        if self.factor_init[adapter] == "gaussian":
            nn.init.normal_(first, std=1 / self.r[adapter])
        else:
            # The fan-in is the input width whatever is stacked: each expert starts as a LoRA of its own.
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
        a[adapter] = nn.Parameter(first)
        b[adapter] = nn.Parameter(torch.zeros(outer, width))

    def _add_router(self, routers: nn.ParameterDict, adapter: str, width: int, config: Any) -> None:
        """Add a router unless there is nothing to choose from; PEFT keeps an untrained one frozen and saves it."""
        if self.experts[adapter] < 2:
            return
        weight = torch.empty(self.experts[adapter], width)
        if config.router_init == "normal":
            nn.init.normal_(weight, std=config.init_router_std)
        else:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        routers[adapter] = nn.Parameter(weight)
        # a new dict: PEFT's is shared by all layers
        others = {name: kept for name, kept in self.frozen_peft_weight_names.items() if name != adapter}
        self.frozen_peft_weight_names = others if config.train_router else {**others, adapter: ("moelora_router",)}

    def _finish_adapter(self, adapter: str, inference_mode: bool) -> None:
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _route(self, x: Tensor, adapter: str, weight: Tensor) -> RouterOutput:
        """Route the tokens of x, (..., D), and tell the model's context."""
        router, context = self.router[adapter], self.routing_context
        mask = context.mask_of(x.shape) if router.name == "switch" and router.capacity is not None else None
        output = route(x, weight, router, self.training, mask)
        context.report(self.module_name, adapter, output, x.shape, self.training, self.balance[adapter])
        return output

    def is_routed(self, adapter: str) -> bool:
        """Say whether an adapter's weights depend on the token here."""
        raise NotImplementedError
