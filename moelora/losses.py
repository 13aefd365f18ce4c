"""Balance losses: what keeps a router from sending every token to the same expert.

A loss is *linear in the batch* when its value on a batch is the mean of its values on equally large
parts of it. Only then does gradient accumulation give the same update as one large batch. The balancing
forms below are products of batch means, hence not linear; the z-loss is a mean over tokens, hence is. A
record whose run splits batches must say so for the others: `BALANCE_LOSSES[name].linear_in_batch`.

All take a `RouterOutput` and leave masked tokens (padding) out of every mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from moelora.routers import RouterOutput


def _masked_mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over tokens, axis 0; zero when no token counts."""
    if mask is None:
        return rows.mean(dim=0)
    counted = mask.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))
    return (rows * counted).sum(dim=0) / counted.sum().clamp(min=1)


def switch(output: RouterOutput) -> Tensor:
    """Return E * sum_e f_e P_e with f the share of assignments: 1 at perfect balance, E / K collapsed.

    f sums to 1 (each token gives 1 / K to each of its K experts) and has no gradient; P is the mean
    probability. With dense routing f is constant and so is the loss.
    Source: Switch Transformer, arXiv 2101.03961; in this normalisation MoLA.
    """
    return switch_slots(output) / output.chosen.shape[-1]


def switch_slots(output: RouterOutput) -> Tensor:
    """Return `switch` with f counting all K slots: K at perfect balance. MixLoRA's normalisation."""
    slots = functional.one_hot(output.chosen, output.experts).to(output.probabilities.dtype)
    assigned = _masked_mean(slots, output.mask).sum(dim=0)
    return output.experts * (assigned * _masked_mean(output.probabilities, output.mask)).sum()


def cv_squared(output: RouterOutput) -> Tensor:
    """Return the squared coefficient of variation of the experts' mean weights: 0 at perfect balance.

    Variance over the E experts (divided by E, not E - 1) over the squared mean; E - 1 when one expert has
    everything. Has a gradient for dense routing too.
    """
    mean = _masked_mean(output.weights, output.mask)
    return mean.var(unbiased=False) / mean.mean().square().clamp(min=torch.finfo(mean.dtype).tiny)


def mean_probability(output: RouterOutput) -> Tensor:
    """Return E * sum_e P_e^2 with P the mean probability: 1 at perfect balance, E collapsed."""
    return output.experts * _masked_mean(output.probabilities, output.mask).square().sum()


def z_loss(output: RouterOutput) -> Tensor:
    """Return the mean over tokens of logsumexp(logits)^2, which keeps router logits small.

    Linear in the batch for equal numbers of counted tokens. Source: ST-MoE, arXiv 2202.08906.
    """
    return _masked_mean(torch.logsumexp(output.logits, dim=-1).square(), output.mask)


@dataclass(frozen=True)
class BalanceLoss:
    """A balance loss and what a reader must know of it.

    Attributes:
        function: From a `RouterOutput` to a scalar.
        linear_in_batch: Whether splitting a batch into micro-batches leaves the update unchanged.
        balanced: Value at perfect balance, in words of E experts and K per token.
        inert_when_dense: Whether it is a constant for dense routing.
    """

    function: Callable[[RouterOutput], Tensor]
    linear_in_batch: bool
    balanced: str
    inert_when_dense: bool = False


BALANCE_LOSSES = {
    "cv_squared": BalanceLoss(cv_squared, linear_in_batch=False, balanced="0"),
    "mean_probability": BalanceLoss(mean_probability, linear_in_batch=False, balanced="1"),
    "switch": BalanceLoss(switch, linear_in_batch=False, balanced="1", inert_when_dense=True),
    "switch_slots": BalanceLoss(switch_slots, linear_in_batch=False, balanced="K", inert_when_dense=True),
    "z_loss": BalanceLoss(z_loss, linear_in_batch=True, balanced="no balancing term"),
}


def concatenate(outputs: list[RouterOutput]) -> RouterOutput:
    """Put the tokens of several routers with equal E and K into one output, as if of one router."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    device = first.logits.device

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(one, name).to(device) for one in outputs])

    def counted(one: RouterOutput) -> Tensor:
        return torch.ones_like(one.logits[:, 0], dtype=torch.bool) if one.mask is None else one.mask

    return RouterOutput(
        logits=joined("logits"),
        probabilities=joined("probabilities"),
        weights=joined("weights"),
        chosen=joined("chosen"),
        slot_weights=joined("slot_weights"),
        mask=torch.cat([counted(one).to(device) for one in outputs]),
    )
