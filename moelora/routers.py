"""Routers: what weighs the experts of a token.

Softmax runs over all experts; top-k keeps the k largest probabilities and divides them by their sum.
Routing works in float32 at the least (float64 when the input is), also under autocast.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

ROUTERS = ("dense", "top_k", "none")


@dataclass(frozen=True)
class RouterOutput:
    """What a router decided for T tokens.

    Attributes:
        logits: Before the softmax, (T, E).
        probabilities: Softmax over all experts, (T, E).
        weights: What the experts are multiplied by, zero where unused, (T, E).
        chosen: Experts used, most probable first, (T, K). With dense routing K = E.
        slot_weights: The weights of the chosen, (T, K).
        mask: True for tokens that count, (T,); None when all do. Padding is computed like any token
            but never enters loads and losses.
    """

    logits: Tensor
    probabilities: Tensor
    weights: Tensor
    chosen: Tensor
    slot_weights: Tensor
    mask: Tensor | None = None

    @property
    def experts(self) -> int:
        """Number of experts E."""
        return self.probabilities.shape[-1]

    def detach(self) -> "RouterOutput":
        """Return the same output cut off from the graph."""
        return RouterOutput(
            self.logits.detach(),
            self.probabilities.detach(),
            self.weights.detach(),
            self.chosen,
            self.slot_weights.detach(),
            self.mask,
        )

    def with_mask(self, mask: Tensor | None) -> "RouterOutput":
        """Return the same output with another mask."""
        return replace(self, mask=mask)


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Return x weight^T in float32 or better, (..., E), whatever autocast says."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    with torch.autocast(device_type=x.device.type, enabled=False):
        return functional.linear(x.to(dtype), weight.to(dtype))


def dense(logits: Tensor) -> RouterOutput:
    """Use every expert with its softmax probability; logits (T, E)."""
    probabilities = torch.softmax(logits, dim=-1)
    slot_weights, chosen = probabilities.sort(dim=-1, descending=True, stable=True)
    return RouterOutput(logits, probabilities, probabilities, chosen, slot_weights)


def top_k(logits: Tensor, k: int) -> RouterOutput:
    """Use the k most probable experts, their probabilities divided by their sum; logits (T, E).

    With k = 1 the weight is the constant 1, so the task loss sends no gradient to the router.
    """
    probabilities = torch.softmax(logits, dim=-1)
    kept, chosen = probabilities.topk(k, dim=-1)
    slot_weights = kept / kept.sum(dim=-1, keepdim=True)
    weights = torch.zeros_like(probabilities).scatter(-1, chosen, slot_weights)
    return RouterOutput(logits, probabilities, weights, chosen, slot_weights)


def route(x: Tensor, weight: Tensor, router: str, experts_per_token: int) -> RouterOutput:
    """Route the tokens of x, (..., D), with a router weight (E, D); leading axes are flattened to T.

    Args:
        x: Input of the module, before dropout.
        weight: Router weight.
        router: "dense" or "top_k".
        experts_per_token: k of "top_k"; more than E means all E.
    """
    logits = router_logits(x, weight).flatten(0, -2)
    if router == "dense":
        return dense(logits)
    if router == "top_k":
        return top_k(logits, min(experts_per_token, weight.shape[0]))
    raise ValueError(f"router is {router!r}; expected 'dense' or 'top_k'")


def expert_load(output: RouterOutput) -> Tensor:
    """Return the share of the counted tokens' routing that goes to each expert, (E,), summing to 1.

    With sparse routing it is the share of assignments, each token giving 1 / K to each of its experts;
    with dense routing (K = E) assignments say nothing, so it is the mean weight.
    """
    experts = output.experts
    if output.chosen.shape[-1] == experts:
        rows = output.weights
    else:
        rows = functional.one_hot(output.chosen, experts).sum(dim=-2).to(output.weights.dtype)
        rows = rows / output.chosen.shape[-1]
    if output.mask is not None:
        rows = rows[output.mask]
    return rows.mean(dim=0)
