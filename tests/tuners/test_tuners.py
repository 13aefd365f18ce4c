"""What holds for our tuners beside what the battery (tests/battery) checks of every method."""

import copy
import json

import peft
import pytest
import torch
from peft import PeftModel
from tiny_tuners import make_base, make_batch, make_config, make_model, move

import moelora.tuners
from moelora.errors import AdapterError, MergeError


def logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_loaded_and_saved_again_is_the_same_file(kind, method, tmp_path):
    model = make_model(kind, method, moved=True)
    model.save_pretrained(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]
    again = tmp_path / "again"
    PeftModel.from_pretrained(make_base(kind), tmp_path).save_pretrained(again)
    names = ["adapter_config.json", "adapter_model.safetensors"]
    first, second = (json.loads((folder / names[0]).read_text()) for folder in (tmp_path, again))
    assert {**first, "inference_mode": None} == {**second, "inference_mode": None}
    assert (tmp_path / names[1]).read_bytes() == (again / names[1]).read_bytes()


def test_parameter_names_carry_the_prefix(kind, method):
    state = peft.get_peft_model_state_dict(make_model(kind, method))
    ours = [name for name in state if "classifier" not in name]
    assert ours and all(".moelora_" in name for name in ours)


def test_a_routed_adapter_cannot_be_merged_and_nothing_changes(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True)
    before = logits(model, batch)
    for attempt in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(MergeError, match="no single weight equals it"):
            attempt()
    assert torch.equal(logits(model, batch), before)


def test_adapter_names_in_forward_are_refused(kind, method):
    model = make_model(kind, method)
    with pytest.raises(AdapterError, match="adapter_names"):
        model(**make_batch(kind), adapter_names=["default"] * 3)


def test_peft_reports_and_counts(kind, method, capsys):
    model = make_model(kind, method)
    model.print_trainable_parameters()
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert f"trainable params: {trainable:,}" in capsys.readouterr().out
    status = model.get_model_status()
    assert status.enabled is True and status.active_adapters == ["default"]
    assert all(layer.requires_grad == {"default": True} for layer in model.get_layer_status())


def test_copies_are_independent_and_work_after_a_training_pass(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True)
    model(**batch)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, batch), logits(model, batch))
    move(twin)
    with moelora.tuners.record_routing(twin):
        logits(twin, batch)
    assert list(moelora.tuners.routing(twin)) and not list(moelora.tuners.routing(model))


def test_half_precision_base_keeps_adapters_in_float32(kind, method):
    base = make_base(kind).to(torch.bfloat16)
    model = peft.get_peft_model(base, make_config(kind, method))
    ours = [one for name, one in model.named_parameters() if "moelora_" in name]
    assert {one.dtype for one in ours} == {torch.float32}
    model(**make_batch(kind)).loss.backward()
    assert all(torch.isfinite(one.grad).all() for one in ours)


def test_float64_model_works_in_float64(kind, method):
    base = make_base(kind).double()
    model = peft.get_peft_model(base, make_config(kind, method))
    assert {one.dtype for name, one in model.named_parameters() if "moelora_" in name} == {torch.float64}
    with moelora.tuners.record_routing(model):
        logits(model, make_batch(kind))
    assert {output.weights.dtype for _, output in moelora.tuners.routing(model)} == {torch.float64}


def test_dropout_acts_in_training_only(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True, dropout=0.5)
    model.eval()
    assert torch.equal(logits(model, batch), logits(model, batch))
    model.train()
    assert not torch.equal(logits(model, batch), logits(model, batch))


def test_two_adapters_active_at_once_on_a_block_are_refused():
    model = make_model("llama", "mixlora")
    model.add_adapter("second", make_config("llama", "mixlora"))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(AdapterError, match="takes one set of experts"):
        logits(model, make_batch("llama"))


def test_mixed_models_are_refused_by_peft(kind, method):
    with pytest.raises(ValueError, match="MOELORA"):
        peft.get_peft_model(make_base(kind), make_config(kind, method), mixed=True)
