"""Which frozen layers the fused operators may compute themselves, and how the others are called."""

import torch
from torch import Tensor, nn

from moelora.ops import Frozen
from moelora.ops.precision import autocasts


def is_hooked(module: nn.Module) -> bool:
    """Say whether calling a module would do something besides its class's forward."""
    # Looked up where they are kept: these checks run in every layer of every pass.
    own = module.__dict__
    return bool(
        "forward" in own
        or "_hf_hook" in own
        or own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    )


def is_plain(layer: nn.Module, x: Tensor) -> bool:
    """Say whether calling a layer on x would do nothing but multiply with its frozen dense weight.

    Quantised, offloaded, hooked, sharded and trained layers must be called as modules.
    """
    if type(layer) is not nn.Linear or is_hooked(layer):
        return False
    parameters = layer._parameters
    # A sharded or replicated layer has lost its parameters, or they are of another type.
    weight, bias = parameters.get("weight"), parameters.get("bias", layer)
    if type(weight) is not nn.Parameter or weight.requires_grad:
        return False
    if bias is not None and (type(bias) is not nn.Parameter or bias.requires_grad):
        return False
    same_dtype = x.dtype == weight.dtype or (weight.dtype != torch.float64 and autocasts(x))
    return same_dtype and x.device == weight.device


def frozen(layer: nn.Module, x: Tensor) -> Frozen:
    """Return a frozen layer as the operators take it: its weight if it `is_plain`, else the layer itself."""
    if is_plain(layer, x):
        return Frozen(layer.weight, layer.bias)
    return Frozen(None, getattr(layer, "bias", None), layer)


def dropout_probability(module: nn.Module) -> float:
    """Return the probability with which a dropout module drops elements now."""
    return module.p if isinstance(module, nn.Dropout) and module.training else 0.0
