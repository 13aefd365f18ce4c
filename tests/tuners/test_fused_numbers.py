"""PEFT's LoRA and DoRA layers computed with our operators: the same outputs, gradients and training steps."""

import pytest
import torch
from fused_cases import VARIANTS, layers, make_stack, move, outcome, same
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from tiny_tuners import ATTENTION, make_base, make_batch
from torch import nn

from moelora.tuners import fuse, unfuse


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(5, 10), (2, 4, 10), (10,), (0, 10)])
def test_forward_and_every_gradient_are_those_of_peft(variant, dropout, shape, calls):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    model = make_stack(variant, dropout)
    expected = outcome(model, x)
    assert fuse(model) == 2 and fuse(model) == 0
    same(outcome(model, x), expected)
    assert calls == {"ours": 2, "peft": 0}
    model.eval()
    evaluated = outcome(model, x)
    assert unfuse(model) == 2
    same(evaluated, outcome(model, x))
    assert {type(one) for one in layers(model)} == {Linear}


def test_only_the_layers_own_mode_decides_on_dropout_in_dora():
    x = torch.randn(3, 10, dtype=torch.float64)
    for part in ("module", "dropout"):
        model = make_stack("dora", 0.4)
        for layer in layers(model):
            (layer.lora_dropout if part == "dropout" else layer).eval()
            layer.lora_dropout.train(part == "module")
        expected = outcome(model, x)
        fuse(model)
        same(outcome(model, x), expected)


def test_non_contiguous_input_and_frozen_input(variant):
    x = torch.randn(10, 7, dtype=torch.float64).T
    model = make_stack(variant)
    expected = outcome(model, x)
    with torch.no_grad():
        silent = model(x)
    fuse(model)
    same(outcome(model, x), expected)
    with torch.no_grad():
        assert torch.allclose(model(x), silent, rtol=1e-12)
    model(x).sum().backward()  # an input that wants no gradient


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_autocast_rounds_as_little_as_peft(variant, dropout):
    """Both round; the distance to the float32 pass is what each is allowed: ours at most twice PEFT's and a bit."""
    x = torch.randn(4, 6, 10)
    model = make_stack(variant, dropout, double=False)
    exact = outcome(model, x)

    def rounded():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return outcome(model, x)

    peft = rounded()
    fuse(model)
    ours = rounded()
    for one, other, true in zip(ours, peft, exact, strict=True):
        assert one.dtype == other.dtype
        bound = 2 * (other.float() - true).norm() + 2**-8 * true.norm()
        assert (other.float() - true).norm() > 0
        assert (one.float() - true).norm() <= bound


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_half_precision_base_with_factors_in_float32(variant, dropout):
    x = torch.randn(4, 6, 10)
    model = make_stack(variant, dropout, double=False)
    for one in layers(model):
        one.base_layer.bfloat16().float()
    exact = outcome(model, x.bfloat16().float())
    for one in layers(model):
        one.base_layer.bfloat16()
    assert layers(model)[0].lora_A["default"].weight.dtype == torch.float32
    peft = outcome(model, x.bfloat16())
    assert fuse(model) == 2
    ours = outcome(model, x.bfloat16())
    for one, other, true in zip(ours, peft, exact, strict=True):
        assert one.dtype == other.dtype
        bound = 2 * (other.float() - true).norm() + 2**-8 * true.norm()
        assert (other.float() - true).norm() > 0
        assert (one.float() - true).norm() <= bound


def test_a_small_step_of_a_magnitude_shows_in_half_precision():
    model = make_stack("dora", double=False)
    layer = layers(model)[1]
    layer.base_layer.bfloat16()
    fuse(model)
    x = torch.randn(400, 14).bfloat16()
    with torch.no_grad():
        before = layer(x)
        layer.lora_magnitude_vector["default"].weight.mul_(1 + 2**-11)
        assert (layer(x) != before).any(dim=0).all()


@pytest.mark.parametrize("kind", ["fused", "foreach", "plain"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_five_training_steps_are_those_of_peft(variant, kind, dropout):
    flags = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False, "fused": False}}[kind]
    found = []
    for fusing in (False, True):
        model = make_stack(variant, dropout)
        if fusing:
            assert fuse(model) == 2
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.05, **flags)
        torch.manual_seed(4)
        x, target = torch.randn(16, 10, dtype=torch.float64), torch.randn(16, 6, dtype=torch.float64)
        losses = []
        for _ in range(5):
            loss = nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        found.append([torch.stack(losses), *trained])
    same(*found, tolerance=1e-6)
    assert found[0][0][-1] < found[0][0][0]


@pytest.mark.parametrize("reentrant", [True, False])
def test_whole_models_with_checkpointing(kind, variant, reentrant, calls):
    batch = make_batch(kind)
    found = []
    for fusing in (False, True):
        base = make_base(kind)
        torch.manual_seed(3)
        model = get_peft_model(
            base, LoraConfig(r=4, lora_dropout=0.2, target_modules=ATTENTION[kind], **VARIANTS[variant])
        )
        move(model)
        model.double().train()
        if fusing:
            assert fuse(model) == 4
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        torch.manual_seed(0)
        loss = model(**batch).loss
        loss.backward()
        found.append([loss.detach(), *(one.grad for one in model.parameters() if one.requires_grad)])
    same(*found)
    assert calls["ours"] == 8 and calls["peft"] == 0
