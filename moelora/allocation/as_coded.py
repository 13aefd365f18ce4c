"""Sensitivity as LoRA-SMoE's public code comes to it, with what may be called its errors.

One example a step; the transformer layers take turns, the last first, so a layer is looked at in every L-th step only;
squares and their sum over a matrix are formed in float16, so that a gradient below about 2.4e-4 counts as nothing and a
sum above 65,504 as infinite; and after each step the layer at hand is really updated.

Source: EMLS-ICTCAS/LoRA-SMoE, get_sensitivity.py, from a description of it, not from the file. Our reading where that
leaves it open: the block optimiser starts each turn with fresh AdamW moments on float32 copies, the rate decays by 0.95
after every step, weight decay is AdamW's default, and there is no dropout.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from moelora.errors import AllocationError
from moelora.methods import Linear

LEARNING_RATE = 1e-5
DECAY = 0.95


def usable_steps(examples: int, layers: int) -> int:
    """Return how many of the examples are used: as many for each layer.

    Raises:
        AllocationError: there are fewer examples than layers.
    """
    if examples < layers:
        raise AllocationError(
            f"as_coded looks at one layer an example, so {layers} layers need as many examples, found {examples}"
        )
    return examples - examples % layers


def measure_as_coded(
    model: nn.Module, linears: Sequence[Linear], losses: Sequence[Callable[[nn.Module], Tensor]]
) -> list[float]:
    """Return the score of each linear, infinite where float16 overflows. The model's weights are changed.

    Args:
        model: The base model; it becomes float16 and is trained a little.
        linears: Those to score.
        losses: Model → loss of one example, as many as `usable_steps` says.

    Raises:
        AllocationError: float16 gave no number at all.
    """
    model.half().eval()
    model.requires_grad_(False)
    layers = sorted({linear.layer for linear in linears}, reverse=True)
    scores = {linear.name: 0.0 for linear in linears}
    for step, loss in enumerate(losses):
        layer = layers[step % len(layers)]
        block = _parameters_of(model, linears, layer)
        for parameter in block.values():
            parameter.requires_grad_(True)
        gradients = torch.autograd.grad(loss(model), list(block.values()), allow_unused=True)
        found = dict(zip(block, gradients, strict=True))
        for linear in linears:
            gradient = found.get(f"{linear.name}.weight") if linear.layer == layer else None
            if gradient is not None:
                scores[linear.name] += float16_square_sum(gradient)
        for parameter in block.values():
            parameter.requires_grad_(False)
        _update(list(block.values()), list(gradients), LEARNING_RATE * DECAY**step)
    wrong = [name for name, score in scores.items() if score != score]
    if wrong:
        raise AllocationError(f"float16 gave no number for {wrong[:3]}; this model cannot be measured as coded")
    return [scores[linear.name] for linear in linears]


def float16_square_sum(gradient: Tensor) -> float:
    """Return Σ g² with squares and sum rounded to float16."""
    return float(gradient.to(torch.float16).square().sum())


def _parameters_of(model: nn.Module, linears: Sequence[Linear], layer: int) -> dict[str, nn.Parameter]:
    """Return all parameters of the transformer block that a layer's linears belong to."""
    name = next(linear.name for linear in linears if linear.layer == layer)
    found = re.match(rf"(?:.*?\.)?{layer}\.", name)
    if found is None:
        raise AllocationError(f"'{name}' is said to be of layer {layer}, whose number is no part of its name")
    return {path: parameter for path, parameter in model.named_parameters() if path.startswith(found.group())}


def _update(parameters: list[nn.Parameter], gradients: "list[Tensor | None]", rate: float) -> None:
    """Take one AdamW step from fresh moments on float32 copies, and round the result."""
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    copies = [nn.Parameter(parameter.detach().float()) for parameter, _ in used]
    for copy, (_, gradient) in zip(copies, used, strict=True):
        copy.grad = gradient.float()
    torch.optim.AdamW(copies, lr=rate).step()
    with torch.no_grad():
        for copy, (parameter, _) in zip(copies, used, strict=True):
            parameter.copy_(copy)
