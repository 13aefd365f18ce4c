"""Routers: what weighs the experts of a token.

Softmax always runs over all experts. They differ in what they keep: all (dense), the k largest divided by their sum
(top-k), the shortest row of largest ones that reaches p (top-p), or the largest while its expert has room (switch).
The last two leave weights that do not sum to 1, so a block of whole experts behind them is scaled down from the start.
Routing works in float32 at the least (float64 when the input is), also under autocast.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from moelora.ops.precision import without_autocast

ROUTERS = ("dense", "top_k", "top_p", "switch", "none")


@dataclass(frozen=True)
class RouterOutput:
    """What a router decided for T tokens.

    Attributes:
        logits: Before the softmax, (T, E).
        probabilities: Softmax over all experts, (T, E).
        weights: What the experts are multiplied by, zero where unused, (T, E).
        chosen: Experts used, most probable first, (T, K); -1 in a slot that is not used. With dense routing K = E.
        slot_weights: The weights of the chosen, (T, K).
        mask: True for tokens that count, (T,); None when all do. Padding is computed like any token
            but never enters loads and losses.
        samples: Which row of the batch each token belongs to, (T,); None where the shape does not say.
        types: Type of each token's sample, 0 or 1 (LoRAMoE's balance), (T,); None where none was given.
    """

    logits: Tensor
    probabilities: Tensor
    weights: Tensor
    chosen: Tensor
    slot_weights: Tensor
    mask: Tensor | None = None
    samples: Tensor | None = None
    types: Tensor | None = None

    @property
    def experts(self) -> int:
        """Number of experts E."""
        return self.probabilities.shape[-1]

    def detach(self) -> "RouterOutput":
        """Return the same output cut off from the graph."""
        floats = ("logits", "probabilities", "weights", "slot_weights")
        return replace(self, **{name: getattr(self, name).detach() for name in floats})

    def used(self) -> Tensor:
        """Return 1 where a slot holds an expert, one-hot over experts, (T, K, E)."""
        slots = functional.one_hot(self.chosen.clamp(min=0), self.experts)
        return slots * (self.chosen >= 0).unsqueeze(-1)


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Return x weight^T in float32 or better, (..., E), whatever autocast says."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    with without_autocast(x):
        return functional.linear(x.to(dtype), weight.to(dtype))


def dense(logits: Tensor) -> RouterOutput:
    """Use every expert with its softmax probability; logits (T, E)."""
    probabilities = torch.softmax(logits, dim=-1)
    slot_weights, chosen = probabilities.sort(dim=-1, descending=True, stable=True)
    return RouterOutput(logits, probabilities, probabilities, chosen, slot_weights)


def top_k(logits: Tensor, k: int, chosen: "Tensor | None" = None) -> RouterOutput:
    """Use the k most probable experts, their probabilities divided by their sum; logits (T, E).

    With k = 1 the weight is the constant 1, so the task loss sends no gradient to the router.

    Args:
        logits: (T, E).
        k: Experts per token.
        chosen: The experts where they have been chosen already, most probable first, (T, K).
    """
    probabilities = torch.softmax(logits, dim=-1)
    chosen = logits.topk(k, dim=-1).indices if chosen is None else chosen
    kept = probabilities.gather(-1, chosen)
    slot_weights = kept / kept.sum(dim=-1, keepdim=True)
    weights = torch.zeros_like(probabilities).scatter(-1, chosen, slot_weights)
    return RouterOutput(logits, probabilities, weights, chosen, slot_weights)


def top_p(logits: Tensor, p: float) -> RouterOutput:
    """Use the most probable experts until their probabilities reach p, the one that crosses included; logits (T, E).

    The probabilities are not renormalised. Source: MoE-PEFT's dynamic router; the idea is that of arXiv 2403.07652.
    """
    probabilities = torch.softmax(logits, dim=-1)
    ordered, experts = probabilities.sort(dim=-1, descending=True, stable=True)
    needed = ordered.cumsum(dim=-1) - ordered < p  # what came before an expert has not reached p yet
    slot_weights = torch.where(needed, ordered, 0)
    weights = torch.zeros_like(probabilities).scatter(-1, experts, slot_weights)
    return RouterOutput(logits, probabilities, weights, experts.masked_fill(~needed, -1), slot_weights)


def switch(logits: Tensor, capacity: "int | None", mask: Tensor | None = None) -> RouterOutput:
    """Use the most probable expert with its probability, unless it already serves ``capacity`` tokens.

    A token that finds no room is served by nobody. Places are given in order, to tokens that count only.

    Args:
        logits: (..., S, E); every row of S tokens has places of its own.
        capacity: Tokens of one row that one expert takes; None for no limit.
        mask: True for tokens that count, (..., S).

    Source: Switch Transformer, arXiv 2101.03961; capacity a sequence as in transformers and MoE-PEFT.
    """
    probabilities = torch.softmax(logits, dim=-1)
    kept, expert = probabilities.max(dim=-1)
    served = torch.ones_like(expert, dtype=torch.bool)
    if capacity is not None:
        wanted = functional.one_hot(expert, logits.shape[-1])
        if mask is not None:
            wanted = wanted * mask.unsqueeze(-1)
        place = (wanted.cumsum(dim=-2) * wanted).sum(dim=-1)
        served = place <= capacity
    chosen = expert.masked_fill(~served, -1).flatten().unsqueeze(-1)
    slot_weights = torch.where(served, kept, 0).flatten().unsqueeze(-1)
    flat = probabilities.flatten(0, -2)
    weights = torch.zeros_like(flat).scatter(-1, expert.flatten().unsqueeze(-1), slot_weights)
    return RouterOutput(logits.flatten(0, -2), flat, weights, chosen, slot_weights)


@dataclass(frozen=True)
class RouterSettings:
    """A router and its numbers; those of other routers are ignored.

    Attributes:
        name: One of `ROUTERS`.
        experts_per_token: k of "top_k"; more than E means all E.
        top_p: p of "top_p".
        capacity: Of "switch": tokens of one sequence that one expert takes in training; None for no limit.
        jitter: In training the router's input is multiplied by uniform noise from 1 - jitter to 1 + jitter.
    """

    name: str
    experts_per_token: int = 1
    top_p: float = 0.8
    capacity: "int | None" = None
    jitter: float = 0.0

    def is_plain(self, training: bool) -> bool:
        """Say whether the weights are a softmax over all or the k most probable experts of the input as it is."""
        return self.name in ("dense", "top_k") and not (training and self.jitter)


def route(
    x: Tensor, weight: Tensor, router: RouterSettings, training: bool = False, mask: Tensor | None = None
) -> RouterOutput:
    """Route the tokens of x, (..., D), with a router weight (E, D); leading axes are flattened to T.

    Args:
        x: Input of the module, before dropout.
        weight: Router weight.
        router: Which router, with its numbers.
        training: Whether jitter and capacity apply.
        mask: True for tokens that count, (T,); only a capacity looks at it.
    """
    if training and router.jitter:
        x = x * torch.empty_like(x).uniform_(1 - router.jitter, 1 + router.jitter)
    logits = router_logits(x, weight)
    if router.name == "switch":
        rows = logits if logits.dim() > 1 else logits.unsqueeze(0)
        return switch(rows, router.capacity if training else None, None if mask is None else mask.view(rows.shape[:-1]))
    logits = logits.flatten(0, -2)
    if router.name == "dense":
        return dense(logits)
    if router.name == "top_k":
        return top_k(logits, min(router.experts_per_token, weight.shape[0]))
    if router.name == "top_p":
        return top_p(logits, router.top_p)
    raise ValueError(f"router is {router.name!r}; expected one of {[name for name in ROUTERS if name != 'none']}")


def expert_load(output: RouterOutput) -> Tensor:
    """Return the share of the counted tokens' routing that goes to each expert, (E,), summing to 1.

    With sparse routing it is the share of assignments, each token giving an equal part to each of its experts;
    with dense routing (all E slots used) assignments say nothing, so it is the mean weight.
    """
    if output.chosen.shape[-1] == output.experts and bool((output.chosen >= 0).all()):
        rows = output.weights
    else:
        used = output.used().sum(dim=-2).to(output.weights.dtype)
        rows = used / used.sum(dim=-1, keepdim=True).clamp(min=1)
    if output.mask is not None:
        rows = rows[output.mask]
    return rows.sum(dim=0) / rows.sum().clamp(min=torch.finfo(rows.dtype).tiny)
