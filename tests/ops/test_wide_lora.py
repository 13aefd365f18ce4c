"""The fast forms equal the obvious ones in float64: forward and every gradient."""

import pytest
import torch

from moelora import ops
from moelora.routers import top_k

TOLERANCE = 1e-10


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def assert_same(fast, slow, leaves) -> None:
    """Compare two results and their gradients for a random cotangent, relative to their size."""
    assert torch.allclose(fast, slow, rtol=TOLERANCE, atol=TOLERANCE)
    cotangent = torch.randn_like(slow)
    fast_gradients = torch.autograd.grad(fast, leaves, cotangent, retain_graph=True)
    slow_gradients = torch.autograd.grad(slow, leaves, cotangent)
    for one, other in zip(fast_gradients, slow_gradients, strict=True):
        assert torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("experts", [1, 2, 5])
@pytest.mark.parametrize("kind", ["dense", "top_k", "unweighted"])
def test_wide_lora_equals_expert_by_expert(experts, kind):
    torch.manual_seed(0)
    base, x, logits = leaf(7, 6), leaf(7, 4), leaf(7, experts)
    a, b = leaf(experts * 3, 4), leaf(6, experts * 3)
    leaves = [base, x, a, b]
    if kind == "unweighted":
        weights = None
    else:
        leaves.append(logits)
        weights = logits.softmax(-1) if kind == "dense" else top_k(logits, min(2, experts)).weights
    assert_same(
        ops.gated_wide_lora(base, x, a, b, weights, 1.7),
        ops.gated_wide_lora_reference(base, x, a, b, weights, 1.7),
        leaves,
    )


def test_wide_lora_takes_leading_axes():
    base, x, a, b, weights = leaf(2, 3, 6), leaf(2, 3, 4), leaf(8, 4), leaf(6, 8), leaf(2, 3, 4)
    fast = ops.gated_wide_lora(base, x, a, b, weights, 0.5)
    assert torch.allclose(fast, ops.gated_wide_lora_reference(base, x, a, b, weights, 0.5))


def test_wide_lora_gives_an_unused_expert_a_zero_gradient():
    base, x, a, b = leaf(5, 6), leaf(5, 4), leaf(6, 4), leaf(6, 6)
    weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(5, 2)
    ops.gated_wide_lora(base, x, a, b, weights, 1.0).sum().backward()
    assert torch.equal(a.grad[3:], torch.zeros_like(a.grad[3:]))
    assert a.grad[:3].abs().sum() > 0


def test_delta_is_the_unweighted_increment():
    x, a, b = leaf(5, 4), leaf(6, 4), leaf(3, 6)
    increment = ops.gated_wide_lora(torch.zeros(5, 3, dtype=torch.float64), x, a, b, None, 2.0)
    assert torch.allclose(increment, x @ ops.wide_lora_delta(a, b, 2.0).T)
