"""A routed mixture as one function equals its slow form, and a router and a mixture one after the other."""

import pytest
import torch
from operator_cases import SCALING, assert_close, assert_same, gradients, leaf
from torch.nn import functional

from moelora import ops
from moelora.routers import RouterSettings, route

RANK = 2


def make_leaves(tokens: int = 9, experts: int = 5, shared: bool = False) -> list[torch.Tensor]:
    """Return x, a, b and router."""
    torch.manual_seed(0)
    width = experts * RANK
    return [leaf(tokens, 5), leaf(RANK if shared else width, 5), leaf(6, width), leaf(experts, 5)]


def make_frozen(bias: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    weight, one = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (5, 1))
    return weight, one.flatten() if bias else None


def apart(x, a, b, router, per_token, dropout: float):
    """Return output and logits of a router and a mixture one after the other."""
    weight, frozen_bias = make_frozen()
    routed = route(x, router, RouterSettings("dense" if per_token is None else "top_k", per_token or 0))
    output = ops.gated_wide_lora_linear(x, weight, frozen_bias, a, b, routed.weights, SCALING, dropout)
    return output, routed.logits


@pytest.mark.parametrize("per_token", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("form", ["weight", "base"])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_the_slow_form(per_token, form, shared):
    weight, bias = make_frozen(bias=per_token != 2)

    def fast(x, a, b, router):
        frozen = {"weight": weight, "bias": bias} if form == "weight" else {"base": functional.linear(x, weight, bias)}
        return ops.routed_lora(x, a, b, router, SCALING, per_token, **frozen).output

    def slow(x, a, b, router):
        return ops.routed_lora_reference(x, weight, bias, a, b, router, SCALING, per_token)

    leaves = make_leaves(shared=shared)
    if per_token == 1:  # the weight is constant, and the slow form's gradient of the router is rounding
        router = leaves.pop().detach()
        assert_same(lambda *own: fast(*own, router), lambda *own: slow(*own, router), leaves)
        return
    assert_same(fast, slow, leaves)


@pytest.mark.parametrize("experts", [1, 40])
def test_one_expert_and_many_equal_the_slow_form(experts):
    weight, bias = make_frozen()
    leaves = make_leaves(experts=experts)
    if experts == 1:
        leaves[-1].requires_grad_(False)
    wanted = [one for one in leaves if one.requires_grad]

    def complete(own):
        return [*own, *leaves[len(own) :]]

    assert_same(
        lambda *own: ops.routed_lora(*complete(own), SCALING, 2, weight=weight, bias=bias).output,
        lambda *own: ops.routed_lora_reference(
            own[0], weight, bias, *complete(own)[1:], SCALING, 2
        ),
        wanted,
    )  # fmt: skip


@pytest.mark.parametrize("per_token", [None, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("used", ["output", "logits", "both"])
def test_equals_router_and_mixture_apart_with_a_loss_on_the_logits(per_token, dropout, used):
    weight, bias = make_frozen()
    generator = torch.Generator().manual_seed(5)
    cotangents = torch.randn(9, 6, generator=generator).double(), torch.randn(9, 5, generator=generator).double()

    def loss(output, logits):
        parts = {"output": [(output, cotangents[0])], "logits": [(logits, cotangents[1])]}
        return sum((one * other).sum() for one, other in parts.get(used, parts["output"] + parts["logits"]))

    def fast(*leaves):
        torch.manual_seed(3)
        routed = ops.routed_lora(*leaves, SCALING, per_token, weight=weight, bias=bias, dropout=dropout)
        return loss(routed.output, routed.logits.T)

    def slow(*leaves):
        torch.manual_seed(3)
        return loss(*apart(*leaves, per_token, dropout))

    leaves = make_leaves()
    ours, theirs = fast(*leaves), slow(*leaves)
    assert_close([ours], [theirs])
    found = torch.autograd.grad(ours, leaves, allow_unused=True)
    for one, other in zip(found, torch.autograd.grad(theirs, leaves, allow_unused=True), strict=True):
        expected = torch.zeros(()).double() if other is None else other
        one = torch.zeros_like(expected) if one is None else one
        assert_close([one], [expected.expand_as(one)])


def test_what_is_chosen_is_what_the_router_chooses():
    weight, bias = make_frozen()
    leaves = make_leaves()
    routed = ops.routed_lora(*leaves, SCALING, 3, weight=weight, bias=bias)
    expected = route(leaves[0], leaves[-1], RouterSettings("top_k", 3))
    assert torch.equal(routed.chosen.T, expected.chosen)
    assert not routed.chosen.requires_grad
    assert ops.routed_lora(*leaves, SCALING, None, weight=weight).chosen is None


def test_a_tie_still_uses_k_experts():
    """With all logits equal any K may be chosen, and each has the weight 1 / K."""
    x, a, b, router = (one.detach() for one in make_leaves())
    routed = ops.routed_lora(x, a, b, torch.zeros_like(router), SCALING, 2, base=torch.zeros(9, 6).double())
    used = torch.zeros(9, 5).double().scatter(1, routed.chosen.T, 0.5)
    assert_close([routed.output], [ops.gated_wide_lora_reference(torch.zeros(9, 6).double(), x, a, b, used, SCALING)])


def test_leading_axes_and_input_that_is_not_contiguous():
    weight, bias = make_frozen()
    x, *others = make_leaves()
    three = x.detach().view(3, 3, 5).transpose(0, 1).requires_grad_()
    assert_same(
        lambda x, *own: ops.routed_lora(x, *own, SCALING, 2, weight=weight, bias=bias).output.flatten(0, 1),
        lambda x, *own: ops.routed_lora_reference(x.flatten(0, 1), weight, bias, *own, SCALING, 2),
        [three, *others],
    )


def test_only_some_leaves_want_a_gradient():
    leaves = make_leaves()
    weight, bias = make_frozen()

    def fast(*own):
        return ops.routed_lora(*own, SCALING, 2, weight=weight, bias=bias).output

    expected = gradients(fast, leaves)[1]
    for wanted in range(len(leaves)):
        own = [one.detach().requires_grad_(n == wanted) for n, one in enumerate(leaves)]
        assert_close(gradients(lambda one, own=own, wanted=wanted: fast(*own[:wanted], one, *own[wanted + 1 :]),
                               [own[wanted]])[1], [expected[wanted]])  # fmt: skip


def test_no_tokens_and_no_gradient():
    weight, bias = make_frozen()
    leaves = make_leaves(tokens=0)
    routed = ops.routed_lora(*leaves, SCALING, 2, weight=weight, bias=bias)
    assert routed.output.shape == (0, 6) and routed.logits.shape == (5, 0)
    assert not any(one.any() for one in torch.autograd.grad(routed.output.sum(), leaves))
    with torch.no_grad():
        assert ops.routed_lora(*make_leaves(), SCALING, 2, weight=weight).output.grad_fn is None


def test_half_precision_base_with_factors_in_float32():
    weight, bias = make_frozen()
    expected = ops.routed_lora_reference(*make_leaves()[:1], weight, bias, *make_leaves()[1:], SCALING, None)
    x, *others = (one.detach().float().requires_grad_() for one in make_leaves())
    half = x.detach().bfloat16().requires_grad_()
    assert ops.takes_router(half, *others)
    for frozen in ({"weight": weight.bfloat16(), "bias": bias.bfloat16()},
                   {"base": functional.linear(half, weight.bfloat16(), bias.bfloat16())}):  # fmt: skip
        own = half if "weight" in frozen else half.float()
        output = ops.routed_lora(own, *others, SCALING, None, **frozen).output
        assert output.dtype == (torch.bfloat16 if "weight" in frozen else torch.float32)
        assert (output.double() - expected).norm() < 0.03 * expected.norm()
        found = torch.autograd.grad(output.float().sum(), [half, *others])
        assert [one.dtype for one in found] == [torch.bfloat16, *[torch.float32] * 3]


def test_it_is_used_only_where_it_computes_the_same():
    x, a, b, router = (one.detach().float() for one in make_leaves())
    assert ops.takes_router(x, a, b, router)
    assert not ops.takes_router(x.double(), a, b, router)  # routing in float64, factors in float32
    assert not ops.takes_router(x, a.bfloat16(), b.bfloat16(), router)
    assert not ops.takes_router(x.bfloat16(), a.bfloat16(), b.bfloat16(), router.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not ops.takes_router(x, a, b, router)
    with pytest.raises(ValueError, match="give exactly one"):
        ops.routed_lora(x, a, b, router, SCALING, 2)
