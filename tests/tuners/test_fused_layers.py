"""A fused layer stays PEFT's: adapters, files, copies, hooks, and what the operators do not cover."""

import copy
import io

import pytest
import torch
from fused_cases import VARIANTS, Stack, layers, make_stack, move, of_peft, outcome, same
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from moelora.tuners import FusedLinear, fuse, unfuse


def test_disabled_merged_and_unloaded_layers_are_pefts(variant, calls):
    model = make_stack(variant).eval()
    x = torch.randn(3, 10, dtype=torch.float64)
    fuse(model)
    expected, base = model(x), model.base_model.model
    with model.disable_adapter():
        plain = model(x)
    original = copy.deepcopy(model).unload()(x)
    assert torch.equal(plain, original) and not torch.allclose(plain, expected)
    model.merge_adapter()
    assert calls == {"ours": 2, "peft": 2}
    assert torch.allclose(model(x), expected, rtol=1e-10)
    with model.disable_adapter():  # unmerges on the way
        assert torch.allclose(model(x), plain, rtol=1e-10)
    assert torch.allclose(model(x), expected, rtol=1e-10)
    merged = model.merge_and_unload()
    assert merged is base and not layers(merged)
    assert torch.allclose(merged(x), expected, rtol=1e-10)


def test_several_adapters(variant, calls):
    model = make_stack(variant, adapters=("default", "other"))
    x = torch.randn(4, 10, dtype=torch.float64)
    fuse(model)
    found = {}
    for active in ("default", "other", ["default", "other"]):
        model.base_model.set_adapter(active)
        found[str(active)] = outcome(model, x)
        same(found[str(active)], of_peft(model, x))
    assert calls["ours"] == 4 and calls["peft"] == 2
    assert not torch.allclose(found["default"][0], found["other"][0])
    model.base_model.set_adapter("default")
    model.eval()  # PEFT takes mixed batches in evaluation only
    if variant != "dora":
        mixed = model(x, adapter_names=["default", "other", "__base__", "other"])
        assert torch.allclose(mixed[0], found["default"][0][0])
        assert torch.allclose(mixed[[1, 3]], found["other"][0][[1, 3]])
    else:
        with pytest.raises(ValueError, match="DoRA"):
            copy.deepcopy(model)(x, adapter_names=["default"] * 4)  # PEFT's hooks stay on the model that raised
    model.delete_adapter("other")
    same(outcome(model, x), found["default"])


def test_adapters_added_later_are_fused_and_new_layers_are_not(variant, calls):
    torch.manual_seed(1)
    model = get_peft_model(Stack(), LoraConfig(r=2, target_modules=["first"], **VARIANTS[variant])).double()
    assert fuse(model) == 1
    model.add_adapter("wider", LoraConfig(r=3, target_modules=["first", "second"], **VARIANTS[variant]))
    model.set_adapter("wider")
    model.double()
    move(model)
    x = torch.randn(4, 10, dtype=torch.float64)
    expected = of_peft(model, x)
    same(outcome(model, x), expected)
    assert calls["ours"] == 1
    assert [type(one) for one in layers(model)] == [FusedLinear, Linear]
    assert fuse(model) == 1
    same(outcome(model, x), expected)


def test_saving_and_loading_give_the_same_bytes(variant, tmp_path):
    model = make_stack(variant, double=False).eval()
    model.save_pretrained(tmp_path / "plain")
    names = list(model.state_dict())
    fuse(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path / "fused")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert sorted((tmp_path / "fused" / file).read_bytes()) == sorted((tmp_path / "plain" / file).read_bytes())
    x = torch.randn(3, 10)
    torch.manual_seed(1)
    loaded = PeftModel.from_pretrained(Stack(), tmp_path / "fused").eval()
    fuse(loaded)
    assert torch.equal(loaded(x), model(x))


def test_copies_and_pickles(variant):
    model = make_stack(variant)
    fuse(model)
    x = torch.randn(3, 10, dtype=torch.float64)
    expected = outcome(model, x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert [type(one) for one in layers(other)] == [FusedLinear] * 2
        same(outcome(other, x), expected, tolerance=0)
        for layer in layers(other):  # a copy's norms are its own
            layer.weight.data.mul_(2)
            layer.frozen_norm.invalidate()
        same(outcome(other, x), of_peft(other, x))
        same(outcome(model, x), expected, tolerance=0)


class Doubled(nn.Linear):
    """Twice what a linear layer gives."""

    def forward(self, x):
        """Map (..., D) to (..., O)."""
        return 2 * super().forward(x)


def replace_factor(layer):
    other = Doubled(layer.in_features, layer.r["default"], bias=False)
    other.load_state_dict(layer.lora_A["default"].state_dict())
    layer.lora_A["default"] = other.to(layer.lora_A["default"].weight.dtype)


UNUSUAL = {
    "hook on the frozen layer": lambda one: one.base_layer.register_forward_hook(lambda *a: a[-1] + 1),
    "hook on a factor": lambda one: one.lora_A["default"].register_forward_hook(lambda *a: a[-1] * 2),
    "hook on the dropout": lambda one: one.lora_dropout["default"].register_forward_pre_hook(lambda m, a: (a[0] * 2,)),
    "trained weight": lambda one: one.base_layer.weight.requires_grad_(),
    "other factor": replace_factor,
    "no casting": lambda one: (setattr(one, "cast_input_dtype_enabled", False), one.lora_A["default"].float()),
    "adapter elsewhere": lambda one: setattr(one, "_active_adapter", ["nobody"]),
}


@pytest.mark.parametrize("unusual", list(UNUSUAL))
def test_what_the_operators_do_not_cover_is_pefts(variant, unusual, calls):
    model = make_stack(variant)
    layer = layers(model)[0]
    fuse(model)
    UNUSUAL[unusual](layer)
    x = torch.randn(3, 10, dtype=torch.float64)
    if unusual == "no casting":
        with pytest.raises(RuntimeError, match="dtype"):
            model(x)
    else:
        ours = outcome_where_any(model, x)
        assert calls == {"ours": 1, "peft": 1}
        unfuse(model)
        same(ours, outcome_where_any(model, x))


def outcome_where_any(model, x):
    return [one for one in outcome(model, x) if one is not None]


def test_hook_on_the_layer_itself_still_runs():
    model = make_stack("lora")
    fuse(model)
    seen = []
    layers(model)[0].register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(2, 10, dtype=torch.float64))
    assert seen == [1]


def test_other_layers_are_left_alone():
    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.conv, self.linear = nn.Embedding(9, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4)

        def forward(self, ids):
            return self.linear(self.conv(self.words(ids).mT).mT)

    model = get_peft_model(Base(), LoraConfig(r=2, target_modules=["words", "conv", "linear"]))
    assert fuse(model) == 1 and type(model.base_model.model.linear) is FusedLinear
    assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 4)
    with_bias = make_stack("lora", lora_bias=False)
    assert not layers(with_bias)[1].lora_bias["default"]


def test_lora_with_a_bias_of_its_own_is_pefts(calls):
    torch.manual_seed(1)
    model = get_peft_model(Stack(), LoraConfig(r=2, target_modules=["first"], lora_bias=True)).double()
    move(model)
    fuse(model)
    x = torch.randn(2, 10, dtype=torch.float64)
    same(outcome(model, x), of_peft(model, x))
    assert calls["ours"] == 0


def test_the_switch_turns_it_off(monkeypatch):
    monkeypatch.setenv("MOELORA_FUSED", "0")
    model = make_stack("lora")
    assert fuse(model) == 0
    assert {type(one) for one in layers(model)} == {Linear}


@pytest.mark.parametrize("loaded", [False, True])
def test_lora_on_quantised_layers_is_left_alone(loaded):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = Stack()
    base.first = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4")
    base.second = nn.Linear(64, 6)
    base.is_loaded_in_4bit = loaded  # PEFT goes by this mark: without it the layer of its plain class is taken
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["first", "second"]))
    assert fuse(model) == 1
    assert type(model.base_model.model.first) is not FusedLinear
    assert isinstance(model.base_model.model.first, Linear) is not loaded
