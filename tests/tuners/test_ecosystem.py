"""What surrounds PEFT: quantised bases, transformers' own adapters, registration, other naming."""

import subprocess
import sys

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from tiny_tuners import make_base, make_batch, make_config, make_model, move, quantise_linears

import moelora.tuners
from moelora.tuners import MixLoraConfig, balance_loss, record_routing, routing
from moelora.tuners.registration import add_peft_type


def logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_methods_are_members_of_pefts_enum():
    assert PeftType("MOELORA_MIXTURE") is PeftType.MOELORA_MIXTURE is add_peft_type("MOELORA_MIXTURE")
    assert PeftType["MOELORA_MIXLORA"] in list(PeftType)
    assert make_config("llama", "mixlora").peft_type is PeftType.MOELORA_MIXLORA


def test_light_import_does_not_bring_torch():
    script = "import sys, moelora; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_trainer_is_imported_on_demand():
    script = (
        "import sys, moelora.tuners as t; assert 'transformers.trainer' not in sys.modules; "
        "t.BalanceTrainer; assert 'transformers.trainer' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        moelora.tuners.Nothing  # noqa: B018


def test_transformers_native_adapters_share_one_context(kind, method):
    batch = make_batch(kind)
    model = make_base(kind)
    model.add_adapter(make_config(kind, method, balance_coefficient=0.5), adapter_name="first")
    model.add_adapter(make_config(kind, method), adapter_name="second")
    move(model)
    model.set_adapter("first")
    with record_routing(model):
        first = logits(model, batch)
        found = dict(routing(model))
    assert found and all(output.mask is not None for output in found.values())
    model.set_adapter("second")
    assert not torch.equal(logits(model, batch), first)
    model.disable_adapters()
    assert torch.equal(logits(model, batch), logits(make_base(kind), batch))


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base_trains_and_reloads(method, bits, tmp_path):
    pytest.importorskip("bitsandbytes")

    def quantised() -> torch.nn.Module:
        return quantise_linears(make_base("llama", width=64, inner=128).requires_grad_(False), bits)

    def adapted() -> torch.nn.Module:
        model = get_peft_model(quantised(), make_config("llama", method))
        move(model)
        return model

    batch = make_batch("llama")
    trained = adapted()
    trained(**batch).loss.backward()
    ours = [one for name, one in trained.named_parameters() if "moelora_" in name]
    assert {one.dtype for one in ours} == {torch.float32}
    assert all(torch.isfinite(one.grad).all() for one in ours)
    # bitsandbytes repacks 4-bit weights at the first evaluation on a CPU, which rounds differently (also under
    # PEFT's LoRA), so every comparison is between models with the same history.
    disabled = adapted().eval()
    with disabled.disable_adapter():
        assert torch.equal(logits(disabled, batch), logits(quantised().eval(), batch))
    model = adapted().eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(quantised(), tmp_path).eval()
    assert torch.equal(logits(loaded, batch), logits(model, batch))


class NamedBlock(torch.nn.Module):
    """A gated block with names of its own and biases."""

    def __init__(self):
        super().__init__()
        self.first, self.third = torch.nn.Linear(6, 8), torch.nn.Linear(6, 8)
        self.second = torch.nn.Linear(8, 6)
        self.nonlinearity = torch.nn.SiLU()

    def forward(self, x):
        return self.second(self.nonlinearity(self.first(x)) * self.third(x))


class PlainModel(torch.nn.Module):
    """A model that is no transformers model and takes no mask."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = NamedBlock()

    def forward(self, x):
        return self.block(x)


def test_other_names_biases_and_plain_models():
    names = {"gate": "first", "up": "third", "down": "second", "activation": "nonlinearity"}
    config = MixLoraConfig(r=2, num_experts=3, feed_forward_modules=["block"], feed_forward_names=names)
    model = get_peft_model(PlainModel(), config)
    x = torch.randn(4, 5, 6)
    assert torch.allclose(model(x), PlainModel()(x), atol=1e-6)
    model(x)
    assert balance_loss(model) is not None


def test_eval_mode_of_the_base_is_kept():
    base = make_base("llama").eval()
    model = get_peft_model(base, make_config("llama", "mixlora", dropout=0.5))
    model.add_adapter("second", make_config("llama", "mixlora", dropout=0.5))
    layers = [one for one in model.modules() if isinstance(one, moelora.tuners.MoeloraLayer)]
    assert not any(module.training for layer in layers for module in layer.modules())


def test_second_adapter_may_cover_other_modules():
    batch = make_batch("llama")
    model = make_model("llama", "mixture", moved=True, target_modules=["q_proj"])
    first = logits(model, batch)
    model.add_adapter("second", make_config("llama", "mixture", target_modules=["up_proj"]))
    assert torch.equal(logits(model, batch), first)
    model.set_adapter("second")
    move(model)
    with record_routing(model):
        logits(model, batch)
    assert sorted(name for name, _ in routing(model)) == [f"model.layers.{n}.mlp.up_proj" for n in (0, 1)]
