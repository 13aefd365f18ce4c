"""One module used twice in a forward pass: the gradients of both uses add up, and its router counts both."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from moelora.tuners import MixLoraConfig, MixtureConfig, balance_loss, fuse, record_routing, routing
from moelora.tuners.layer import MoeloraLayer

WIDTH = 6


class FeedForward(nn.Module):
    """A gated block."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
        self.down_proj = nn.Linear(8, WIDTH)
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Twice(nn.Module):
    """Applies one linear layer and one block twice each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.mlp = nn.Linear(WIDTH, WIDTH), FeedForward()

    def forward(self, x):
        return self.linear(self.mlp(self.linear(self.mlp(x))).tanh())


BALANCED = {"router": "top_k", "experts_per_token": 2, "balance_loss": "switch", "balance_coefficient": 0.5}
CONFIGS = {
    "lora": lambda: LoraConfig(r=2, target_modules=["linear", "up_proj"]),
    "dora": lambda: LoraConfig(r=2, target_modules=["linear", "up_proj"], use_dora=True),
    "dense mixture": lambda: MixtureConfig(r=2, experts=3, router="dense", target_modules=["linear", "up_proj"]),
    "top-k mixture": lambda: MixtureConfig(r=2, experts=3, target_modules=["linear", "up_proj"], **BALANCED),
    "mixlora": lambda: MixLoraConfig(r=2, num_experts=3, feed_forward_modules=["mlp"], target_modules=["linear"]),
    "mixdora": lambda: MixLoraConfig(
        r=2, num_experts=3, feed_forward_modules=["mlp"], target_modules=["linear"], dora=True
    ),
}


@pytest.fixture(params=list(CONFIGS))
def model(request):
    found = get_peft_model(Twice(), CONFIGS[request.param]()).double()
    assert isinstance(next(iter(found.peft_config.values())), LoraConfig) == bool(fuse(found))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, one in found.named_parameters():
            if "lora_" in name:  # ours are named moelora_
                one.add_(0.3 * torch.randn_like(one))
    return found


def test_gradients_of_both_uses_add_up(model):
    """Beside it a chain in which the second use has layers of its own with the same weights."""
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    output = model(x)
    output.square().sum().backward()
    once = copy.deepcopy(model.base_model.model)
    again = copy.deepcopy(once)
    for one in (*once.parameters(), *again.parameters()):
        one.grad = None
    chain = again.linear(again.mlp(once.linear(once.mlp(x))).tanh())
    assert torch.allclose(chain, output, rtol=1e-12)
    chain.square().sum().backward()
    every = zip(model.parameters(), once.parameters(), again.parameters(), strict=True)
    trained = [three for three in every if three[0].requires_grad]
    assert len(trained) > 3
    for found, first, second in trained:
        assert torch.allclose(found.grad, first.grad + second.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["top-k mixture", "mixlora"])
def test_the_balance_loss_counts_both_uses(name):
    model = get_peft_model(Twice(), CONFIGS[name]())
    x = torch.randn(3, 5, WIDTH)
    with record_routing(model):
        model(x)
        uses = [module for module, _ in routing(model)]
    layers = [one for one in model.modules() if isinstance(one, MoeloraLayer) and one.is_routed("default")]
    assert sorted(uses) == sorted([one.module_name for one in layers] * 2)
    found = balance_loss(model)

    seen = {}
    for layer in layers:  # every input of a layer in one call of it counts the same tokens at once
        seen[layer.module_name] = []
        layer.register_forward_pre_hook(lambda module, inputs: seen[module.module_name].append(inputs[0].detach()))
    model(x)
    for layer in layers:
        assert len(seen[layer.module_name]) == 2
    context = layers[0].routing_context
    context.open(model, (), {})
    for layer in layers:
        layer(torch.cat(seen[layer.module_name][:2]))
    context.close()
    assert torch.allclose(balance_loss(model), found, rtol=1e-5)
