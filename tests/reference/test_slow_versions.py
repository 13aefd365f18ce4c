"""Our tuners against the slow versions of `slow`, and those against numbers of other people where there are some."""

from dataclasses import replace

import pytest
import slow
import torch
from foreign_inputs import ALPHA, EXPERTS, INNER, PER_TOKEN, RANK, WIDTH, Draw
from peft import get_peft_model
from reference_files import Reference
from reference_models import Host, wide_a, wide_b
from torch import Tensor, nn

from moelora import losses, routers
from moelora.tuners import MixtureConfig

SCALING = ALPHA / RANK
TOKENS = 5


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and ((ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()).item()


def drawn(seed: int, experts: int) -> dict[str, Tensor]:
    """Return x, the frozen layer, the experts and a router."""
    draw = Draw(seed)
    a, b = draw.factors(WIDTH, INNER, experts)
    return {
        "x": draw(TOKENS, WIDTH), "w": draw(INNER, WIDTH, scale=0.3), "bias": draw(INNER),
        "router": draw(experts, WIDTH), "a": a, "b": b, "cotangent": draw(TOKENS, INNER),
    }  # fmt: skip


def attach(drawn: dict[str, Tensor], **settings) -> nn.Module:
    """Return our mixture layer holding these numbers."""
    linear = nn.Linear(WIDTH, INNER, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(drawn["w"])
        linear.bias.copy_(drawn["bias"])
    config = MixtureConfig(target_modules=["block.up_proj"], r=RANK, alpha=ALPHA, **settings)
    layer = get_peft_model(Host(block=Host(up_proj=linear)), config).base_model.model.block.up_proj
    with torch.no_grad():
        layer.moelora_A["default"].copy_(wide_a(drawn["a"]))
        layer.moelora_B["default"].copy_(wide_b(drawn["b"]))
        if "default" in layer.moelora_router:
            layer.moelora_router["default"].copy_(drawn["router"])
    return layer


def compare(layer: nn.Module, slow_output: Tensor, numbers: dict[str, Tensor], a_is_shared: bool = False) -> None:
    """Hold forward and every gradient of the layer against the slow version's."""
    x = numbers["x"].detach().clone().requires_grad_(True)
    y = layer(x)
    assert close(y, slow_output)
    routed = "default" in layer.moelora_router
    names = ["x", "a", "b", *(["router"] if routed else [])]
    ours = [x, layer.moelora_A["default"], layer.moelora_B["default"]]
    ours += [layer.moelora_router["default"]] if routed else []
    theirs = torch.autograd.grad((slow_output * numbers["cotangent"]).sum(), [numbers[name] for name in names])
    for name, one, other in zip(
        names, torch.autograd.grad((y * numbers["cotangent"]).sum(), ours), theirs, strict=True
    ):
        if name == "a" and a_is_shared:
            assert close(one.unflatten(0, (-1, RANK)).sum(0), other)
        else:
            assert close(one, {"a": wide_a, "b": wide_b}.get(name, Tensor.clone)(other)), name


def with_gradient(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in ("x", "a", "b", "router"):
        numbers[name].requires_grad_(True)
    return numbers


def test_dense_moe_lora_as_described():
    numbers = with_gradient(drawn(41, EXPERTS))
    expected = slow.dense_moe_lora(*(numbers[n] for n in ("x", "w", "bias", "router", "a", "b")), SCALING)
    compare(attach(numbers, experts=EXPERTS, router="dense"), expected, numbers)


def test_slow_dense_moe_lora_gives_the_numbers_of_moe_pefts_loramoe():
    """The two methods share their forward."""
    case = Reference("loramoe")
    x = case.input("x").flatten(0, 1)
    y = slow.dense_moe_lora(x, case.weight("base"), None, *(case.weight(n) for n in ("router", "A", "B")), SCALING)
    assert close(y, case.output("y").flatten(0, 1))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_lora_smoe_uses_the_top_two_or_what_there_is(count):
    numbers = with_gradient(drawn(42, count))
    expected = slow.lora_smoe(*(numbers[n] for n in ("x", "w", "bias", "router", "a", "b")), SCALING)
    layer = attach(numbers, experts={"block.up_proj": count}, router="top_k", experts_per_token=2)
    compare(layer, expected, numbers)


def test_slow_lora_smoe_gives_the_numbers_of_moe_pefts_mola():
    case = Reference("mola")
    x = case.input("x").flatten(0, 1)
    y = slow.lora_smoe(x, case.weight("base"), None, *(case.weight(n) for n in ("router", "A", "B")), SCALING)
    assert close(y, case.output("y").flatten(0, 1))


@pytest.mark.parametrize("shared_a", [True, False])
def test_hydralora_has_one_a(shared_a):
    """Also as a dense mixture with E copies of A, whose gradients add up to that of the one."""
    numbers = with_gradient(drawn(43, EXPERTS))
    shared = numbers["a"][0].detach().clone().requires_grad_(True)
    arguments = (numbers["x"], numbers["w"], numbers["bias"], numbers["router"], shared, numbers["b"])
    expected = slow.hydralora(*arguments, SCALING)
    copies = shared[None] if shared_a else shared.expand(EXPERTS, -1, -1)
    layer = attach({**numbers, "a": copies}, experts=EXPERTS, router="dense", shared_a=shared_a)
    compare(layer, expected, {**numbers, "a": shared}, a_is_shared=True)


def localized(delta: float, form: str, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    draw = Draw(44)
    weights = [torch.softmax(draw(length, EXPERTS), dim=-1) * scale for length in (3, 4, 2)]
    return slow.localized_loss(weights, [1, 1, 0, 0], [1, 0, 0], delta, form), weights


def test_localized_loss_without_types_is_the_squared_coefficient_of_variation():
    draw = Draw(45)
    logits = draw(7, EXPERTS)
    weights = torch.softmax(logits, dim=-1)
    loss = slow.localized_loss([weights], [1, 1, 0, 0], [1], 0.0, "code")
    # The other form divides by E. 1e-10 is added to a squared mean of about 3.
    assert abs(loss - losses.cv_squared(routers.dense(logits)) * EXPERTS / (EXPERTS - 1)) < 1e-9


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("types", [[1, 0, 0], None])
def test_our_localised_loss(form, types):
    """With two samples cut short by padding; forward and the gradient of the logits."""
    draw = Draw(46)
    logits = draw(3, 4, EXPERTS).requires_grad_(True)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]]).bool()
    delta = 0.3
    kept = [torch.softmax(one[counted], dim=-1) for one, counted in zip(logits, mask, strict=True)]
    expected = slow.localized_loss(kept, [1, 1, 0, 0], types or [1, 1, 1], delta if types else 0.0, form)
    routed = replace(
        routers.dense(logits.flatten(0, 1)),
        mask=mask.flatten(),
        samples=torch.arange(3).repeat_interleave(4),
        types=torch.tensor(types).repeat_interleave(4) if types else None,
    )
    ours = (losses.localised if form == "code" else losses.localised_as_printed)(routed, delta)
    assert abs(ours - expected) < 1e-9 * expected
    (gradient,), (other) = torch.autograd.grad(ours, logits), torch.autograd.grad(expected, logits)[0]
    assert (gradient - other).abs().max() < 1e-9 * other.abs().max()


def test_the_two_forms_of_the_localized_loss_are_not_interchangeable():
    paper, weights = localized(0.1, "paper")
    code, _ = localized(0.1, "code")
    mean = torch.tensor([[1.1, 1.1, 0.9, 0.9], [0.9, 0.9, 1.1, 1.1], [0.9, 0.9, 1.1, 1.1]], dtype=torch.float64)
    mean = (mean * torch.stack([one.sum(0) for one in weights])).mean()
    assert torch.isclose(paper, code * mean, rtol=1e-8)
    # Twice the tokens: the paper's form doubles, the code's does not move.
    assert torch.isclose(localized(0.1, "paper", 2.0)[0], 2 * paper, rtol=1e-10)
    assert torch.isclose(localized(0.1, "code", 2.0)[0], code, rtol=1e-8)


def test_localized_loss_is_zero_where_mass_goes_as_the_types_ask():
    """Z is even when each expert serves its own type 1 / (1 + delta) and the other 1 / (1 - delta)."""
    delta = 0.25
    own, other = 1 / (1 + delta), 1 / (1 - delta)
    weights = [torch.tensor([[own, other]], dtype=torch.float64), torch.tensor([[other, own]], dtype=torch.float64)]
    for form in ("paper", "code"):
        assert slow.localized_loss(weights, [1, 0], [1, 0], delta, form) < 1e-20
        assert slow.localized_loss(weights, [1, 0], [0, 1], delta, form) > 0.05


def test_dora_gives_pefts_numbers_and_no_gradient_runs_through_the_norm():
    case = Reference("peft_dora")
    leaves = {name: case.weight(name).requires_grad_(True) for name in ("A", "B", "magnitude")}
    leaves["x"] = case.input("x").requires_grad_(True)

    def gradients(detach_norm: bool) -> dict[str, Tensor]:
        arguments = (case.weight("base"), leaves["A"], leaves["B"], leaves["magnitude"], SCALING, detach_norm)
        y = leaves["x"] @ slow.dora_weight(*arguments).T + case.weight("base.bias")
        assert close(y, case.output("y"))
        found = torch.autograd.grad((y * case.input("cotangent")).sum(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    for name, gradient in gradients(detach_norm=True).items():
        assert close(gradient, case.gradient(name)), name
    through = gradients(detach_norm=False)
    assert close(through["magnitude"], case.gradient("magnitude"))
    assert not torch.allclose(through["A"], case.gradient("A"), rtol=1e-2)


def test_slow_mixdora_gives_moe_pefts_numbers():
    case = Reference("mixdora_gated")
    names = ("gate_proj", "up_proj", "down_proj")
    leaves = {
        name: case.weight(name).requires_grad_(True)
        for name in ["router", *(f"{part}.{kind}" for part in names for kind in ("A", "B", "magnitude"))]
    }
    leaves["x"] = case.input("x").requires_grad_(True)
    parts = {
        part: (case.weight(part), *(leaves[f"{part}.{kind}"] for kind in ("A", "B", "magnitude"))) for part in names
    }
    y = slow.mixdora_block(leaves["x"].flatten(0, 1), parts, leaves["router"], PER_TOKEN, SCALING)
    assert close(y.view_as(case.output("y")), case.output("y"))
    cotangent = case.input("cotangent").flatten(0, 1)
    assert set(leaves) == set(case.group("gradient"))
    for name, gradient in zip(leaves, torch.autograd.grad((y * cotangent).sum(), list(leaves.values())), strict=True):
        assert close(gradient, case.gradient(name)), name
