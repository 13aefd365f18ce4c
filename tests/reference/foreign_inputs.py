"""Inputs of the reference cases, and the form in which a case is kept.

All numbers are normal draws rounded to bfloat16, so that the same inputs are exact in float32 and bfloat16 too:
what differs there is the arithmetic alone, never which experts a token goes to because its input was rounded.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

BATCH, LENGTH, WIDTH, INNER, EXPERTS, RANK, PER_TOKEN = 2, 6, 16, 24, 4, 3, 2
ALPHA = 6
SETTINGS = {
    "batch": BATCH, "length": LENGTH, "width": WIDTH, "inner": INNER, "experts": EXPERTS, "rank": RANK,
    "experts_per_token": PER_TOKEN, "alpha": ALPHA,
}  # fmt: skip


@dataclass
class Case:
    """One case: tensors by name (``input.``, ``weight.``, ``output.``, ``gradient.``) and what is not a tensor."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)

    def keep(self, **groups: dict[str, Tensor]) -> "Case":
        """Add tensors; ``output={"y": y}`` becomes ``output.y``."""
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                self.tensors[f"{group}.{name}"] = tensor.detach().clone().contiguous()
        return self


class Draw:
    """Draws named tensors in a fixed order from one seed."""

    def __init__(self, seed: int):
        self.generator = np.random.Generator(np.random.Philox(seed))

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Return float64 normal numbers, each exactly representable in bfloat16."""
        values = torch.from_numpy(self.generator.standard_normal(shape)) * scale
        return values.to(torch.bfloat16).to(torch.float64)

    def factors(self, inner: int, outer: int, experts: int = EXPERTS) -> tuple[Tensor, Tensor]:
        """Return A (E, R, in) and B (E, out, R), both far from zero."""
        return self(experts, RANK, inner, scale=0.3), self(experts, outer, RANK, scale=0.3)


def gradients(output: Tensor, cotangent: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of sum(output * cotangent) for each leaf; one that is not reached has zeros."""
    found = torch.autograd.grad((output * cotangent).sum(), list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(leaf) if one is None else one for (name, leaf), one in pairs}


def unreached(output: Tensor, leaves: dict[str, Tensor]) -> list[str]:
    """Return the leaves that ``output`` does not depend on, for which autograd gives None."""
    found = torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
    return [name for name, one in zip(leaves, found, strict=True) if one is None]


def stacked(tensors: dict[str, Tensor], name: str, experts: int = EXPERTS) -> Tensor:
    """Return ``name.0``, ``name.1``, ... as one tensor with the experts first."""
    return torch.stack([tensors[f"{name}.{expert}"] for expert in range(experts)])
