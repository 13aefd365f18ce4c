"""Which frozen layers the fused operators may compute themselves, and how the others are called."""

import torch
from torch import Tensor, nn

from moelora.ops import Frozen
from moelora.ops.precision import autocasts


def is_plain(layer: nn.Module, x: Tensor) -> bool:
    """Say whether calling a layer on x would do nothing but multiply with its frozen dense weight.

    Quantised, offloaded, hooked, sharded and trained layers must be called as modules.
    """
    if type(layer) is not nn.Linear or "forward" in layer.__dict__ or hasattr(layer, "_hf_hook"):
        return False
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    if any(type(one) not in (nn.Parameter, torch.Tensor) or one.requires_grad for one in tensors):
        return False
    weight = layer.weight
    same_dtype = (autocasts(x) and weight.dtype != torch.float64) or x.dtype == weight.dtype
    return same_dtype and x.device == weight.device


def frozen(layer: nn.Module, x: Tensor) -> Frozen:
    """Return a frozen layer as the operators take it: its weight if it `is_plain`, else the layer itself."""
    if is_plain(layer, x):
        return Frozen(layer.weight, layer.bias)
    return Frozen(None, getattr(layer, "bias", None), layer)


def dropout_probability(module: nn.Module) -> float:
    """Return the probability with which a dropout module drops elements now."""
    return module.p if isinstance(module, nn.Dropout) and module.training else 0.0
