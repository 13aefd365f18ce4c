"""Masks, balance losses and recordings of a forward pass, with caches and checkpointing."""

import pytest
import torch
from tiny_tuners import make_batch, make_model
from transformers import DynamicCache

from moelora.errors import AdapterError, ConfigError
from moelora.losses import BALANCE_LOSSES, concatenate
from moelora.tuners import balance_loss, record_routing, routing
from moelora.tuners.routing import token_mask

BALANCED = {
    "mixture": {"balance_loss": "switch", "balance_coefficient": 0.5},
    "mixlora": {"balance_coefficient": 0.5},
}


def pad(batch: dict, side: str, amount: int = 3) -> dict:
    """Put padding on one side of every sequence; labels of padding do not count."""

    def widened(tensor, value):
        if tensor.dim() == 1:
            return tensor
        filler = torch.full((tensor.shape[0], amount), value)
        return torch.cat([filler, tensor] if side == "left" else [tensor, filler], dim=1)

    fill = {"input_ids": 5, "attention_mask": 0, "labels": -100}
    return {name: widened(value, fill[name]) for name, value in batch.items()}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def run(model, batch) -> tuple[torch.Tensor, torch.Tensor, dict]:
    model.zero_grad()
    loss = model(**batch).loss
    balance = balance_loss(model)
    (loss + balance).backward()
    return loss.detach(), balance.detach(), gradients(model)


# BERT has absolute positions and reads its first token, so it is never padded on the left.
@pytest.mark.parametrize(("kind", "side"), [("llama", "left"), ("llama", "right"), ("bert", "right")])
def test_padding_changes_nothing(kind, method, side):
    model = make_model(kind, method, moved=True, **BALANCED[method]).double()
    batch = make_batch(kind)
    padded = pad(batch, side)
    if side == "left":
        padded["position_ids"] = (padded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        # The last padding token would predict the first token, which nothing predicts without padding.
        padded["labels"][:, 3] = -100
    plain_loss, plain_balance, plain = run(model, batch)
    padded_loss, padded_balance, with_padding = run(model, padded)
    assert torch.allclose(plain_loss, padded_loss)
    assert torch.allclose(plain_balance, padded_balance)
    for name, gradient in plain.items():
        assert torch.allclose(gradient, with_padding[name], atol=1e-8), name


def test_the_mask_reaches_recordings(kind, method):
    model = make_model(kind, method)
    padded = pad(make_batch(kind), "right")
    with record_routing(model), torch.no_grad():
        model(**padded)
    found = dict(routing(model))
    assert found
    for output in found.values():
        assert torch.equal(output.mask, padded["attention_mask"].bool().flatten())
        assert not output.probabilities.requires_grad
        assert output.probabilities.shape == (27, 4) and output.chosen.shape == (27, 2)


def test_a_positional_mask_is_found_and_no_mask_counts_everything(method):
    model = make_model("llama", method)
    padded = pad(make_batch("llama"), "right")
    base = model.get_base_model()
    with record_routing(model), torch.no_grad():
        base(padded["input_ids"], padded["attention_mask"])
        assert all(output.mask.sum() == 18 for _, output in routing(model))
        base(padded["input_ids"])
        assert all(output.mask is None for _, output in routing(model))


def test_with_a_cache_only_new_tokens_are_routed(method):
    model = make_model("llama", method, moved=True)
    model.eval()
    batch = pad(make_batch("llama"), "left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with record_routing(model), torch.no_grad():
        whole = model(ids, attention_mask=mask, position_ids=positions).logits
        expected = {name: output.probabilities.view(3, 9, -1)[:, 7:] for name, output in routing(model)}
        cache = DynamicCache(config=model.config)
        model(ids[:, :7], attention_mask=mask[:, :7], position_ids=positions[:, :7], past_key_values=cache)
        step = model(ids[:, 7:], attention_mask=mask, position_ids=positions[:, 7:], past_key_values=cache)
        assert torch.allclose(step.logits, whole[:, 7:], atol=1e-5)
        for name, output in routing(model):
            assert output.mask.tolist() == [True] * 6
            assert torch.allclose(output.probabilities.view(3, 2, -1), expected[name], atol=1e-5)


def test_generation_works(method):
    model = make_model("llama", method, moved=True)
    batch = pad(make_batch("llama"), "left")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    cached = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    uncached = model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("name", sorted(set(BALANCE_LOSSES) - {"switch_slots"}))
@pytest.mark.parametrize("scope", ["module", "layer", "model"])
def test_balance_loss_is_the_stated_sum(kind, name, scope):
    if BALANCE_LOSSES[name].takes_delta and scope != "module":
        with pytest.raises(ConfigError, match="formed module by module"):
            make_model(kind, "mixture", balance_loss=name, balance_scope=scope)
        return
    model = make_model(kind, "mixture", moved=True, balance_loss=name, balance_coefficient=0.25, balance_scope=scope)
    batch = pad(make_batch(kind), "right")
    with record_routing(model):
        model(**batch)
    groups = {}
    for module, output in routing(model):
        layer = next(part for part in module.split(".") if part.isdigit())
        key = {"module": module, "layer": layer, "model": "all"}[scope]
        groups.setdefault(key, []).append(output)
    expected = sum(BALANCE_LOSSES[name].function(concatenate(group)) for group in groups.values())
    assert len(groups) == {"module": len(list(routing(model))), "layer": 2, "model": 1}[scope]
    assert torch.allclose(balance_loss(model), 0.25 * expected)


def test_mixlora_has_one_loss_over_all_layers(kind):
    model = make_model(kind, "mixlora", moved=True, balance_coefficient=0.125)
    with record_routing(model):
        model(**make_batch(kind))
    outputs = [output for _, output in routing(model)]
    assert len(outputs) == 2
    expected = BALANCE_LOSSES["switch_slots"].function(concatenate(outputs))
    assert torch.allclose(balance_loss(model), 0.125 * expected)


def test_balance_loss_moves_the_router(kind, method):
    model = make_model(kind, method, moved=True, **BALANCED[method])
    model(**make_batch(kind))
    balance_loss(model).backward()
    routers = [one for name, one in model.named_parameters() if "moelora_router" in name]
    assert routers and all(one.grad.abs().sum() > 0 for one in routers)


def test_evaluation_leaves_no_balance_loss(kind, method):
    model = make_model(kind, method, **BALANCED[method])
    model(**make_batch(kind))
    assert balance_loss(model) is not None
    model.eval()
    model(**make_batch(kind))
    assert balance_loss(model) is None


def test_disabled_adapters_route_nothing(kind, method):
    model = make_model(kind, method, **BALANCED[method])
    with record_routing(model), model.disable_adapter():
        model(**make_batch(kind))
        assert balance_loss(model) is None and not list(routing(model))


def test_nothing_is_recorded_outside_the_block(kind, method):
    model = make_model(kind, method)
    with record_routing(model):
        pass
    model(**make_batch(kind))
    assert not list(routing(model))


def test_an_exception_in_the_forward_leaves_a_usable_context(method):
    model = make_model("llama", method, **BALANCED[method])
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[10_000]]), attention_mask=torch.tensor([[1]]))
    _, balance, _ = run(model, make_batch("llama"))
    assert balance > 0


def test_gradient_checkpointing_gives_the_same_gradients(kind, method):
    settings = {**BALANCED[method], "dropout": 0.3}
    batch = pad(make_batch(kind), "right")
    model = make_model(kind, method, moved=True, **settings)
    torch.manual_seed(0)
    plain = run(model, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(0)
    checkpointed = run(model, batch)
    assert torch.equal(plain[0], checkpointed[0]) and torch.equal(plain[1], checkpointed[1])
    for name, gradient in plain[2].items():
        assert torch.allclose(gradient, checkpointed[2][name], atol=1e-7), name


def test_checkpointing_with_two_batches_before_the_backward_pass(method):
    """Recomputing the first batch must not see the second one's mask or replace its stashed routing."""
    first, second = make_batch("llama", seed=1), pad(make_batch("llama", seed=2), "right", amount=1)
    model = make_model("llama", method, moved=True, **BALANCED[method])

    def both() -> dict:
        model.zero_grad()
        losses = []
        for batch in (first, second):
            losses.append(model(**batch).loss + balance_loss(model))
        sum(losses).backward()
        return gradients(model)

    plain = both()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, gradient in both().items():
        assert torch.allclose(gradient, plain[name], atol=1e-6), name


def test_reentrant_checkpointing_is_refused(method):
    model = make_model("llama", method, **BALANCED[method])
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(AdapterError, match="use_reentrant"):
        model(**make_batch("llama"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 3), [True, True, False, True, True, True]),
        ((2, 1), [False, True]),
        ((6,), [True, True, False, True, True, True]),
        ((2,), None),
    ],
)
def test_token_masks(shape, expected):
    mask = token_mask(torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.Size(shape))
    assert (mask if mask is None else mask.tolist()) == expected


@pytest.mark.parametrize("mask", [torch.ones(2, 1, 3, 3), torch.ones(3, 3), torch.ones(2, 2)])
def test_masks_that_say_nothing_are_refused(mask):
    with pytest.raises(AdapterError, match="does not say"):
        token_mask(mask, torch.Size((2, 3)))
