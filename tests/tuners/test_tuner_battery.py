"""What must hold for every tuner on an encoder and on a decoder."""

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


def test_step_zero_is_the_base_model(kind, method):
    batch = make_batch(kind)
    assert torch.allclose(logits(make_model(kind, method), batch), logits(make_base(kind), batch), atol=1e-6, rtol=1e-5)


def test_a_moved_adapter_changes_the_output(kind, method):
    batch = make_batch(kind)
    moved = logits(make_model(kind, method, moved=True), batch)
    assert (moved - logits(make_base(kind), batch)).abs().max() > 1e-4


def test_disabled_is_bit_equal_to_the_base(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(make_base(kind), batch))
    assert not torch.equal(logits(model, batch), logits(make_base(kind), batch))


def test_only_adapter_and_head_get_gradients(kind, method):
    model = make_model(kind, method, moved=True)
    model(**make_batch(kind)).loss.backward()
    for name, parameter in model.named_parameters():
        ours = "moelora_" in name or "modules_to_save" in name
        assert parameter.requires_grad == ours, name
        assert (parameter.grad is not None) == ours, name
    assert any("moelora_router" in name for name, _ in model.named_parameters())


def test_every_trainable_tensor_moves(kind, method):
    model = make_model(kind, method)
    before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        model(**make_batch(kind, rows=6, seed=step)).loss.backward()
        optimizer.step()
    after = dict(model.named_parameters())
    still = [name for name, one in before.items() if torch.equal(one, after[name])]
    assert not still


def test_round_trip_is_bit_equal(kind, method, tmp_path):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True, modules_to_save=None)
    model.save_pretrained(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]
    loaded = PeftModel.from_pretrained(make_base(kind), tmp_path)
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    meta = PeftModel.from_pretrained(make_base(kind), tmp_path, low_cpu_mem_usage=True)
    # These weights are mapped from the file and may start between cache lines; products then add up in another order.
    assert torch.allclose(logits(meta, batch), logits(model, batch), rtol=1e-5, atol=1e-6)
    pairs = zip(meta.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    names = ["adapter_config.json", "adapter_model.safetensors"]
    first, second = (json.loads((folder / names[0]).read_text()) for folder in (tmp_path, again))
    assert {**first, "inference_mode": None} == {**second, "inference_mode": None}
    assert (tmp_path / names[1]).read_bytes() == (again / names[1]).read_bytes()


def test_parameter_names_carry_the_prefix(kind, method):
    state = peft.get_peft_model_state_dict(make_model(kind, method))
    ours = [name for name in state if "classifier" not in name]
    assert ours and all(".moelora_" in name for name in ours)


def test_several_adapters(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True)
    first = logits(model, batch)
    model.add_adapter("second", make_config(kind, method, r=2, alpha=2))
    assert torch.equal(logits(model, batch), first)
    model.set_adapter("second")
    assert torch.allclose(logits(model, batch), logits(make_base(kind), batch), atol=1e-6)
    trainable = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trainable and all(".second" in name for name in trainable)
    model.set_adapter("default")
    assert torch.equal(logits(model, batch), first)
    model.delete_adapter("second")
    assert not [name for name in model.state_dict() if "second" in name]
    assert torch.equal(logits(model, batch), first)


def test_unload_gives_the_base_back(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True)
    bare = model.unload()
    assert not [name for name, _ in bare.named_modules() if "moelora" in name or "base_layer" in name]
    assert not bare._forward_pre_hooks and not bare._forward_hooks
    assert torch.equal(logits(bare, batch), logits(make_base(kind), batch))


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


def test_bfloat16_autocast_runs_and_stays_close(kind, method):
    batch = make_batch(kind)
    model = make_model(kind, method, moved=True, dropout=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(one.grad).all() for name, one in model.named_parameters() if "moelora_" in name)
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits(model, batch)
    assert (half.float() - logits(model, batch)).abs().mean() < 0.1


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
