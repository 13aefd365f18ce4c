"""Dropout touches the low-rank paths only, with PEFT's semantics and random numbers."""

import pytest
import torch
from operator_cases import SCALING, assert_close, assert_same, choose, gradients, leaf
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from moelora import ops
from moelora.ops import Assignment, DoraNorm, Frozen, LowRank, Settings


def seeded(function):
    """Return the function with the same random numbers in every call."""

    def apply(*leaves):
        torch.manual_seed(3)
        return function(*leaves)

    return apply


def peft_layer(**settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6)).double()
    config = LoraConfig(r=2, lora_alpha=2 * SCALING, lora_dropout=0.4, target_modules=["0"], **settings)
    layer = get_peft_model(model, config).base_model.model[0].train()
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight


@pytest.mark.parametrize("form", ["weight", "base"])
def test_lora_equals_pefts_layer_with_dropout(form):
    layer, a, b = peft_layer()
    base = layer.base_layer

    def fast(x, a, b):
        frozen = {"base": base(x)} if form == "base" else {"weight": base.weight, "bias": base.bias}
        return ops.lora_linear(x, a, b, SCALING, dropout=0.4, **frozen)

    assert_same(seeded(fast), seeded(lambda x, a, b: layer(x)), [leaf(9, 5), a, b])


@pytest.mark.parametrize("training", [True, False])
def test_dora_equals_pefts_layer_with_and_without_dropout(training):
    layer, a, b = peft_layer(use_dora=True)
    layer.train(training)
    magnitude = layer.lora_magnitude_vector["default"].weight
    nn.init.normal_(magnitude)
    base = layer.base_layer

    def fast(x, a, b, m):
        return ops.dora_linear(x, base.weight, base.bias, a, b, m, SCALING, dropout=0.4 if training else 0.0)

    assert_same(seeded(fast), seeded(lambda x, a, b, m: layer(x)), [leaf(9, 5), a, b, magnitude])


def test_dora_around_a_called_layer_equals_pefts_layer_with_dropout():
    layer, a, b = peft_layer(use_dora=True)
    magnitude = layer.lora_magnitude_vector["default"].weight
    nn.init.normal_(magnitude)
    base, calls = layer.base_layer, []

    def counted(rows):
        calls.append(len(rows))
        return base(rows)

    def fast(x, a, b, m):
        squares = DoraNorm().squares(base.weight)
        return ops.dora_called_layer(x, counted, base.bias, a, b, m, SCALING, squares, dropout=0.4)

    assert_same(seeded(fast), seeded(lambda x, a, b, m: layer(x)), [leaf(9, 5), a, b, magnitude])
    assert calls == [9 + 9 + 2]  # x, the dropped x and the rows of A


@pytest.mark.parametrize("form", ["weight", "called"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dora_with_dropout_on_the_low_rank_path_equals_its_definition(form, dropout):
    generator = torch.Generator().manual_seed(1)
    weight, bias = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (5, 1))
    bias = bias.flatten()

    def fast(x, a, b, m):
        if form == "weight":
            return ops.dora_linear(x, weight, bias, a, b, m, SCALING, dropout=dropout, low_rank_only=True)
        squares = DoraNorm().squares(weight)
        return ops.dora_called_layer(
            x, lambda rows: functional.linear(rows, weight, bias), bias, a, b, m, SCALING, squares, dropout, True
        )

    def slow(x, a, b, m):
        dropped = functional.dropout(x, dropout) if dropout else None
        return ops.dora_linear_reference(x, weight, bias, a, b, m, SCALING, dropped, low_rank_only=True)

    assert_same(seeded(fast), seeded(slow), [leaf(9, 5), leaf(2, 5), leaf(6, 2), leaf(6)])


def test_one_mask_serves_all_experts_of_a_mixture():
    weight = torch.randn(6, 5, dtype=torch.float64)

    def slow(x, a, b, g):
        return ops.gated_wide_lora_reference(x @ weight.T, functional.dropout(x, 0.4), a, b, g, SCALING)

    def fast(x, a, b, g):
        return ops.gated_wide_lora_linear(x, weight, None, a, b, g, SCALING, dropout=0.4)

    assert_same(seeded(fast), seeded(slow), [leaf(9, 5), leaf(6, 5), leaf(6, 6), leaf(9, 3)])


def block_leaves(experts: int, gated: bool):
    shapes = [(7, 5)] * (2 if gated else 1) + [(5, 7)]
    frozen = [Frozen(torch.randn(s, dtype=torch.float64), torch.randn(s[0], dtype=torch.float64)) for s in shapes]
    leaves = [leaf(9, 5), leaf(9, min(experts, 2))]
    for outputs, inputs in shapes:
        leaves += [leaf(2 * experts, inputs), leaf(outputs, 2 * experts)]
    return shapes, frozen, leaves


def pairs(tensors):
    return tuple(LowRank(*tensors[n : n + 2]) for n in range(0, len(tensors), 2))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("form", ["weight", "module"])
def test_one_mixlora_expert_with_dropout_equals_three_loras(gated, form):
    """The masks are drawn in the order: input, hidden rows."""
    torch.manual_seed(0)
    _, frozen, leaves = block_leaves(1, gated)
    chosen = torch.zeros(9, 1, dtype=torch.long)

    def fast(x, g, *tensors):
        layers = [Frozen(None, one.bias, one) for one in frozen] if form == "module" else frozen
        function = ops.mixlora_gated if gated else ops.mixlora_two_matrix
        settings = Settings(functional.silu, SCALING, dropout=0.4)
        return function(x, *layers, pairs(tensors), Assignment(chosen, g, 1), settings)

    def slow(x, g, *tensors):
        dropped = functional.dropout(x, 0.4)
        first, *middle, last = (one.a.T @ one.b.T * SCALING for one in pairs(tensors))
        hidden = functional.silu(frozen[0](x) + dropped @ first)
        if gated:
            hidden = hidden * (frozen[1](x) + dropped @ middle[0])
        return g * (frozen[-1](hidden) + functional.dropout(hidden, 0.4) @ last)

    assert_same(seeded(fast), seeded(slow), leaves)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("settings", [{}, {"chunk": 4}, {"grouped": False}], ids=str)
def test_numerical_gradients_of_mixlora_with_dropout(gated, settings):
    torch.manual_seed(0)
    _, frozen, leaves = block_leaves(3, gated)
    chosen = choose(9, 3, 2, unused=True)

    def fast(x, g, *tensors):
        function = ops.mixlora_gated if gated else ops.mixlora_two_matrix
        assignment = Assignment(chosen, g * (chosen >= 0), 3)
        return function(x, *frozen, pairs(tensors), assignment, Settings(functional.silu, SCALING, 0.4, **settings))

    assert torch.autograd.gradcheck(seeded(fast), leaves)


@pytest.mark.parametrize("gated", [True, False])
def test_one_mixdora_expert_with_dropout_equals_pefts_doras(gated):
    torch.manual_seed(0)
    shapes, frozen, leaves = block_leaves(1, gated)
    leaves += [leaf(1, outputs) for outputs, _ in shapes]
    chosen = torch.zeros(9, 1, dtype=torch.long)

    def fast(x, g, *tensors):
        factors, magnitudes = pairs(tensors[: -len(shapes)]), tuple(tensors[-len(shapes) :])
        function = ops.mixdora_gated if gated else ops.mixdora_two_matrix
        settings = Settings(functional.silu, SCALING, dropout=0.4)
        return function(x, *frozen, factors, magnitudes, Assignment(chosen, g, 1), settings)

    def slow(x, g, *tensors):
        factors, magnitudes = pairs(tensors[: -len(shapes)]), tensors[-len(shapes) :]

        def apply(n, values):
            layer, pair = frozen[n], factors[n]
            return ops.dora_linear_reference(
                values, layer.weight, layer.bias, pair.a, pair.b, magnitudes[n][0], SCALING,
                functional.dropout(values, 0.4),
            )  # fmt: skip

        hidden = functional.silu(apply(0, x))
        if gated:
            hidden = hidden * apply(1, x)
        return g * apply(len(shapes) - 1, hidden)

    assert_same(seeded(fast), seeded(slow), leaves)


def test_mixdora_with_dropout_handles_unused_slots_and_experts_without_tokens():
    torch.manual_seed(0)
    shapes, frozen, leaves = block_leaves(4, gated=True)
    leaves += [leaf(4, outputs) for outputs, _ in shapes]
    chosen = choose(9, 2, 2, unused=True)

    def fast(x, g, *tensors):
        used = Assignment(chosen, g * (chosen >= 0), 4)
        return ops.mixdora_gated(
            x, *frozen, pairs(tensors[:-3]), tensors[-3:], used, Settings(functional.silu, SCALING, 1e-12)
        )

    def slow(x, g, *tensors):
        used = Assignment(chosen, g * (chosen >= 0), 4)
        return ops.mixdora_gated(
            x, *frozen, pairs(tensors[:-3]), tensors[-3:], used, Settings(functional.silu, SCALING)
        )

    assert_same(fast, slow, leaves, tolerance=1e-9)


def test_masks_are_drawn_again_under_checkpointing():
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    _, frozen, leaves = block_leaves(3, gated=True)
    chosen = choose(9, 3, 2, unused=False)

    def fast(x, g, *tensors):
        settings = Settings(functional.silu, SCALING, 0.4)
        return ops.mixlora_gated(x, *frozen, pairs(tensors), Assignment(chosen, g, 3), settings)

    plain = gradients(seeded(fast), leaves)
    again = gradients(seeded(lambda *tensors: checkpoint(fast, *tensors, use_reentrant=False)), leaves)
    assert_close([again[0], *again[1]], [plain[0], *plain[1]])


def test_a_kept_norm_is_stale_until_invalidated():
    torch.manual_seed(0)
    x, a, b, m = leaf(4, 5), leaf(2, 5), leaf(6, 2), leaf(6)
    weight, norm = torch.randn(6, 5, dtype=torch.float64), DoraNorm()
    ops.dora_linear(x, weight, None, a, b, m, SCALING, norm)
    weight.data.mul_(3)
    expected = ops.dora_linear_reference(x, weight, None, a, b, m, SCALING)
    assert not torch.allclose(ops.dora_linear(x, weight, None, a, b, m, SCALING, norm), expected)
    norm.invalidate()
    assert_close([ops.dora_linear(x, weight, None, a, b, m, SCALING, norm)], [expected])
    with torch.no_grad():
        a.data.mul_(2)  # what moves with the factors is never kept
    assert_close(
        [ops.dora_linear(x, weight, None, a, b, m, SCALING, norm)],
        [ops.dora_linear_reference(x, weight, None, a, b, m, SCALING)],
    )
