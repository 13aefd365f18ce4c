"""DoRA whose dropout acts on the low-rank path only: its formula, beside PEFT's, fused and not."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from moelora.errors import AdapterError
from moelora.ops import dora_linear_reference
from moelora.tuners import drop_low_rank_only, fuse, unfuse


def make_model(dropout: float = 0.3, **settings) -> nn.Module:
    torch.manual_seed(1)
    base = nn.Sequential(nn.Linear(10, 14), nn.Tanh(), nn.Linear(14, 6, bias=False))
    config = LoraConfig(r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["0", "2"], use_dora=True, **settings)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.add_(torch.rand_like(one) * 0.3)
    return model.double()


def outcome(model: nn.Module, seed: int = 4) -> list[torch.Tensor]:
    """Return output and gradients for a fixed input and fixed masks."""
    x = torch.randn(5, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    model.zero_grad()
    torch.manual_seed(seed)
    output = model(x)
    output.square().sum().backward()
    return [output.detach(), x.grad, *(one.grad for one in model.parameters() if one.requires_grad)]


def same(ones, others) -> bool:
    assert len(ones) == len(others) == 8
    return all(torch.allclose(*pair, rtol=1e-10, atol=1e-12) for pair in zip(ones, others, strict=True))


def test_a_layer_is_its_formula_fused_and_not():
    model = make_model()
    assert drop_low_rank_only(model) == 2
    layer = next(one for one in model.modules() if isinstance(one, Linear))
    x = torch.randn(4, 10, dtype=torch.float64)
    torch.manual_seed(8)
    dropped = nn.functional.dropout(x, 0.3)
    expected = dora_linear_reference(
        x, layer.base_layer.weight, layer.base_layer.bias, layer.lora_A["default"].weight,
        layer.lora_B["default"].weight, layer.lora_magnitude_vector["default"].weight, 7 / 3, dropped, True,
    )  # fmt: skip
    for change in (lambda model: None, fuse, unfuse):
        change(model)
        torch.manual_seed(8)
        assert torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-12)


def test_fused_layers_give_the_same_gradients():
    model = make_model()
    drop_low_rank_only(model)
    expected = outcome(model)
    assert fuse(model) == 2
    assert same(outcome(model), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_it_differs_from_pefts_dora_in_training_with_dropout_only(fused):
    ours, theirs = make_model(), make_model()
    drop_low_rank_only(ours)
    if fused:
        fuse(ours)
    assert not same(outcome(ours), outcome(theirs))
    assert same(outcome(ours.eval()), outcome(theirs.eval()))
    without, plain = make_model(dropout=0.0), make_model(dropout=0.0)
    drop_low_rank_only(without)
    assert same(outcome(without), outcome(plain))


def test_its_files_are_those_of_pefts_dora_and_it_merges(tmp_path):
    model = make_model().eval()
    drop_low_rank_only(model)
    fuse(model)
    x = torch.randn(4, 10, dtype=torch.float64)
    expected = model(x)
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    base = nn.Sequential(nn.Linear(10, 14), nn.Tanh(), nn.Linear(14, 6, bias=False)).double()
    loaded = PeftModel.from_pretrained(base, tmp_path, autocast_adapter_dtype=False)
    assert torch.allclose(loaded(x), expected, rtol=1e-6)
    assert drop_low_rank_only(loaded) == 2
    assert torch.allclose(model.merge_and_unload()(x), expected, rtol=1e-10, atol=1e-12)


def test_an_adapter_without_dora_is_refused():
    model = get_peft_model(nn.Sequential(nn.Linear(3, 3)), LoraConfig(target_modules=["0"]))
    with pytest.raises(AdapterError, match="'default' has no DoRA on a linear layer"):
        drop_low_rank_only(model)
    with pytest.raises(AdapterError, match="'other' has no DoRA"):
        drop_low_rank_only(make_model(), "other")
