"""The fast forms equal the obvious ones in float64: forward and every gradient."""

import pytest
import torch
from torch.nn import functional

from moelora import ops
from moelora.ops import Assignment, LowRank, TokenGroups
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


def test_groups_gather_and_combine_are_adjoint_and_differentiable():
    torch.manual_seed(0)
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(6)])
    groups = TokenGroups(chosen, experts=4)
    rows, sorted_rows = leaf(6, 3), leaf(12, 3)
    assert torch.autograd.gradcheck(groups.gather, (rows,))
    assert torch.autograd.gradcheck(groups.combine, (sorted_rows,))
    inner = (groups.gather(rows) * sorted_rows).sum()
    assert torch.allclose(inner, (rows * groups.combine(sorted_rows)).sum())
    assert groups.experts.tolist() == sorted(chosen.flatten().tolist())
    assert torch.equal(groups.gather(rows), rows[groups.tokens])


class Blocks:
    """Random frozen weights and experts: D 5, F 7, R 2."""

    def __init__(self, experts: int, matrices: int, tokens: int = 9):
        torch.manual_seed(experts)
        self.experts = experts
        self.x = leaf(tokens, 5)
        self.logits = leaf(tokens, experts)
        shapes = [(7, 5)] * (matrices - 1) + [(5, 7)]
        self.frozen = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        self.factors = [LowRank(leaf(experts * 2, i), leaf(o, experts * 2)) for o, i in shapes]
        self.leaves = [self.x, self.logits, *(matrix for pair in self.factors for matrix in pair)]

    def finish(self, mixed, products, scaling):
        last = self.factors[-1].b
        return functional.linear(mixed, self.frozen[-1]) + scaling * products @ last.T


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (3, 1), (3, 2), (8, 2), (4, 4)])
def test_gated_experts_equal_full_experts(experts, k):
    block = Blocks(experts, matrices=3)
    routed = top_k(block.logits, k)
    gate, up, _ = (block.x @ matrix.T for matrix in (block.frozen[0], block.frozen[1], block.frozen[0]))
    fast = block.finish(
        *ops.gated_experts(
            gate, up, block.x, block.factors[0], block.factors[1], block.factors[2].a,
            Assignment(routed.chosen, routed.slot_weights, experts), functional.silu, 1.3,
        ),
        1.3,
    )  # fmt: skip
    slow = ops.gated_experts_reference(
        block.x, tuple(block.frozen), tuple(block.factors), routed.weights, functional.silu, 1.3
    )
    leaves = block.leaves if k > 1 else [one for one in block.leaves if one is not block.logits]
    assert_same(fast, slow, leaves)


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (3, 1), (3, 2), (8, 2), (4, 4)])
def test_two_matrix_experts_equal_full_experts(experts, k):
    block = Blocks(experts, matrices=2)
    routed = top_k(block.logits, k)
    fast = block.finish(
        *ops.two_matrix_experts(
            block.x @ block.frozen[0].T, block.x, block.factors[0], block.factors[1].a,
            Assignment(routed.chosen, routed.slot_weights, experts), functional.gelu, 0.7,
        ),
        0.7,
    )  # fmt: skip
    slow = ops.two_matrix_experts_reference(
        block.x, tuple(block.frozen), tuple(block.factors), routed.weights, functional.gelu, 0.7
    )
    leaves = block.leaves if k > 1 else [one for one in block.leaves if one is not block.logits]
    assert_same(fast, slow, leaves)


@pytest.mark.parametrize("tokens", [1, 6])
def test_an_expert_without_tokens_has_a_zero_gradient(tokens):
    block = Blocks(4, matrices=2, tokens=tokens)
    chosen = torch.tensor([[2, 0]]).expand(tokens, 2)
    weights = torch.full((tokens, 2), 0.5, dtype=torch.float64)
    mixed, products = ops.two_matrix_experts(
        block.x @ block.frozen[0].T, block.x, block.factors[0], block.factors[1].a,
        Assignment(chosen, weights, 4), functional.gelu, 1.0,
    )  # fmt: skip
    block.finish(mixed, products, 1.0).sum().backward()
    for pair in block.factors:
        for gradient, axis in ((pair.a.grad, 0), (pair.b.grad, 1)):
            parts = gradient.chunk(4, dim=axis)
            assert [bool(part.abs().sum() > 0) for part in parts] == [True, False, True, False]


def test_hidden_dropout_touches_only_the_low_rank_path():
    block = Blocks(3, matrices=2)
    routed = top_k(block.logits, 2)
    arguments = (
        block.x @ block.frozen[0].T, block.x, block.factors[0], block.factors[1].a,
        Assignment(routed.chosen, routed.slot_weights, 3), functional.gelu, 1.0,
    )  # fmt: skip
    mixed, products = ops.two_matrix_experts(*arguments)
    same, halved = ops.two_matrix_experts(*arguments, dropout=lambda hidden: hidden * 0.5)
    assert torch.equal(mixed, same)
    assert torch.allclose(products * 0.5, halved)
