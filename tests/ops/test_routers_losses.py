"""Routers and balance losses against values known in closed form."""

import pytest
import torch

from moelora.losses import BALANCE_LOSSES, concatenate
from moelora.routers import RouterOutput, dense, expert_load, route, top_k


def balanced(experts: int, k: int) -> RouterOutput:
    """Return uniform probabilities with every expert chosen equally often."""
    routed = top_k(torch.zeros(experts, experts, dtype=torch.float64), k)
    chosen = torch.stack([(torch.arange(k) + token) % experts for token in range(experts)])
    weights = torch.zeros_like(routed.weights).scatter(-1, chosen, routed.slot_weights)
    return RouterOutput(routed.logits, routed.probabilities, weights, chosen, routed.slot_weights)


def collapsed(experts: int) -> RouterOutput:
    logits = torch.full((6, experts), -200.0, dtype=torch.float64)
    logits[:, 0] = 200.0
    return top_k(logits, 1)


def test_top_k_is_softmax_over_all_then_renormalised():
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]], dtype=torch.float64)
    routed = top_k(logits, 2)
    assert routed.chosen.tolist() == [[1, 2]]
    # Equal to the softmax over the kept logits.
    assert torch.allclose(routed.slot_weights, torch.softmax(logits[:, [1, 2]], -1))
    assert torch.allclose(routed.probabilities, torch.softmax(logits, -1))
    assert routed.weights[0, [0, 3]].tolist() == [0.0, 0.0]
    assert torch.allclose(routed.weights.sum(-1), torch.ones(1, dtype=torch.float64))


def test_routing_is_float32_at_least_and_float64_if_the_input_is():
    weight = torch.randn(3, 4)
    assert route(torch.randn(2, 4, dtype=torch.bfloat16), weight, "top_k", 2).weights.dtype == torch.float32
    assert route(torch.randn(2, 4, dtype=torch.float64), weight, "dense", 2).weights.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert route(torch.randn(2, 4), weight, "dense", 2).logits.dtype == torch.float32


def test_top_k_falls_back_to_all_experts():
    routed = route(torch.randn(5, 4), torch.randn(2, 4), "top_k", 6)
    assert torch.allclose(routed.weights, routed.probabilities)


@pytest.mark.parametrize(("experts", "k"), [(4, 1), (4, 2), (8, 2)])
def test_values_at_perfect_balance(experts, k):
    output = balanced(experts, k)
    values = {name: float(loss.function(output)) for name, loss in BALANCE_LOSSES.items()}
    assert values["switch"] == pytest.approx(1)
    assert values["switch_slots"] == pytest.approx(k)
    assert values["mean_probability"] == pytest.approx(1)
    assert values["cv_squared"] == pytest.approx(0)


def test_values_when_collapsed():
    output = collapsed(5)
    assert float(BALANCE_LOSSES["switch"].function(output)) == pytest.approx(5)
    assert float(BALANCE_LOSSES["mean_probability"].function(output)) == pytest.approx(5)
    assert float(BALANCE_LOSSES["cv_squared"].function(output)) == pytest.approx(4)


@pytest.mark.parametrize("name", sorted(BALANCE_LOSSES))
def test_inert_for_dense_routing_exactly_where_it_is_said(name):
    logits = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(BALANCE_LOSSES[name].function(dense(logits)), logits)
    assert bool(gradient.abs().max() < 1e-12) == BALANCE_LOSSES[name].inert_when_dense


@pytest.mark.parametrize("name", sorted(BALANCE_LOSSES))
def test_linear_in_the_batch_exactly_where_it_is_said(name):
    logits = torch.randn(12, 4, dtype=torch.float64) * 2
    loss = BALANCE_LOSSES[name].function
    parts = sum(loss(top_k(part, 2)) for part in logits.split(3)) / 4
    assert bool(torch.isclose(parts, loss(top_k(logits, 2)))) == BALANCE_LOSSES[name].linear_in_batch


@pytest.mark.parametrize("name", sorted(BALANCE_LOSSES))
def test_masked_tokens_change_neither_loss_nor_load(name):
    logits = torch.randn(10, 4, dtype=torch.float64)
    mask = torch.tensor([True] * 6 + [False] * 4)
    loss = BALANCE_LOSSES[name].function
    whole, part = top_k(logits, 2).with_mask(mask), top_k(logits[:6], 2)
    assert torch.allclose(loss(whole), loss(part))
    assert torch.allclose(expert_load(whole), expert_load(part))


def test_load_sums_to_one():
    assert expert_load(top_k(torch.randn(10, 4), 2)).sum() == pytest.approx(1)
    assert expert_load(dense(torch.randn(10, 4))).sum() == pytest.approx(1, abs=1e-6)


def test_concatenation_counts_unmasked_and_masked_layers_together():
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    mask = torch.tensor([True, True, False, False])
    joined = concatenate([top_k(first, 2), top_k(second, 2).with_mask(mask)])
    expected = top_k(torch.cat([first, second[:2]]), 2)
    loss = BALANCE_LOSSES["switch_slots"].function
    assert torch.allclose(loss(joined), loss(expected))
