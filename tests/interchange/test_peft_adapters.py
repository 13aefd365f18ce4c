"""PEFT's own LoRA and DoRA adapters load unchanged beside our tuners."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_llama import logits, make_base

import moelora.tuners  # noqa: F401  what is tested is that this changes nothing


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_pefts_adapters_load_unchanged(tmp_path, settings):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", **settings)
    model = get_peft_model(make_base(), config).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.rand_like(parameter) * 0.3)
    model.save_pretrained(tmp_path / "once")
    again = PeftModel.from_pretrained(make_base(), tmp_path / "once")
    assert type(again.peft_config["default"]) is LoraConfig
    assert torch.equal(logits(again), logits(model))
    assert not torch.allclose(logits(again), logits(make_base()), atol=1e-2)
    again.save_pretrained(tmp_path / "twice")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        once, twice = ((tmp_path / folder / name).read_bytes() for folder in ("once", "twice"))
        if name.endswith(".json"):
            # PEFT writes target_modules in the order of a set.
            once, twice = ({**json.loads(one), "target_modules": None} for one in (once, twice))
        assert once == twice
