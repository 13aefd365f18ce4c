"""Our tuners against numbers that other people's implementations gave.

Errors are measured against the largest entry of the reference. The tolerances and why they are what they are:

* float64, 1e-10: the same arithmetic in another order; what is left is some hundred roundings of 1e-16.
* float32, 2e-6: the same with roundings of 6e-8, some dozens of them; inputs are exact (see `foreign_inputs`).
* bfloat16 base with float32 adapters, 1e-2: frozen products and their gradients are rounded to 8 bits, an error of
  2e-3 each, and at most three to five of them follow one another. Measured: up to 5e-3.

Routing decisions agree at every precision because router inputs are exact and routing is never below float32.
"""

import pytest
import torch
from foreign_inputs import EXPERTS, PER_TOKEN, RANK
from peft import get_peft_model
from reference_files import Reference
from reference_models import Attached, Gated, Layers, block_output, error, mixlora, mixture, top_p_weights
from torch import Tensor

from moelora import losses, routers
from moelora.tuners import MixLoraConfig, balance_loss, record_routing, routing

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-6, torch.bfloat16: 1e-2}
ATTACH = {
    "mixlora_gated": lambda case, dtype: mixlora(case, "gated", dtype),
    "mixlora_two_matrix": lambda case, dtype: mixlora(case, "two_matrix", dtype),
    "mixlora_two_matrix_bias": lambda case, dtype: mixlora(case, "two_matrix", dtype),
    "mixlora_two_matrix_bias in one module": lambda case, dtype: mixlora(case, "two_matrix_block", dtype),
    "mixlora_top_p": lambda case, dtype: mixlora(case, "gated", dtype, router="top_p", top_p=case.facts["top_p"]),
    "mixlora_switch": lambda case, dtype: mixlora(case, "gated", dtype, router="switch"),
    "mixdora_gated": lambda case, dtype: mixlora(case, "gated", dtype, dora=True),
    "mola": lambda case, dtype: mixture(case, dtype, experts=EXPERTS, experts_per_token=PER_TOKEN),
    "loramoe": lambda case, dtype: mixture(case, dtype, experts=EXPERTS, router="dense"),
    "peft_lora": lambda case, dtype: mixture(case, dtype, experts=1, router="none"),
}


def run(case: Reference, attached: Attached, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and the gradient of every leaf, ours by the case's names."""
    x = case.input("x").to(dtype).requires_grad_(True)
    y = attached.model(x)
    leaves = {"x": x, **{name: parameter for name, (parameter, _) in attached.pairs.items()}}
    (y * case.input("cotangent").to(y.dtype)).sum().backward()
    return y, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ATTACH)
def test_forward_and_every_gradient(name, dtype):
    case = Reference(name.split()[0])
    attached = ATTACH[name](case, dtype)
    y, gradients = run(case, attached, dtype)
    errors = {"y": error(y, case.output("y"))}
    for leaf, gradient in gradients.items():
        theirs = case.gradient(leaf)
        errors[leaf] = error(gradient, theirs if leaf == "x" else attached.pairs[leaf][1](theirs))
    # Nothing of the reference's gradients may go uncompared.
    assert set(case.group("gradient")) == set(gradients)
    # DoRA divides by a norm and multiplies by a magnitude, two more roundings to bfloat16.
    allowed = 2 if name == "mixdora_gated" and dtype is torch.bfloat16 else 1
    assert max(errors.values()) <= allowed * TOLERANCE[dtype], errors


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", [name for name in ATTACH if name != "peft_lora"])
def test_router_probabilities(name, dtype):
    case = Reference(name.split()[0])
    attached = ATTACH[name](case, dtype)
    with record_routing(attached.model), torch.no_grad():
        attached.model(case.input("x").to(dtype))
    ((_, output),) = routing(attached.model)
    theirs = case.output("probabilities").flatten(0, -2)
    assert error(output.probabilities, theirs) <= TOLERANCE[torch.float32 if dtype != torch.float64 else dtype]
    if name not in ("loramoe", "mixlora_top_p"):
        expected = theirs.topk(1 if name == "mixlora_switch" else PER_TOKEN, dim=-1).indices
        assert torch.equal(output.chosen, expected)


def test_the_two_packages_agree_on_mixlora():
    case = Reference("mixlora_gated")
    assert error(case.output("y_mixlora_package"), case.output("y")) < 1e-14


def test_an_expert_without_tokens_has_zero_gradients_on_both_sides():
    case = Reference("mixlora_gated")
    for part in ("gate_proj", "up_proj", "down_proj"):
        for factor in "AB":
            gradient = case.gradient(f"{part}.{factor}")
            assert not gradient[3].any()
            assert all(gradient[expert].any() for expert in range(3))


@pytest.mark.parametrize("which", ["masked", "unmasked"])
def test_balance_loss_over_layers_and_padding(which):
    case = Reference("mixlora_balance")
    block = Reference("mixlora_gated")
    config = MixLoraConfig(
        feed_forward_modules=["mlp"], num_experts=EXPERTS, experts_per_token=PER_TOKEN, r=RANK,
        balance_coefficient=case.facts["coefficient"],
    )  # fmt: skip
    model = get_peft_model(Layers([Gated(block) for _ in range(case.facts["layers"])]), config).train()
    parameters = [layer.mlp.moelora_router["default"] for layer in model.base_model.model.layers]
    with torch.no_grad():
        for parameter, router in zip(parameters, case.weight("routers"), strict=True):
            parameter.copy_(router)
    x = case.input("x").requires_grad_(True)
    model(x, attention_mask=case.input("attention_mask") if which == "masked" else None)
    loss = balance_loss(model)
    assert error(loss, case.output(f"loss_{which}")) <= 1e-10
    gradients = torch.autograd.grad(loss, [x, *parameters])
    assert error(gradients[0], case.gradient(f"x_{which}")) <= 1e-10
    assert error(torch.stack(gradients[1:]), case.gradient(f"routers_{which}")) <= 1e-10


def test_padding_matters_to_the_balance_loss_of_this_case():
    case = Reference("mixlora_balance")
    assert error(case.output("loss_masked"), case.output("loss_unmasked")) > 1e-3
    assert not case.gradient("x_masked")[:, 0, 4:].any()
    assert case.gradient("x_unmasked")[:, 0, 4:].any()


def test_molas_loss_in_the_package_counts_both_slots():
    """The package copies MixLoRA's normalisation; MoLA's own sums assignments to 1, which is half of it."""
    case = Reference("mola")
    routed = routers.top_k(case.output("logits").flatten(0, -2), PER_TOKEN)
    assert error(losses.switch_slots(routed), case.output("loss_when_asked_for")) <= 1e-10
    assert error(PER_TOKEN * losses.switch(routed), case.output("loss_when_asked_for")) <= 1e-10


def test_block_with_dynamic_routing_from_its_weights():
    case = Reference("mixlora_top_p")
    weights = top_p_weights(case)
    counts = (weights > 0).sum(-1)
    assert counts.min() < counts.max()
    assert weights.sum(-1).max() < 1 - 1e-4 and weights.sum(-1).min() >= case.facts["top_p"]
    assert error(block_output(case, weights), case.output("y")) <= 1e-10


def test_block_with_switch_routing_from_its_weights():
    case = Reference("mixlora_switch")
    probabilities = case.output("probabilities")
    best = probabilities.max(-1, keepdim=True)
    weights = torch.zeros_like(probabilities).scatter(-1, best.indices, best.values).flatten(0, -2)
    assert error(block_output(case, weights), case.output("y")) <= 1e-10
    assert error(best.values, case.output("probability").flatten(0, -2)) <= 1e-10


def test_switch_losses():
    case = Reference("mixlora_switch")
    logits = case.output("logits").requires_grad_(True)
    routed = routers.top_k(logits, 1)
    assert error(losses.z_loss(routed), case.output("z_loss")) <= 1e-10
    assert error(losses.switch(routed), case.output("balance")) <= 1e-10
    both = case.facts["z_coefficient"] * losses.z_loss(routed)
    both = both + case.facts["balance_coefficient"] * losses.switch(routed)
    assert error(both, case.output("loss")) <= 1e-10
    (gradient,) = torch.autograd.grad(both, logits)
    assert error(gradient, case.output("loss_gradient_logits")) <= 1e-10


def test_our_dynamic_router_and_its_balance_loss():
    case = Reference("mixlora_top_p")
    logits = case.output("logits").requires_grad_(True)
    routed = routers.top_p(logits, case.facts["top_p"])
    assert error(routed.weights, top_p_weights(case)) <= 1e-10
    assert error(routed.probabilities, case.output("probabilities")) <= 1e-10
    assert torch.equal(routed.chosen, case.output("slots"))
    loss = losses.switch_slots(routed)
    assert error(loss, case.output("loss")) <= 1e-10
    (gradient,) = torch.autograd.grad(loss, logits)
    assert error(gradient, case.output("loss_gradient_logits")) <= 1e-10


def test_our_switch_router():
    case = Reference("mixlora_switch")
    probabilities = case.output("probabilities")
    best = probabilities.max(-1, keepdim=True)
    routed = routers.switch(case.output("logits"), None)
    assert error(routed.weights, torch.zeros_like(probabilities).scatter(-1, best.indices, best.values)) <= 1e-10
    assert torch.equal(routed.chosen, best.indices)


def test_our_switch_router_finds_room_for_the_same_tokens():
    case = Reference("mixlora_switch")
    mask = case.output("mask_capacity")
    routed = routers.switch(case.output("logits").unflatten(0, mask.shape[:2]), case.facts["capacity"])
    assert torch.equal(routed.used().sum(1), mask.flatten(0, 1))
    assert torch.equal(routed.weights > 0, mask.flatten(0, 1) > 0)
