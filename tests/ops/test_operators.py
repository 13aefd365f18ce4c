"""What holds for every operator: it equals its slow form, and it behaves in the contexts training puts it in."""

import pytest
import torch
from operator_cases import BLOCKS, CASES, assert_close, assert_same, gradients, leaf, make
from torch.utils.checkpoint import checkpoint

from moelora import ops
from moelora.ops import mixdora_function, shares

SHAPES = [
    {},
    {"bias": False},
    {"tokens": 1},
    {"experts": 1, "slots": 1},
    {"experts": 4, "slots": 4},
    {"experts": 8, "slots": 1, "tokens": 3},  # experts without tokens
]


@pytest.fixture(params=list(CASES))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_equals_the_slow_form(name, settings):
    case = make(name, **settings)
    assert_same(case.fast, case.slow, case.leaves)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("settings", [*SHAPES, {"unused": True}, {"unused": True, "slots": 1}], ids=str)
def test_grouped_and_masked_blocks_equal_the_slow_form(name, grouped, settings):
    case = make(name, grouped=grouped, **settings)
    assert_same(case.fast, case.slow, case.leaves)


@pytest.mark.parametrize("form", ["base", "overwrite"])
@pytest.mark.parametrize("name", ["lora", "mixture"])
def test_increment_on_a_given_output_equals_the_slow_form(name, form):
    case = make(name, form=form)
    assert_same(case.fast, case.slow, case.leaves)


def test_shared_first_factor_equals_the_slow_form():
    case = make("mixture", shared=True, experts=4, slots=3)
    assert_same(case.fast, case.slow, case.leaves)


@pytest.mark.parametrize("name", ["mixlora_gated", "mixlora_two_matrix"])
@pytest.mark.parametrize("settings", [{"form": "module"}, {"chunk": 4}, {"chunk": 4, "grouped": False}], ids=str)
@pytest.mark.parametrize("unused", [True, False])
def test_blocks_in_chunks_or_with_called_layers_equal_the_slow_form(name, settings, unused):
    case = make(name, unused=unused, **settings)
    assert_same(case.fast, case.slow, case.leaves)


def test_numerical_gradients(name):
    case = make(name, tokens=3)
    leaves = case.leaves
    if "dora" in name:  # the norm is a constant for the gradient, so only x, weights and magnitudes can be checked
        frozen = {n for n, one in enumerate(leaves) if one.dim() == 2 and n > 0 and 2 in one.shape}
        frozen |= {n for n, one in enumerate(leaves) if "mix" in name and one.shape in ((6, 5), (7, 6), (6, 7), (5, 6))}
        leaves = [one.detach() if n in frozen else one for n, one in enumerate(leaves)]
        assert sum(one.requires_grad for one in leaves) >= 2
    assert torch.autograd.gradcheck(case.fast, leaves)


def test_leading_axes_and_input_that_is_not_contiguous(name):
    case = make(name, tokens=6)
    x, *others = case.leaves
    output, expected = gradients(case.slow, case.leaves)
    strided = x.detach().T.contiguous().T.requires_grad_()
    assert not strided.is_contiguous()
    ours, found = gradients(case.fast, [strided, *others])
    assert_close([ours, *found], [output, *expected])
    if name != "mixture":  # its router weights have leading axes too: the next test
        ours, found = gradients(lambda x, *others: case.fast(x.view(2, 3, -1), *others).flatten(0, 1), case.leaves)
        assert_close([ours, *found], [output, *expected])


def test_mixture_takes_leading_axes():
    x, a, b, g = leaf(2, 3, 5), leaf(8, 5), leaf(6, 8), leaf(2, 3, 4)
    weight = torch.randn(6, 5, dtype=torch.float64)
    assert_same(
        lambda x, a, b, g: ops.gated_wide_lora_linear(x, weight, None, a, b, g, 0.5),
        lambda x, a, b, g: ops.gated_wide_lora_reference(x @ weight.T, x, a, b, g, 0.5),
        [x, a, b, g],
    )


def test_cotangent_that_is_not_contiguous(name):
    case = make(name)
    shape = case.slow(*case.leaves).shape
    for cotangent in (torch.ones((), dtype=torch.float64).expand(shape), torch.randn(shape[::-1]).double().T):
        ours, theirs = (gradients(one, case.leaves, cotangent) for one in (case.fast, case.slow))
        assert_close(ours[1], theirs[1])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(name, reentrant):
    case = make(name)
    expected = gradients(case.fast, case.leaves)
    leaves = [one.detach().requires_grad_() for one in case.leaves]
    output = checkpoint(case.fast, *leaves, use_reentrant=reentrant)
    generator = torch.Generator().manual_seed(5)
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64))
    assert_close([output, *(one.grad for one in leaves)], [expected[0], *expected[1]])


def test_twice_in_one_graph_and_before_without_gradient(name):
    case = make(name)

    def twice(function):
        def apply(x, *others):
            with torch.no_grad():
                constant = function(x, *others)
            return function(x, *others) * function(x * 0.5, *others) + constant

        return apply

    assert_same(twice(case.fast), twice(case.slow), case.leaves)


def test_backward_twice_through_a_kept_graph(name):
    case = make(name)
    output = case.fast(*case.leaves)
    first = torch.autograd.grad(output.sum(), case.leaves, retain_graph=True)
    assert_close(torch.autograd.grad(output.sum(), case.leaves), first, tolerance=0)


def test_output_may_be_modified_in_place(name):
    case = make(name)
    assert_same(lambda *leaves: case.fast(*leaves).mul_(2), lambda *leaves: case.slow(*leaves) * 2, case.leaves)


def test_only_some_leaves_want_a_gradient(name):
    case = make(name)
    expected = gradients(case.slow, case.leaves)[1]
    for wanted in range(len(case.leaves)):
        leaves = [one.detach().requires_grad_(n == wanted) for n, one in enumerate(case.leaves)]
        output = case.fast(*leaves)
        generator = torch.Generator().manual_seed(5)
        cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        assert_close(torch.autograd.grad(output, leaves[wanted], cotangent), [expected[wanted]])


def test_bfloat16_autocast_stays_close_and_keeps_dtypes(name):
    case = make(name)
    output, expected = gradients(case.slow, case.leaves)
    leaves = [one.detach().float().requires_grad_() for one in case.leaves]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = case.fast(*leaves)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - output).norm() < 0.03 * output.norm()
    generator = torch.Generator().manual_seed(5)
    cotangent = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    outside = torch.autograd.grad(ours, leaves, cotangent.to(ours.dtype), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # a backward pass called inside the context
        inside = torch.autograd.grad(ours, leaves, cotangent.to(ours.dtype))
    assert_close(inside, outside, tolerance=0)
    for one, other in zip(outside, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one.double() - other).norm() < 0.08 * other.norm()


def test_float64_is_left_alone_by_autocast(name):
    case = make(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = case.fast(*case.leaves)
    assert ours.dtype == torch.float64
    assert_close([ours], [case.slow(*case.leaves)])


def test_half_precision_base_with_factors_in_float32(name):
    case = make(name)
    output, expected = gradients(case.slow, case.leaves)
    x, *others = (one.detach().float().requires_grad_() for one in case.leaves)
    half = x.detach().bfloat16().requires_grad_()
    ours, found = gradients(case.fast, [half, *others])
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - output).norm() < 0.03 * output.norm()
    assert [one.dtype for one in found] == [torch.bfloat16] + [torch.float32] * len(others)
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other).norm() < 0.08 * other.norm()


def test_no_tokens_give_empty_output_and_zero_gradients(name):
    case = make(name, tokens=0)
    output = case.fast(*case.leaves)
    assert output.shape[0] == 0 and output.dim() == 2
    assert not any(one.any() for one in torch.autograd.grad(output.sum(), case.leaves))


@pytest.mark.parametrize("name", BLOCKS)
def test_experts_with_more_rows_than_a_share_holds(name, monkeypatch):
    monkeypatch.setattr(shares, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(shares, "NUMBERS_AT_ONCE", 0)
    monkeypatch.setattr(mixdora_function, "ROWS_AT_ONCE", 3)
    case = make(name, tokens=12, unused=True)
    assert_same(case.fast, case.slow, case.leaves)


def test_a_small_step_of_a_magnitude_counts_in_half_precision():
    """A magnitude moves by less than bfloat16 resolves near 1; the output as a whole must follow all the same."""
    torch.manual_seed(0)
    x = torch.randn(64, 32).bfloat16()
    layers = [ops.Frozen((torch.randn(shape) / 6).bfloat16()) for shape in ((48, 32), (32, 48))]
    factors = tuple(ops.LowRank(torch.randn(4, w.weight.shape[1]), torch.randn(w.weight.shape[0], 4)) for w in layers)
    magnitudes = tuple(layer.weight.float().norm(dim=1).repeat(2, 1) for layer in layers)
    assignment = ops.Assignment(torch.randint(2, (64, 1)), torch.ones(64, 1), 2)
    settings = ops.Settings(torch.nn.functional.gelu, 0.1)

    def norm(outer):
        return ops.mixdora_two_matrix(x, *layers, factors, (magnitudes[0], outer), assignment, settings).float().norm()

    assert norm(magnitudes[1] * 1.001) / norm(magnitudes[1]) == pytest.approx(1.001, abs=2e-4)
