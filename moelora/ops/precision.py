"""How the operators treat dtypes: autocast is applied before an operator and switched off inside it.

An operator's own products then run in the dtypes that its operands have, in the forward pass and in the backward
pass alike, wherever the backward pass is called.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

_NOTHING = nullcontext()
_known = cache(torch.amp.is_autocast_available)  # some kinds of device do not know autocast and raise when asked


def autocasts(tensor: Tensor) -> bool:
    """Say whether autocast is on for the device of a tensor and would cast it (it leaves float64 alone)."""
    kind = tensor.device.type
    return _known(kind) and torch.is_autocast_enabled(kind) and tensor.dtype != torch.float64


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Return a context in which autocast is off for the device of a tensor."""
    kind = tensor.device.type
    if _known(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return _NOTHING


def cast_operands(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Cast floating operands as autocast would for a matrix product; without autocast return them as they are.

    The casts are ordinary differentiable ones, so gradients reach the operands in their own dtypes.
    """
    if not autocasts(x):
        return (x, *others)
    dtype = torch.get_autocast_dtype(x.device.type)
    return tuple(one.to(dtype) for one in (x, *others))


def as_rows(tensor: Tensor) -> Tensor:
    """Return (..., N) as contiguous rows (T, N), without a copy where possible."""
    return tensor.reshape(-1, tensor.shape[-1]).contiguous()
