"""Routers and balance losses against values known in closed form."""

from dataclasses import replace

import pytest
import torch

from moelora.losses import BALANCE_LOSSES, concatenate
from moelora.routers import RouterOutput, RouterSettings, dense, expert_load, route, switch, top_k, top_p


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
    assert (
        route(torch.randn(2, 4, dtype=torch.bfloat16), weight, RouterSettings("top_k", 2)).weights.dtype
        == torch.float32
    )
    assert route(torch.randn(2, 4, dtype=torch.float64), weight, RouterSettings("dense")).weights.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert route(torch.randn(2, 4), weight, RouterSettings("dense")).logits.dtype == torch.float32


def test_top_k_falls_back_to_all_experts():
    routed = route(torch.randn(5, 4), torch.randn(2, 4), RouterSettings("top_k", 6))
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
    whole, part = replace(top_k(logits, 2), mask=mask), top_k(logits[:6], 2)
    assert torch.allclose(loss(whole), loss(part))
    assert torch.allclose(expert_load(whole), expert_load(part))


def test_load_sums_to_one():
    assert expert_load(top_k(torch.randn(10, 4), 2)).sum() == pytest.approx(1)
    assert expert_load(dense(torch.randn(10, 4))).sum() == pytest.approx(1, abs=1e-6)


def test_concatenation_counts_unmasked_and_masked_layers_together():
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    mask = torch.tensor([True, True, False, False])
    joined = concatenate([top_k(first, 2), replace(top_k(second, 2), mask=mask)])
    expected = top_k(torch.cat([first, second[:2]]), 2)
    loss = BALANCE_LOSSES["switch_slots"].function
    assert torch.allclose(loss(joined), loss(expected))


def test_top_p_keeps_the_shortest_row_that_reaches_p():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.9, 0.03, 0.02]], dtype=torch.float64)
    routed = top_p(probabilities.log(), 0.8 - 1e-9)
    assert routed.chosen.tolist() == [[0, 1, -1, -1], [1, -1, -1, -1]]
    expected = torch.tensor([[0.5, 0.3, 0, 0], [0, 0.9, 0, 0]], dtype=torch.float64)
    assert torch.allclose(routed.weights, expected)  # not renormalised
    assert torch.allclose(routed.slot_weights.sum(-1), expected.sum(-1))
    assert expert_load(routed).tolist() == pytest.approx([0.25, 0.75, 0, 0])


def test_top_p_of_one_is_dense():
    logits = torch.randn(5, 4, dtype=torch.float64)
    assert torch.allclose(top_p(logits, 1.0).weights, dense(logits).weights)


def test_switch_serves_a_sequence_in_order_until_an_expert_is_full():
    logits = torch.tensor([[[2.0, 0], [2, 0], [0, 2], [2, 0]], [[2, 0], [0, 2], [0, 2], [0, 2]]])
    routed = switch(logits, 2)
    assert routed.chosen.flatten().tolist() == [0, 0, 1, -1, 0, 1, 1, -1]  # each row has places of its own
    kept = torch.softmax(torch.tensor([2.0, 0]), -1)[0]
    assert routed.weights[0].tolist() == pytest.approx([float(kept), 0])  # the probability itself
    assert routed.weights[3].tolist() == [0, 0]
    assert (switch(logits, None).chosen >= 0).all()


def test_padding_takes_no_place_in_an_expert():
    logits = torch.tensor([[[2.0, 0], [2, 0], [2, 0]]])
    mask = torch.tensor([[False, True, True]])
    assert switch(logits, 2, mask).chosen.flatten().tolist()[1:] == [0, 0]
    assert switch(logits, 2).chosen.flatten().tolist()[2] == -1


def test_capacity_and_jitter_act_in_training_only():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 12, 4), torch.randn(2, 4)
    router = RouterSettings("switch", capacity=1, jitter=0.5)
    assert (route(x, weight, router).chosen >= 0).all()
    assert torch.equal(route(x, weight, router).logits, x[0] @ weight.T)
    trained = route(x, weight, router, training=True)
    assert (trained.chosen >= 0).sum() <= 2
    assert not torch.equal(trained.logits, x[0] @ weight.T)


def typed(weights, samples, types):
    routed = dense(torch.zeros(len(samples), weights.shape[-1], dtype=torch.float64))
    return replace(routed, weights=weights, samples=torch.tensor(samples), types=torch.tensor(types))


def test_localised_balance_is_least_where_each_type_has_its_half():
    """With delta, loads in the ratio (1 - delta) : (1 + delta) of own and other experts make Z even."""
    loss = BALANCE_LOSSES["localised"].function
    own, other = 0.4 / 1.1, 0.4 / 0.9
    even = typed(torch.tensor([[own, other], [other, own]], dtype=torch.float64), [0, 1], [1, 0])
    assert float(loss(even, 0.1)) == pytest.approx(0, abs=1e-12)
    # plain balance without types: equal loads are even, whatever delta
    plain = replace(typed(torch.full((2, 2), 0.5, dtype=torch.float64), [0, 1], [1, 0]), types=None)
    assert float(loss(plain, 0.1)) == 0


def test_localised_balance_by_hand():
    weights = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    output = typed(weights, [0, 0, 1], [1, 1, 0])
    # loads: sample 0 (0.9, 1.1), sample 1 (0.6, 0.4); expert 0 is of type 1
    z = torch.tensor([0.9 * 1.1, 1.1 * 0.9, 0.6 * 0.9, 0.4 * 1.1], dtype=torch.float64)
    assert float(BALANCE_LOSSES["localised"].function(output, 0.1)) == pytest.approx(float(z.var() / z.mean() ** 2))
    printed = BALANCE_LOSSES["localised_as_printed"].function(output, 0.1)
    assert float(printed) == pytest.approx(float(z.var() / z.mean()))
