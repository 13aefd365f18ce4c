"""Which frozen layers the operators compute themselves: fused and called layers give the same model."""

import pytest
import torch
from tiny_tuners import make_base, make_batch, make_model
from torch import nn

from moelora.tuners.frozen import dropout_probability, frozen, is_plain


class Wrapped(nn.Linear):
    """A linear layer of another class, as quantised and sharded layers are."""


def test_plain_layers_are_told_from_others():
    x = torch.randn(2, 4)
    plain = nn.Linear(4, 3).requires_grad_(False)
    assert is_plain(plain, x)
    assert frozen(plain, x).weight is plain.weight
    assert not is_plain(nn.Linear(4, 3), x)  # trained
    assert not is_plain(Wrapped(4, 3).requires_grad_(False), x)
    assert not is_plain(plain, x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_plain(plain, x.bfloat16()) and is_plain(plain, x)
        assert not is_plain(plain, x.double())
    for register in (plain.register_forward_hook, plain.register_forward_pre_hook):
        handle = register(lambda *_: None)
        assert not is_plain(plain, x) and frozen(plain, x).module is plain
        handle.remove()
    assert is_plain(plain, x)
    plain.forward = plain.forward  # as offloading replaces it
    assert not is_plain(plain, x)


def test_dropout_counts_in_training_only():
    dropout = nn.Dropout(0.3)
    assert dropout_probability(dropout) == 0.3
    assert dropout_probability(dropout.eval()) == 0
    assert dropout_probability(nn.Identity()) == 0


def linears(model):
    return [one for one in model.modules() if isinstance(one, nn.Linear)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_called_layers_give_the_same_loss_and_gradients(kind, method, dropout):
    batch = make_batch(kind)
    found = []
    for hooked in (False, True):
        model = make_model(kind, method, moved=True, dropout=dropout).double()
        if hooked:
            for linear in linears(model):
                linear.register_forward_hook(lambda *_: None)
        torch.manual_seed(0)
        loss = model(**batch).loss
        loss.backward()
        found.append([loss.detach(), *(one.grad for one in model.parameters() if one.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_hook_on_a_frozen_layer_still_runs(method):
    model = make_model("llama", method)
    seen = []
    for linear in linears(model.get_submodule("base_model.model.model.layers.0")):
        linear.register_forward_hook(lambda module, *_: seen.append(module))
    model(**make_batch("llama"))
    assert len(seen) == 7


def test_non_reentrant_checkpointing_gives_the_same_gradients(kind, method):
    batch = make_batch(kind)
    found = []
    for checkpointed in (False, True):
        model = make_model(kind, method, moved=True, dropout=0.3).double()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()
        torch.manual_seed(0)
        model(**batch).loss.backward()
        found.append([one.grad for one in model.parameters() if one.requires_grad])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_base_model_is_untouched_by_the_fused_forward(kind, method):
    model = make_model(kind, method, moved=True)
    model(**make_batch(kind)).loss.backward()
    base = dict(make_base(kind).named_parameters())
    model.unload()
    for name, one in model.base_model.model.named_parameters():
        if "classifier" not in name:
            assert torch.equal(one, base[name]) and one.grad is None
