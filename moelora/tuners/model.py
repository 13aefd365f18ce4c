"""The PEFT tuner models: which module gets which layer, and what holds for a model as a whole."""

from contextlib import contextmanager
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner, _maybe_include_all_linear_layers
from torch import nn

from moelora.errors import AdapterError, ConfigError, TargetModulesError
from moelora.routers import RouterSettings
from moelora.tuners import targets
from moelora.tuners.config import FEED_FORWARD_LAYOUTS, MixLoraConfig, MixtureConfig, MoeloraConfig
from moelora.tuners.dora_layer import DORA_BLOCK_LAYERS, DoraLinear
from moelora.tuners.layer import MoeloraLayer
from moelora.tuners.mixlora_layer import BLOCK_LAYERS, MixLoraOuter
from moelora.tuners.mixture_layer import MixtureLinear
from moelora.tuners.registration import PREFIX
from moelora.tuners.routing import NO_BALANCE, Balance, RoutingContext, contexts

# What transformers' models call the activation of a feed-forward block.
ACTIVATION_NAMES = ("act_fn", "activation_fn", "act", "activation", "intermediate_act_fn")


class MoeloraModel(BaseTuner):
    """What both tuners share: the routing context, clear errors, merging and unloading."""

    prefix = PREFIX
    tuner_layer_cls = MoeloraLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _pre_injection_hook(self, model: nn.Module, config: MoeloraConfig, adapter_name: str) -> None:
        # transformers' own add_adapter makes a tuner for every adapter: they share the first one's context.
        existing = contexts(model)
        self.routing_context = existing[0] if existing else RoutingContext()
        if not existing:
            model.register_forward_pre_hook(self.routing_context.open, with_kwargs=True)
            model.register_forward_hook(self.routing_context.close, always_call=True)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any):
        if kwargs.get("adapter_names") is not None:
            raise AdapterError(
                "adapter_names (another adapter for each row of a batch) is not supported by "
                f"{type(self).__name__}; run one adapter at a time with set_adapter()"
            )
        yield

    def _prepare_adapter_config(self, peft_config: MoeloraConfig, model_config: dict) -> MoeloraConfig:
        _maybe_include_all_linear_layers(peft_config, self.model)
        if isinstance(peft_config.target_modules, set):
            peft_config.target_modules = sorted(peft_config.target_modules)
        self._resolve_targets(peft_config, targets.base_modules(self.model), model_config)
        return peft_config

    def _resolve_targets(self, config: Any, modules: dict[str, nn.Module], model_config: dict) -> None:
        raise NotImplementedError

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's version copies ``weight`` from one to the other, which a feed-forward block does not
        # have. Our layers move their own parameters to the base layer's device.
        setattr(parent, child_name, new_module)

    def _check_mergeable(self, adapter_names: list[str] | None) -> None:
        """Refuse before anything has been changed."""
        names = self.active_adapters if adapter_names is None else adapter_names
        for module in self.model.modules():
            if isinstance(module, MixtureLinear):
                for name in names:
                    if module.is_routed(name):
                        module.get_delta_weight(name)
            elif isinstance(module, MoeloraLayer):
                module.merge(adapter_names=names)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge unrouted adapters into the base weights.

        Raises:
            MergeError: An adapter is routed somewhere; nothing has been changed then.
        """
        self._check_mergeable(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._check_mergeable(adapter_names)
        model = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        for hooks in (model._forward_pre_hooks, model._forward_hooks):
            for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
                del hooks[key]
        return model

    def _add_linear(
        self,
        config: MoeloraConfig,
        adapter: str,
        target: nn.Module,
        name: str,
        parent: nn.Module,
        key: str,
        *,
        experts: int,
        router: str,
        balance: Balance,
    ) -> None:
        layer = self._layer(MixtureLinear, target, name, parent, key, adapter)
        settings = RouterSettings("none") if router == "none" else config.router_settings(router, experts)
        shared_a = getattr(config, "shared_a", False)
        layer.update_layer(adapter, config, experts, settings, balance, config.inference_mode, shared_a)

    def _layer(
        self,
        layer_class: type,
        target: nn.Module,
        name: str,
        parent: nn.Module,
        key: str,
        adapter: str,
        *args: Any,
    ) -> Any:
        """Return the layer at a module, putting one there if need be."""
        if isinstance(target, layer_class):
            return target
        if isinstance(target, MoeloraLayer):
            raise AdapterError(
                f"{key} already is a {type(target).__name__} of another adapter; it cannot be a "
                f"{layer_class.__name__} too"
            )
        layer = layer_class(target, key, self.routing_context, *args)
        layer._active_adapter = self.active_adapters
        layer.train(target.training)
        self._replace_module(parent, name, layer, target)
        return layer


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), RoutingContext)


class MixtureModel(MoeloraModel):
    """PEFT tuner of `MixtureConfig`."""

    @staticmethod
    def _check_target_module_exists(peft_config: MixtureConfig, key: str) -> Any:
        if isinstance(peft_config.experts, dict):
            return peft_config.experts_of(key) > 0
        return BaseTuner._check_target_module_exists(peft_config, key)

    def _resolve_targets(self, config: MixtureConfig, modules: dict[str, nn.Module], model_config: dict) -> None:
        if isinstance(config.experts, dict):
            self._resolve_counts(config, modules)
            return
        if not config.target_modules:
            raise TargetModulesError(
                f"target_modules is empty; name linear modules or give counts in experts; {targets.describe(modules)}"
            )
        targets.resolve("target_modules", config.target_modules, modules, config, linear=True)

    def _resolve_counts(self, config: MixtureConfig, modules: dict[str, nn.Module]) -> None:
        unknown = sorted(set(config.experts) - set(modules))
        if unknown:
            raise TargetModulesError(
                f"experts gives counts for modules that do not exist: {unknown}; {targets.describe(modules)}"
            )
        wanted = sorted(name for name, count in config.experts.items() if count > 0)
        found = targets.resolve("experts", wanted, modules, config, linear=True)
        # A name is also an ending; here only full names are meant.
        if config.target_modules:
            matched = targets.resolve("target_modules", config.target_modules, modules, config, linear=True)
            without = sorted(set(matched) - set(config.experts))
            if without:
                raise TargetModulesError(
                    f"target_modules match {without}, for which experts gives no count; add them (0 leaves "
                    "a module alone) or leave target_modules out"
                )
        config.target_modules = [name for name in found if name in set(wanted)]

    def _create_and_replace(
        self,
        peft_config: MixtureConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        experts = peft_config.experts_of(current_key)
        self._add_linear(
            peft_config,
            adapter_name,
            target,
            target_name,
            parent,
            current_key,
            experts=experts,
            router=peft_config.router,
            balance=peft_config.balance,
        )


class MixLoraModel(MoeloraModel):
    """PEFT tuner of `MixLoraConfig`."""

    @staticmethod
    def _check_target_module_exists(peft_config: MixLoraConfig, key: str) -> Any:
        if key in peft_config.feed_forward_modules or key in (peft_config.output_modules or ()):
            return True
        return bool(peft_config.target_modules) and BaseTuner._check_target_module_exists(peft_config, key)

    def _resolve_targets(self, config: MixLoraConfig, modules: dict[str, nn.Module], model_config: dict) -> None:
        linears = []
        if config.target_modules:
            linears = targets.resolve("target_modules", config.target_modules, modules, config, linear=True)
        blocks = targets.resolve("feed_forward_modules", config.feed_forward_modules, modules, config, linear=False)
        self._find_activation(config, modules[blocks[0]])
        for name in blocks:
            self._check_block(config, name, modules[name])
        outputs = []
        if config.feed_forward_layout == "two_matrix":
            if model_config.get("chunk_size_feed_forward"):
                raise ConfigError(
                    "the model cuts its feed-forward input (chunk_size_feed_forward > 0), which hides "
                    "from the router which tokens are padding; set it to 0"
                )
            outputs = [self._output_of(block, config.output_modules, modules) for block in blocks]
        both = sorted(set(linears) & {*blocks, *outputs})
        if both:
            raise TargetModulesError(f"{both} are in target_modules and in the feed-forward block; keep one")
        targets.check_not_nested([*linears, *blocks, *outputs])
        # Full names from here on: an ending such as output.dense also means attention.output.dense.
        config.feed_forward_modules = sorted(blocks)
        config.output_modules = sorted(outputs) or None

    @staticmethod
    def _find_activation(config: MixLoraConfig, block: nn.Module) -> None:
        """Take the activation's name from the block where the config does not say it."""
        if (config.feed_forward_names or {}).get("activation") or hasattr(block, config.part_names["activation"]):
            return
        found = [name for name in ACTIVATION_NAMES if callable(getattr(block, name, None))]
        if found:
            config.feed_forward_names = {**(config.feed_forward_names or {}), "activation": found[0]}

    @staticmethod
    def _check_block(config: MixLoraConfig, name: str, block: nn.Module) -> None:
        for role, part in config.part_names.items():
            found = getattr(block, part, None)
            if found is None or (role != "activation" and not targets.is_linear(found)):
                raise TargetModulesError(
                    f"feed_forward_modules: {name} ({type(block).__name__}) has no {part!r} to be its "
                    f"{role}; correct feed_forward_modules, feed_forward_layout "
                    f"({', '.join(FEED_FORWARD_LAYOUTS)}) or feed_forward_names, which name a block's "
                    f"{', '.join(config.part_names)}"
                )

    @staticmethod
    def _output_of(block: str, patterns: list[str], modules: dict[str, nn.Module]) -> str:
        """Return the outer linear that belongs to an inner module: it lies under the same parent."""
        parent = block.rpartition(".")[0]
        candidates = {f"{parent}.{pattern}" for pattern in patterns}
        candidates |= {pattern for pattern in patterns if pattern.startswith(f"{parent}.")}
        found = sorted(name for name in candidates if name in modules)
        if len(found) != 1 or not targets.is_linear(modules[found[0]]):
            raise TargetModulesError(
                f"output_modules {patterns} name {found or 'no module'} for {block}; expected exactly "
                f"one linear module under {parent}; {targets.describe(modules)}"
            )
        return found[0]

    def _create_and_replace(
        self,
        peft_config: MixLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        place = (target, target_name, parent, current_key, adapter_name)
        names = peft_config.part_names
        if current_key in peft_config.feed_forward_modules:
            kinds = DORA_BLOCK_LAYERS if peft_config.dora else BLOCK_LAYERS
            layer = self._layer(kinds[peft_config.feed_forward_layout], *place, names)
        elif current_key in (peft_config.output_modules or ()):
            layer = self._layer(MixLoraOuter, *place)
        elif peft_config.dora:
            layer = self._layer(DoraLinear, *place)
        else:
            self._add_linear(
                peft_config,
                adapter_name,
                target,
                target_name,
                parent,
                current_key,
                experts=1,
                router="none",
                balance=NO_BALANCE,
            )
            return
        layer.update_layer(adapter_name, peft_config, peft_config.inference_mode)
