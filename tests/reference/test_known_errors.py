"""Where the packages are known to be wrong, or do less than their paper: the difference is shown, not copied."""

import pytest
import torch
from foreign_inputs import ALPHA, EXPERTS, PER_TOKEN, RANK
from peft import LoraConfig, get_peft_model
from reference_files import Reference
from reference_models import Host, block_output, error, linear, mixture, top_p_weights
from torch import nn
from torch.nn import functional

from moelora.tuners import balance_loss

SCALING = ALPHA / RANK


@pytest.fixture
def drawn(monkeypatch):
    """Let the operators draw the mask that moe-peft drew."""
    mask = Reference("fused_lora_dropout").input("mask").flatten(0, 1)
    monkeypatch.setattr("moelora.ops.lora.drop", lambda rows, probability: (rows * mask, mask > 0))


def test_moe_pefts_fused_lora_forgets_the_dropout_mask_in_its_backward_pass(drawn):
    """With the same mask ours has the same output and the same gradient of B, and another gradient of A."""
    case = Reference("fused_lora_dropout")
    attached = mixture(case, torch.float64, experts=1, router="none", dropout=case.facts["dropout"])
    layer = attached.model.base_model.model.up_proj
    x = case.input("x").requires_grad_(True)
    y = attached.model(x)
    (y * case.input("cotangent")).sum().backward()
    a, b = layer.moelora_A["default"], layer.moelora_B["default"]
    assert error(y, case.output("y")) <= 1e-10
    assert error(b.grad, case.gradient("B")) <= 1e-10
    assert error(a.grad, case.gradient("A")) > 0.1
    # What it computes instead: the undropped input, scaled as if it had been dropped.
    low = case.input("cotangent").flatten(0, 1) @ case.weight("B") * SCALING / (1 - case.facts["dropout"])
    assert error(low.T @ case.input("x").detach().flatten(0, 1), case.gradient("A")) <= 1e-10
    # The gradient that goes on to the layers below misses the mask in the same way.
    assert error(x.grad, case.gradient("x")) > 0.1


def test_the_true_gradient_of_a_under_dropout_is_ours(drawn):
    case = Reference("fused_lora_dropout")
    a = case.weight("A").requires_grad_(True)
    dropped = case.input("x") * case.input("mask")
    y = case.input("x") @ case.weight("base").T + SCALING * dropped @ a.T @ case.weight("B").T
    assert error(y, case.output("y")) <= 1e-10
    (by_autograd,) = torch.autograd.grad((y * case.input("cotangent")).sum(), a)
    attached = mixture(case, torch.float64, experts=1, router="none", dropout=case.facts["dropout"])
    layer = attached.model.base_model.model.up_proj
    (attached.model(case.input("x")) * case.input("cotangent")).sum().backward()
    assert error(layer.moelora_A["default"].grad, by_autograd) <= 1e-10


def pefts_dora(case: Reference) -> nn.Module:
    """Return PEFT's DoRA layer, made now, with a case's numbers."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["up_proj"], use_dora=True)
    model = get_peft_model(Host(up_proj=linear(case, "base")), config, autocast_adapter_dtype=False)
    layer = model.base_model.model.up_proj
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(case.weight("A"))
        layer.lora_B["default"].weight.copy_(case.weight("B"))
        layer.lora_magnitude_vector["default"].weight.copy_(case.weight("magnitude"))
    return layer


def test_moe_pefts_dora_neither_trains_nor_saves_its_magnitude():
    """Its parameter has a gradient, but optimiser and checkpoint are made from a list that leaves it out."""
    case = Reference("dora_bias")
    assert case.gradient("magnitude").any()
    assert [name.rsplit(".", 2)[1] for name in case.facts["trained_and_saved"]] == ["lora_A", "lora_B"]
    magnitude = pefts_dora(case).lora_magnitude_vector["default"].weight
    assert magnitude.requires_grad


def test_moe_pefts_dora_scales_the_bias():
    """PEFT's y = W' x + bias; there the bias is multiplied by magnitude / norm too."""
    case = Reference("dora_bias")
    with torch.no_grad():
        pefts = pefts_dora(case)(case.input("x"))
    norm = (case.weight("base") + SCALING * case.weight("B") @ case.weight("A")).norm(dim=1)
    extra = (case.weight("magnitude") / norm - 1) * case.weight("base.bias")
    assert error(pefts, case.output("y")) > 0.1
    assert error(pefts + extra, case.output("y")) <= 1e-10


def test_moe_pefts_switch_router_returns_its_input_in_inference():
    case = Reference("mixlora_switch")
    assert torch.equal(case.output("y_inference"), case.input("x"))
    assert error(case.output("y_inference"), case.output("y")) > 0.1


def test_moe_pefts_switch_router_passes_on_the_input_of_tokens_beyond_the_capacity():
    """Not zero, as for a residual branch, but probability times input."""
    case = Reference("mixlora_switch")
    served = case.output("mask_capacity").bool().any(-1)
    assert 0 < served.sum() < served.numel()
    crowded, roomy = case.output("y_capacity"), case.output("y")
    assert error(crowded[served], roomy[served]) <= 1e-10
    assert error(crowded[~served], (case.output("probability") * case.input("x"))[~served]) <= 1e-10


def test_molas_and_loramoes_balance_losses_are_off_in_moe_peft():
    assert not Reference("mola").facts["balance_loss_by_default"]
    assert not Reference("loramoe").facts["balance_loss_by_default"]
    attached = mixture(
        Reference("mola"), torch.float64, experts=EXPERTS, experts_per_token=PER_TOKEN, balance_loss="switch",
        balance_coefficient=1.0,
    )  # fmt: skip
    attached.model.train()(Reference("mola").input("x"))
    loss = balance_loss(attached.model)
    (gradient,) = torch.autograd.grad(loss, attached.pairs["router"][0])
    assert loss > 0 and gradient.any()


def test_moe_peft_trains_on_padding():
    """Its loss is the mean over all positions, padding included; ours sums over the answer's tokens."""
    from moelora.training.encode import IGNORED
    from moelora.training.losses import summed_loss

    case = Reference("padded_loss")
    tokens, logits = case.input("tokens"), case.input("logits")
    shifted, targets = logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    assert error(functional.cross_entropy(shifted, targets), case.output("loss")) <= 1e-10
    padding = targets == case.facts["padding_id"]
    assert padding.sum() == 3

    class Fixed(nn.Module):
        def forward(self, **inputs):
            return type("Output", (), {"logits": logits})

    labels = tokens.masked_fill(tokens == case.facts["padding_id"], IGNORED)
    ours = summed_loss(Fixed(), {"input_ids": tokens, "labels": labels}, "multiple_choice") / (~padding).sum()
    # Float32 inside.
    assert ours.item() == pytest.approx(functional.cross_entropy(shifted[~padding], targets[~padding]).item(), rel=1e-5)
    assert ours.item() != pytest.approx(case.output("loss").item(), rel=1e-2)
    assert case.gradient("logits")[0, 3:5].any()


def test_the_dynamic_router_makes_the_output_smaller():
    """It does not renormalise, so at B = 0 the block would be the frozen block times less than 1."""
    case = Reference("mixlora_top_p")
    weights = top_p_weights(case)
    renormalised = weights / weights.sum(-1, keepdim=True)
    assert error(block_output(case, renormalised), case.output("y")) > 1e-3
