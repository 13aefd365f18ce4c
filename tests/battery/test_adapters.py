"""What PEFT's users do with an adapter: save, load, disable, switch, unload, merge."""

import bases
import pytest
import torch
from peft import PeftModel
from peft.utils.other import AuxiliaryTrainingWrapper
from subjects import assert_equal, check, copy_config, logits, not_applicable, tuner_layers, values

from moelora.errors import MergeError
from moelora.training.attach import load_adapter, save_adapter
from moelora.training.state import trainable_tensors
from moelora.tuners import FusedLinear, fuse


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@check("saved and loaded is bit-equal")
def test_saved_and_loaded_is_bit_equal(subject, dtype, tmp_path):
    subject.needs_training()
    tensors = subject.tensors(subject.batch())
    attached = subject.moved(dtype=dtype)
    if not trainable_tensors(attached.model):
        not_applicable("trains the head only, and a decoder has none")
    expected = logits(attached.model, tensors)
    save_adapter(attached, tmp_path)
    fresh = subject.attach(seed=1, dtype=dtype)
    assert subject.name == "full" or not torch.equal(logits(fresh.model.eval(), tensors), expected)
    load_adapter(fresh, tmp_path)
    assert_equal(values(fresh.model), values(attached.model))
    if not subject.abilities.adapter:
        assert torch.equal(logits(fresh.model.eval(), tensors), expected)
        return
    loaded = PeftModel.from_pretrained(bases.make_base(subject.kind, dtype), tmp_path).eval()
    if any(isinstance(layer, FusedLinear) for layer in tuner_layers(attached.model)):
        # PEFT's own layers, which it came back with, add up in another order.
        assert (logits(loaded, tensors) - expected).norm() < 8 * torch.finfo(dtype).eps * expected.norm()
        fuse(loaded)
    assert torch.equal(logits(loaded, tensors), expected)
    with torch.no_grad():
        # With low_cpu_mem_usage PEFT 0.21 rounds every adapter, its own LoRA too, to the base model's dtype.
        for parameter in trainable_tensors(attached.model).values():
            parameter.copy_(parameter.to(dtype))
    base = bases.make_base(subject.kind, dtype)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True).eval()
    assert_equal(dict(loaded.named_parameters()), dict(attached.model.named_parameters()))
    # the file's tensors are used where they lie, and what is aligned otherwise may be summed in another order
    close = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(logits(loaded, tensors), logits(attached.model, tensors), atol=close, rtol=close)


@check("disabled is the base model")
def test_disabled_is_bit_equal_to_the_base(subject):
    subject.needs_adapter()
    tensors = subject.tensors(subject.batch())
    model = subject.moved().model
    base = logits(bases.make_base(subject.kind).eval(), tensors)
    before = logits(model, tensors)
    assert (before - base).abs().max() > 1e-3, "a moved adapter changes what the model says"
    with model.disable_adapter():
        assert torch.equal(logits(model, tensors), base)
    assert torch.equal(logits(model, tensors), before)


@check("a second adapter beside it")
def test_second_adapter_switch_and_delete(subject):
    subject.needs_adapter()
    subject.needs_ability("several_adapters", subject.abilities.several_note)
    tensors = subject.tensors(subject.batch())
    model = subject.moved().model
    first = logits(model, tensors)
    model.add_adapter("second", copy_config(model))
    model.eval()
    assert torch.equal(logits(model, tensors), first)
    model.set_adapter("second")
    if subject.abilities.starts_as_base:
        base = logits(bases.make_base(subject.kind).eval(), tensors)
        assert torch.allclose(logits(model, tensors), base, atol=1e-5, rtol=1e-5)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained and all(".second" in name for name in trained)
    model.set_adapter("default")
    assert torch.equal(logits(model, tensors), first)
    model.delete_adapter("second")
    assert [name for name in model.state_dict() if ".second" in name] == []
    assert torch.equal(logits(model, tensors), first)


@check("unloaded is the base model")
def test_unloaded_is_bit_equal_to_the_base(subject):
    subject.needs_adapter()
    tensors = subject.tensors(subject.batch())
    # PEFT's unload keeps a trained head, so the head stays as it was
    bare = subject.moved(head=False).model.unload()
    assert tuner_layers(bare) == []
    assert not any(isinstance(module, AuxiliaryTrainingWrapper) for module in bare.modules())
    assert not bare._forward_pre_hooks and not bare._forward_hooks
    names = [name for name, _ in bases.make_base(subject.kind).named_parameters()]
    assert [name for name, _ in bare.named_parameters()] == names
    assert torch.equal(logits(bare, tensors), logits(bases.make_base(subject.kind).eval(), tensors))


@check("merged as declared")
def test_merged_equals_unmerged_or_is_refused(subject):
    subject.needs_adapter()
    tensors = subject.tensors(subject.batch())
    model = subject.moved().model
    before = logits(model, tensors)
    if not subject.abilities.mergeable:
        assert subject.abilities.merge_note, "abilities.merge_note must say why the method cannot be merged"
        for attempt in (model.merge_and_unload, model.merge_adapter):
            with pytest.raises(MergeError):
                attempt()
        assert torch.equal(logits(model, tensors), before), "a refused merge changes nothing"
        return
    # float32: W + sBA is rounded once per weight, 6e-8 of it, and two layers of sums carry that on
    close = {"atol": 1e-4, "rtol": 1e-4}
    model.merge_adapter()
    assert torch.allclose(logits(model, tensors), before, **close)
    model.unmerge_adapter()
    assert torch.allclose(logits(model, tensors), before, **close)
    merged = model.merge_and_unload()
    assert tuner_layers(merged) == []
    assert torch.allclose(logits(merged, tensors), before, **close)
