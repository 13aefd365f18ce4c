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

from moelora.routers import RouterOutput


def _masked_mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over tokens, axis 0; zero when no token counts."""
    if mask is None:
        return rows.mean(dim=0)
    counted = mask.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))
    return (rows * counted).sum(dim=0) / counted.sum().clamp(min=1)


def switch(output: RouterOutput) -> Tensor:
    """Return E * sum_e f_e P_e with f the share of assignments: 1 at perfect balance, E / K collapsed.

    f sums to 1 (each token gives equal parts to its experts) and has no gradient; P is the mean
    probability. With dense routing f is constant and so is the loss.
    Source: Switch Transformer, arXiv 2101.03961; in this normalisation MoLA.
    """
    used = output.used().sum(dim=-2).to(output.probabilities.dtype)
    shares = used / used.sum(dim=-1, keepdim=True).clamp(min=1)
    return _frequency_times_probability(output, shares)


def switch_slots(output: RouterOutput) -> Tensor:
    """Return `switch` with f counting every slot: K at perfect balance. MixLoRA's normalisation.

    With a router whose tokens use different numbers of experts, K is their mean.
    """
    return _frequency_times_probability(output, output.used().sum(dim=-2).to(output.probabilities.dtype))


def _frequency_times_probability(output: RouterOutput, assigned: Tensor) -> Tensor:
    frequency = _masked_mean(assigned, output.mask)
    return output.experts * (frequency * _masked_mean(output.probabilities, output.mask)).sum()


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


LOCALISED_EPSILON = 1e-10


def localised(output: RouterOutput, delta: float = 0.1) -> Tensor:
    """Return LoRAMoE's balance with the scale taken out: variance over squared mean of the weighted loads Z.

    Q_en is the weight that expert e gets from all tokens of sample n, I_en is 1 + delta where their types agree and
    1 - delta where not, Z = I * Q. The first half of the experts is of type 1, the second of type 0. Without types
    (or with ``delta`` 0) I is 1 and the loss is plain balance. The variance divides by E N - 1.
    Source: arXiv 2312.09979 and the code of Ablustrund/LoRAMoE, which has this form.
    """
    loads = _localised_loads(output, delta)
    if loads.numel() < 2:
        return loads.sum() * 0
    return loads.var() / (loads.mean().square() + LOCALISED_EPSILON)


def localised_as_printed(output: RouterOutput, delta: float = 0.1) -> Tensor:
    """Return variance over mean of the same Z, as LoRAMoE's paper prints it; it grows with the number of tokens."""
    loads = _localised_loads(output, delta)
    if loads.numel() < 2:
        return loads.sum() * 0
    return loads.var() / (loads.mean() + LOCALISED_EPSILON)


def _localised_loads(output: RouterOutput, delta: float) -> Tensor:
    """Return Z, (N, E)."""
    weights = output.weights
    if output.mask is not None:
        weights = weights * output.mask.unsqueeze(-1).to(weights.dtype)
    samples = output.samples
    if samples is None:
        samples = torch.zeros(weights.shape[0], dtype=torch.long, device=weights.device)
    count = int(samples[-1]) + 1
    loads = torch.zeros(count, output.experts, dtype=weights.dtype, device=weights.device)
    loads = loads.index_add(0, samples, weights)
    if output.types is None:
        return loads
    types = torch.zeros(count, dtype=torch.long, device=weights.device).index_copy(0, samples, output.types)
    first_half = torch.arange(output.experts, device=weights.device) < output.experts // 2
    agrees = first_half.long() == types.unsqueeze(-1)
    return loads * torch.where(agrees, 1 + delta, 1 - delta).to(loads.dtype)


@dataclass(frozen=True)
class BalanceLoss:
    """A balance loss and what a reader must know of it.

    Attributes:
        function: From a `RouterOutput` (and a delta, where ``takes_delta``) to a scalar.
        linear_in_batch: Whether splitting a batch into micro-batches leaves the update unchanged.
        balanced: Value at perfect balance, in words of E experts and K per token.
        inert_when_dense: Whether it is a constant for dense routing.
        takes_delta: Whether it weighs experts by the types of samples.
    """

    function: Callable[[RouterOutput], Tensor]
    linear_in_batch: bool
    balanced: str
    inert_when_dense: bool = False
    takes_delta: bool = False


BALANCE_LOSSES = {
    "localised": BalanceLoss(localised, linear_in_batch=False, balanced="0 where types agree", takes_delta=True),
    "localised_as_printed": BalanceLoss(
        localised_as_printed, linear_in_batch=False, balanced="0 where types agree", takes_delta=True
    ),
    "cv_squared": BalanceLoss(cv_squared, linear_in_batch=False, balanced="0"),
    "mean_probability": BalanceLoss(mean_probability, linear_in_batch=False, balanced="1"),
    "switch": BalanceLoss(switch, linear_in_batch=False, balanced="1", inert_when_dense=True),
    "switch_slots": BalanceLoss(switch_slots, linear_in_batch=False, balanced="K", inert_when_dense=True),
    "z_loss": BalanceLoss(z_loss, linear_in_batch=True, balanced="no balancing term"),
}


def concatenate(outputs: list[RouterOutput]) -> RouterOutput:
    """Put the tokens of several routers with equal E and K into one output, as if of one router.

    Samples and types are left out: what needs them is formed router by router.
    """
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
