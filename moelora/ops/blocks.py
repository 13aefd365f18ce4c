"""What feed-forward blocks of experts are described by, and the slow forms of whole blocks.

Notation: T tokens, D width, F feed-forward width, R rank, E experts.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moelora.ops.activations import Activation


class LowRank(NamedTuple):
    """The stacked factors of E experts for one frozen layer: a (E * R, in), b (out, E * R)."""

    a: Tensor
    b: Tensor


class Assignment(NamedTuple):
    """Who serves each token: chosen experts (T, K), no expert twice; their weights (T, K); E."""

    chosen: Tensor
    weights: Tensor
    experts: int

    def part(self, tokens: slice) -> "Assignment":
        """Return the assignment of some tokens."""
        return Assignment(self.chosen[tokens], self.weights[tokens], self.experts)


class Frozen(NamedTuple):
    """A frozen linear layer: its dense weight (O, D), or the layer as a callable; and its bias (O,) in both cases.

    Attributes:
        weight: Dense weight, (O, D).
        bias: (O,).
        module: The layer itself; takes rows (T, N) of the dtype the experts work in, and casts them where it must.
        again: Makes a dense weight that stands for a quantised one anew in the backward pass of MixDoRA, so that it is
            not kept until then.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    module: Callable[[Tensor], Tensor] | None = None
    again: Callable[[], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layer with its bias."""
        return functional.linear(x, self.weight, self.bias) if self.module is None else self.module(x)


class Settings(NamedTuple):
    """What an expert block is computed with besides its tensors.

    Attributes:
        activation: The elementwise function.
        scaling: alpha / R.
        dropout: Probability of dropping an element of the increments' inputs; 0 outside training. As in any LoRA it
            touches only the low-rank paths: x (one mask for all experts and for gate and up), and each h.
        chunk: Tokens worked on at a time, which bounds the working memory; None for what `moelora.ops.chunks` says.
        grouped: Rows grouped by expert (True) or masked with static shapes (False); None: grouped on a CPU.
    """

    activation: Activation
    scaling: float
    dropout: float = 0.0
    chunk: int | None = None
    grouped: bool | None = None


def mixlora_reference(
    x: Tensor,
    frozen: tuple[Frozen, ...],
    factors: tuple[LowRank, ...],
    weights: Tensor,
    activation: Activation,
    scaling: float,
) -> Tensor:
    """Compute a whole block (three frozen layers: gated; two: two-matrix) from full expert weights, one at a time.

    Args:
        x: Tokens, (T, D).
        frozen: Dense frozen layers in order.
        factors: The experts' factors on each.
        weights: Router weights in dense form, (T, E).
        activation: Elementwise function.
        scaling: alpha / R.
    """
    output = torch.zeros_like(x)
    experts = weights.shape[-1]
    for expert in range(experts):
        layers = [
            Frozen(_adapted(layer, pair, expert, experts, scaling), layer.bias)
            for layer, pair in zip(frozen, factors, strict=True)
        ]
        output = output + weights[:, expert : expert + 1] * _through(layers, x, activation)
    return output


def mixdora_reference(
    x: Tensor,
    frozen: tuple[Frozen, ...],
    factors: tuple[LowRank, ...],
    magnitudes: tuple[Tensor, ...],
    weights: Tensor,
    activation: Activation,
    scaling: float,
) -> Tensor:
    """Compute a whole block (three frozen layers: gated; two: two-matrix) from full expert weights, one at a time.

    Args:
        x: Tokens, (T, D).
        frozen: Dense frozen layers in order.
        factors: The experts' factors on each.
        magnitudes: The experts' magnitudes on each.
        weights: Router weights in dense form, (T, E).
        activation: Elementwise function.
        scaling: s.
    """
    output = torch.zeros_like(x)
    experts = weights.shape[-1]
    for expert in range(experts):
        layers = []
        for layer, pair, magnitude in zip(frozen, factors, magnitudes, strict=True):
            adapted = _adapted(layer, pair, expert, experts, scaling)
            adapted = (magnitude[expert] / adapted.detach().norm(dim=1))[:, None] * adapted
            layers.append(Frozen(adapted, layer.bias))
        output = output + weights[:, expert : expert + 1] * _through(layers, x, activation)
    return output


def _adapted(layer: Frozen, pair: LowRank, expert: int, experts: int, scaling: float) -> Tensor:
    """Return one expert's full weight, W + s B A."""
    rows = slice(expert * len(pair.a) // experts, (expert + 1) * len(pair.a) // experts)
    return layer.weight + scaling * pair.b[:, rows] @ pair.a[rows]


def _through(layers: list[Frozen], x: Tensor, activation: Activation) -> Tensor:
    """Return the output of a block with full weights."""
    hidden = activation(layers[0](x))
    return layers[-1](hidden * layers[1](x) if len(layers) == 3 else hidden)
