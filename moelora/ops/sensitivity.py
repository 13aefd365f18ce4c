"""How much a weight matters to each example: from its input and its output's gradient, the weight's gradient unkept.

The squared norm of the gradient does not even form it where that is cheaper; |weight x gradient| has to.

Notation: B examples, T tokens an example, D input width, O output width.
"""

import torch
from torch import Tensor


def prefers_grams(tokens: int, inputs: int, outputs: int, shared: bool = False) -> bool:
    """Say whether two T x T Gram matrices cost fewer multiplications than the O x D gradient.

    Args:
        tokens: T.
        inputs: D.
        outputs: O.
        shared: The Gram matrix of the inputs is there already.
    """
    return tokens * (outputs if shared else inputs + outputs) < inputs * outputs


def input_gram(inputs: Tensor) -> Tensor:
    """Return X X^T of each example, (B, T, T), for `squared_gradient_norm` of modules with the same input (B, T, D)."""
    inputs = _at_least_float32(inputs)
    return inputs @ inputs.transpose(-1, -2)


def squared_gradient_norm(inputs: Tensor, gradients: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return each example's squared weight-gradient norm of a linear layer, ‖Gᵀ X‖²_F.

    It equals ⟨X Xᵀ, G Gᵀ⟩, which is cheaper while T (D + O) < D O.

    Args:
        inputs: The layer's input, (B, T, D).
        gradients: Loss gradient of its output, (B, T, O).
        gram: `input_gram` of the input, shared by the modules that have this input.

    Returns:
        (B,), in float32 at the least.

    Source: ours.
    """
    gradients = _at_least_float32(gradients)
    if prefers_grams(inputs.shape[1], inputs.shape[2], gradients.shape[2], gram is not None):
        gram = input_gram(inputs) if gram is None else gram
        return (gram * (gradients @ gradients.transpose(-1, -2))).sum((1, 2))
    return (gradients.transpose(-1, -2) @ _at_least_float32(inputs)).square().sum((1, 2))


def squared_gradient_norm_reference(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Compute `squared_gradient_norm` by forming each example's weight gradient."""
    return torch.stack([(g.T @ x).square().sum() for x, g in zip(inputs, gradients, strict=True)])


def absolute_taylor(inputs: Tensor, gradients: Tensor, weight: Tensor) -> Tensor:
    """Return each example's Σ |W ∘ ∂L/∂W| of a linear layer: the first-order change of the loss if a weight were zero.

    There is no Gram form: the absolute value stands between. Each example's O x D gradient is formed, T·D·O
    multiplications an example as in a second backward pass, and one such matrix is held at a time.

    Args:
        inputs: The layer's input, (B, T, D).
        gradients: Loss gradient of its output, (B, T, O).
        weight: (O, D).

    Returns:
        (B,), in float32 at the least.

    Source: Molchanov et al., arXiv 1906.10771, with the absolute value inside the sum.
    """
    inputs, gradients, weight = (_at_least_float32(one) for one in (inputs, gradients, weight))
    parts = [((g.T @ x).mul_(weight)).abs_().sum() for x, g in zip(inputs, gradients, strict=True)]
    return torch.stack(parts)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
