"""How the operators treat dtypes: autocast is applied before an operator and switched off inside it.

An operator's own products then run in the dtypes that its operands have, in the forward pass and in the backward
pass alike, wherever the backward pass is called.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

_NOTHING = nullcontext()
_reshape_own = torch.ops.aten._unsafe_view.default
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
    # A view of the same shape would still be a node of the autograd graph.
    return (tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])).contiguous()


def like_rows_of(rows: Tensor, x: Tensor) -> Tensor:
    """Return new rows (T, O) made from x, (..., D), in its shape, (..., O): for what an autograd function returns.

    The caller must hold the only reference to the rows: the result shares their memory but is not a view for
    autograd, since an output that is one could not be modified in place.
    """
    return rows if x.dim() == 2 else _reshape_own(rows, (*x.shape[:-1], rows.shape[-1]))
