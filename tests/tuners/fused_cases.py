"""A small stack of layers with PEFT's LoRA or DoRA, and what to compare of it."""

import copy

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from moelora.tuners import unfuse

VARIANTS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


class Stack(nn.Module):
    """Two linear layers with a bias, one without."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 14), nn.Linear(14, 6, bias=False)

    def forward(self, x):
        """Map (..., 10) to (..., 6)."""
        return self.second(torch.tanh(self.first(x)))


def move(model, scale=0.3):
    torch.manual_seed(5)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.add_(scale * torch.randn_like(one) if "magnitude" not in name else torch.rand_like(one))


def make_stack(variant, dropout=0.0, double=True, adapters=("default",), **settings):
    torch.manual_seed(1)
    config = LoraConfig(
        r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["first", "second"], **VARIANTS[variant], **settings
    )
    model = get_peft_model(Stack(), config)
    for name in adapters[1:]:
        model.add_adapter(name, config)
    move(model)
    return model.double() if double else model


def layers(model):
    return [one for one in model.modules() if isinstance(one, Linear)]


def outcome(model, x, seed=9):
    """Return output and every gradient of a pass, that of the input first."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(seed)
    y = model(x)
    torch.manual_seed(2)
    y.backward(torch.randn_like(y))
    return [y.detach(), x.grad, *(one.grad for one in model.parameters() if one.requires_grad)]


def same(ones, others, tolerance=1e-10):
    assert len(ones) == len(others) > 3
    for one, other in zip(ones, others, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance)


def of_peft(model, x):
    """Return what PEFT's own layers give with the same tensors."""
    other = copy.deepcopy(model)
    unfuse(other)
    return outcome(other, x)
