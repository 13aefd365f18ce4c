"""Elementwise functions with a derivative by hand, and any other through autograd."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


class Elementwise(NamedTuple):
    """An elementwise function and its adjoint.

    Attributes:
        forward: Values to results, in memory of their own.
        backward: (gradient of the results, values) to the gradient of the values.
    """

    forward: Activation
    backward: Callable[[Tensor, Tensor], Tensor]


SILU = Elementwise(functional.silu, torch.ops.aten.silu_backward)
GELU = Elementwise(functional.gelu, torch.ops.aten.gelu_backward)
GELU_TANH = Elementwise(
    partial(functional.gelu, approximate="tanh"), partial(torch.ops.aten.gelu_backward, approximate="tanh")
)
RELU = Elementwise(functional.relu, lambda gradient, values: torch.ops.aten.threshold_backward(gradient, values, 0))

# transformers' own modules, by name so that transformers need not be imported; all have no parameters.
_BY_CLASS = {"SiLUActivation": SILU, "GELUTanh": GELU_TANH, "PytorchGELUTanh": GELU_TANH}
_BY_FUNCTION = {functional.silu: SILU, functional.gelu: GELU, functional.relu: RELU, torch.relu: RELU}


def elementwise(activation: Activation) -> Elementwise:
    """Return an activation with its adjoint.

    Args:
        activation: A function or module, elementwise and without trainable parameters (their gradient would be
            lost). SiLU, exact and tanh GELU, and ReLU are recognised; any other goes through autograd.

    Raises:
        ValueError: The activation has trainable parameters.
    """
    if isinstance(activation, nn.Module):
        if any(one.requires_grad for one in activation.parameters()):
            raise ValueError(f"{activation} has trainable parameters; expected an activation without")
        known = _of_module(activation)
    else:
        known = _BY_FUNCTION.get(activation)
    return known or Elementwise(partial(_fresh, activation), partial(_through_autograd, activation))


def _of_module(activation: nn.Module) -> Elementwise | None:
    if type(activation) is nn.SiLU:
        return SILU
    if type(activation) is nn.ReLU:
        return RELU
    if type(activation) is nn.GELU:
        return GELU if activation.approximate == "none" else GELU_TANH
    name = type(activation).__name__
    if type(activation).__module__ != "transformers.activations":
        return None
    if name == "GELUActivation":  # it may hold a formula of its own instead
        return _BY_FUNCTION.get(activation.act)
    return _BY_CLASS.get(name)


def _fresh(activation: Activation, values: Tensor) -> Tensor:
    """Apply an activation so that the result may be written to: an identity returns what it was given."""
    result = activation(values)
    return result.clone() if result is values else result


def _through_autograd(activation: Activation, gradient: Tensor, values: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        (result,) = torch.autograd.grad(activation(leaf), leaf, gradient)
    return result
