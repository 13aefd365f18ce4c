"""torch.compile: our layers become one graph with the model around them, and compute the same numbers.

The backend runs the traced graphs as they are: what is tested is the tracing.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_tuners import make_base, make_batch, make_config, move

from moelora.tuners import balance_loss, fuse

TARGETS = ["q_proj", "up_proj"]


def fused(base, **settings):
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=TARGETS, **settings))
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.1)
    assert fuse(model) == 2
    return model


def ours(base, method, **settings):
    torch.manual_seed(3)
    model = get_peft_model(base, make_config("llama", method, **settings))
    move(model)
    return model


MODELS = {
    "fused lora": lambda base: fused(base, lora_dropout=0.2),
    "fused dora": lambda base: fused(base, use_dora=True),
    "dense mixture": lambda base: ours(base, "mixture", router="dense"),
    "top-k mixture": lambda base: ours(base, "mixture", router="top_k", experts_per_token=2, balance_loss="switch"),
    "mixlora": lambda base: ours(base, "mixlora", experts_per_token=2),
    # So rare that nothing is dropped: traced, the masks are drawn slot by slot, and otherwise expert by expert.
    "mixlora with dropout": lambda base: ours(base, "mixlora", experts_per_token=2, dropout=1e-9),
    "mixdora": lambda base: ours(base, "mixlora", experts_per_token=2, dora=True),
}


def make(name: str) -> torch.nn.Module:
    """Return a Llama of one layer with adapters."""
    base = make_base("llama")
    base.model.layers = base.model.layers[:1]
    base.config.num_hidden_layers = 1
    return MODELS[name](base).train()


def padded_batch(length: int) -> dict[str, torch.Tensor]:
    batch = make_batch("llama", length=length)
    batch["attention_mask"][1, -2:] = 0
    return batch


def step(model, call, batch) -> list[torch.Tensor]:
    """Return loss, balance loss and gradients of a pass, and change the adapters a little."""
    torch.manual_seed(5)
    loss = call(**batch).loss
    balance = balance_loss(model)
    total = loss if balance is None else loss + balance
    total.backward()
    trained = [one for one in model.parameters() if one.requires_grad]
    found = [loss.detach(), total.detach(), *(one.grad for one in trained)]
    with torch.no_grad():
        for one in trained:
            one.add_(one.grad, alpha=-0.5)
            one.grad = None
    return found


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_one_graph_with_the_same_numbers(name):
    """Three steps: later ones see changed adapters, kept norms and another number of tokens."""
    plain, model = make(name), make(name)
    model.load_state_dict(plain.state_dict())
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for length in (6, 6, 7):
        batch = padded_batch(length)
        for one, other in zip(step(model, compiled, batch), step(plain, plain, batch), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    # One for the first pass, at most one more for what the first pass kept, one for lengths in general.
    assert graphs <= 3
