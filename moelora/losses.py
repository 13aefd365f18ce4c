"""Balance losses: what keeps a router from sending every token to the same expert.

A loss is *linear in the batch* when its value on a batch is the mean of its values on equally large
parts of it. Only then does gradient accumulation give the same update as one large batch. The balancing
forms below are products of batch means, hence not linear; the z-loss is a mean over tokens, hence is. A
record whose run splits batches must say so for the others: `BALANCE_LOSSES[name].linear_in_batch`.

All take a `RouterOutput` and leave masked tokens (padding) out of every mean. Each is a value of a few statistics that
parts of a batch on several processes can be merged from; for one part nothing is merged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moelora.routers import RouterOutput


def _sums(mask: Tensor | None, *rows: Tensor) -> tuple[Tensor, ...]:
    """Return each of ``rows`` summed over the tokens that count, axis 0, and then the number of those tokens."""
    if mask is None:
        return (*(one.sum(dim=0) for one in rows), rows[0].new_full((), len(rows[0])))
    counted = mask.to(rows[0].dtype)
    sums = ((one * counted.view(-1, *[1] * (one.dim() - 1))).sum(dim=0) for one in rows)
    return (*sums, counted.sum())


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """Return a mean; zero when no token counts."""
    return total / count.clamp(min=1)


def add(*parts: Tensor) -> tuple[Tensor, ...]:
    """Merge statistics that are sums: each comes with the processes on its first axis."""
    return tuple(one.sum(dim=0) for one in parts)


def _share_sums(output: RouterOutput) -> tuple[Tensor, ...]:
    used = output.used().sum(dim=-2).to(output.probabilities.dtype)
    shares = used / used.sum(dim=-1, keepdim=True).clamp(min=1)
    return _sums(output.mask, shares, output.probabilities)


def _slot_sums(output: RouterOutput) -> tuple[Tensor, ...]:
    return _sums(output.mask, output.used().sum(dim=-2).to(output.probabilities.dtype), output.probabilities)


def _frequency_times_probability(assigned: Tensor, probabilities: Tensor, count: Tensor) -> Tensor:
    return len(assigned) * (_mean(assigned, count) * _mean(probabilities, count)).sum()


def switch(output: RouterOutput) -> Tensor:
    """Return E * sum_e f_e P_e with f the share of assignments: 1 at perfect balance, E / K collapsed.

    f sums to 1 (each token gives equal parts to its experts) and has no gradient; P is the mean
    probability. With dense routing f is constant and so is the loss.
    Source: Switch Transformer, arXiv 2101.03961; in this normalisation MoLA.
    """
    return _frequency_times_probability(*_share_sums(output))


def switch_slots(output: RouterOutput) -> Tensor:
    """Return `switch` with f counting every slot: K at perfect balance. MixLoRA's normalisation.

    With a router whose tokens use different numbers of experts, K is their mean.
    """
    return _frequency_times_probability(*_slot_sums(output))


def _weight_sums(output: RouterOutput) -> tuple[Tensor, ...]:
    return _sums(output.mask, output.weights)


def _cv_squared(weights: Tensor, count: Tensor) -> Tensor:
    mean = _mean(weights, count)
    return mean.var(unbiased=False) / mean.mean().square().clamp(min=torch.finfo(mean.dtype).tiny)


def cv_squared(output: RouterOutput) -> Tensor:
    """Return the squared coefficient of variation of the experts' mean weights: 0 at perfect balance.

    Variance over the E experts (divided by E, not E - 1) over the squared mean; E - 1 when one expert has
    everything. Has a gradient for dense routing too.
    """
    return _cv_squared(*_weight_sums(output))


def _probability_sums(output: RouterOutput) -> tuple[Tensor, ...]:
    return _sums(output.mask, output.probabilities)


def _squared_probabilities(probabilities: Tensor, count: Tensor) -> Tensor:
    return len(probabilities) * _mean(probabilities, count).square().sum()


def mean_probability(output: RouterOutput) -> Tensor:
    """Return E * sum_e P_e^2 with P the mean probability: 1 at perfect balance, E collapsed."""
    return _squared_probabilities(*_probability_sums(output))


def _square_sums(output: RouterOutput) -> tuple[Tensor, ...]:
    return _sums(output.mask, torch.logsumexp(output.logits, dim=-1).square())


def z_loss(output: RouterOutput) -> Tensor:
    """Return the mean over tokens of logsumexp(logits)^2, which keeps router logits small.

    Linear in the batch for equal numbers of counted tokens. Source: ST-MoE, arXiv 2202.08906.
    """
    return _mean(*_square_sums(output))


LOCALISED_EPSILON = 1e-10


def localised(output: RouterOutput, delta: float = 0.1) -> Tensor:
    """Return LoRAMoE's balance with the scale taken out: variance over squared mean of the weighted loads Z.

    Q_en is the weight that expert e gets from all tokens of sample n, I_en is 1 + delta where their types agree and
    1 - delta where not, Z = I * Q. The first half of the experts is of type 1, the second of type 0. Without types
    (or with ``delta`` 0) I is 1 and the loss is plain balance. The variance divides by E N - 1.
    Source: arXiv 2312.09979 and the code of Ablustrund/LoRAMoE, which has this form.
    """
    return _relative_variance(*_load_moments(output, delta))


def localised_as_printed(output: RouterOutput, delta: float = 0.1) -> Tensor:
    """Return variance over mean of the same Z, as LoRAMoE's paper prints it; it grows with the number of tokens."""
    return _variance_over_mean(*_load_moments(output, delta))


def _relative_variance(_count: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return variance / (mean.square() + LOCALISED_EPSILON)


def _variance_over_mean(_count: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return variance / (mean + LOCALISED_EPSILON)


def _load_moments(output: RouterOutput, delta: float) -> tuple[Tensor, ...]:
    """Return how many entries Z has, their mean and their variance; a single one has none."""
    loads = _localised_loads(output, delta)
    variance = loads.var() if loads.numel() > 1 else loads.sum() * 0
    return loads.new_full((), loads.numel()), loads.mean(), variance


def merge_moments(counts: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, ...]:
    """Merge counts, means and variances (divided by one less than the count) of parts, each (processes,)."""
    count = counts.sum()
    mean = (counts * means).sum() / count
    squares = (variances * (counts - 1).clamp(min=0) + counts * (means - mean).square()).sum()
    return count, mean, squares / (count - 1).clamp(min=1)


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
    # In the loads' precision: torch.where of two numbers would be float32.
    return loads * (1 + delta * (2 * agrees.to(loads.dtype) - 1))


@dataclass(frozen=True)
class BalanceLoss:
    """A balance loss and what a reader must know of it.

    Attributes:
        function: From a `RouterOutput` (and a delta, where ``takes_delta``) to a scalar: ``value`` of ``statistics``.
        statistics: From the same to a few tensors.
        value: From these tensors to the scalar.
        linear_in_batch: Whether splitting a batch into micro-batches leaves the update unchanged.
        balanced: Value at perfect balance, in words of E experts and K per token.
        inert_when_dense: Whether it is a constant for dense routing.
        takes_delta: Whether it weighs experts by the types of samples.
        merge: From the statistics of parts of a batch, the parts on the first axis of each, to those of the batch. A
            part without tokens has zeros.
    """

    function: Callable[..., Tensor]
    statistics: Callable[..., tuple[Tensor, ...]]
    value: Callable[..., Tensor]
    linear_in_batch: bool
    balanced: str
    inert_when_dense: bool = False
    takes_delta: bool = False
    merge: Callable[..., tuple[Tensor, ...]] = add


BALANCE_LOSSES = {
    "localised": BalanceLoss(
        localised, _load_moments, _relative_variance, linear_in_batch=False, balanced="0 where types agree",
        takes_delta=True, merge=merge_moments,
    ),
    "localised_as_printed": BalanceLoss(
        localised_as_printed, _load_moments, _variance_over_mean, linear_in_batch=False,
        balanced="0 where types agree", takes_delta=True, merge=merge_moments,
    ),
    "cv_squared": BalanceLoss(cv_squared, _weight_sums, _cv_squared, linear_in_batch=False, balanced="0"),
    "mean_probability": BalanceLoss(
        mean_probability, _probability_sums, _squared_probabilities, linear_in_batch=False, balanced="1"
    ),
    "switch": BalanceLoss(
        switch, _share_sums, _frequency_times_probability, linear_in_batch=False, balanced="1", inert_when_dense=True
    ),
    "switch_slots": BalanceLoss(
        switch_slots, _slot_sums, _frequency_times_probability, linear_in_batch=False, balanced="K",
        inert_when_dense=True,
    ),
    "z_loss": BalanceLoss(z_loss, _square_sums, _mean, linear_in_batch=True, balanced="no balancing term"),
}  # fmt: skip


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
