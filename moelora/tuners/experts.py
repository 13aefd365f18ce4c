"""The experts of a model as plain tensors, whatever layer holds them."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from moelora.tuners.layer import MoeloraLayer

_FACTOR = re.compile(r"moelora_(?:(?P<role>\w+)_)?(?P<letter>[AB])")


def expert_factors(model: torch.nn.Module) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Yield (module name, role, a, b) of the active adapters: increments are s * b[e] @ a[e].

    ``a`` is (E, R, D) and ``b`` (E, O, R); they are views of the parameters, not copies. A factor that the experts
    share appears E times in its view. The role is empty for a linear of its own; in a feed-forward block it is the
    matrix (gate, up, down, inner, outer). Where a block keeps the two factors of one role in two modules, the name is
    that of the module with ``a``, which has the router. Modules with one expert appear too.

    Args:
        model: A model with layers of ours; others are passed over.
    """
    waiting: dict[tuple[str, str, str], tuple[str, Tensor]] = {}
    for module in model.modules():
        if not isinstance(module, MoeloraLayer):
            continue
        for adapter in module.active_adapters:
            if adapter not in module.experts:
                continue
            experts, rank = module.experts[adapter], module.r[adapter]
            for role, factors in _factors_by_role(module, adapter).items():
                key = (_block(module.module_name), role, adapter)
                a, b = factors.get("A"), factors.get("B")
                name = module.module_name
                if b is None:
                    waiting[key] = (name, a)
                    continue
                if a is None:
                    name, a = waiting.pop(key)
                yield name, role, _split_a(a, experts, rank), _split_b(b, experts, rank)


def _factors_by_role(layer: MoeloraLayer, adapter: str) -> dict[str, dict[str, Tensor]]:
    """Return role → letter → stacked factor of a layer's adapter."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in layer.adapter_layer_names:
        match = _FACTOR.fullmatch(name)
        parameters = getattr(layer, name)
        if match and adapter in parameters:
            found.setdefault(match["role"] or "", {})[match["letter"]] = parameters[adapter]
    return found


def _block(name: str) -> str:
    """Return a module's name up to the number of its block: the halves of a feed-forward block share it."""
    found = re.match(r"(.*\.\d+)(\.|$)", name)
    return found.group(1) if found else name


def _split_a(a: Tensor, experts: int, rank: int) -> Tensor:
    """Return (E, R, D) of a stacked (E * R, D), or of a shared (R, D)."""
    return a.view(experts, rank, -1) if a.shape[0] == experts * rank else a.expand(experts, -1, -1)


def _split_b(b: Tensor, experts: int, rank: int) -> Tensor:
    """Return (E, O, R) of a stacked (O, E * R), or of a shared (O, R)."""
    if b.shape[1] == experts * rank:
        return b.view(-1, experts, rank).transpose(0, 1)
    return b.expand(experts, -1, -1)
