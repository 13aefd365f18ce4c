"""A quantised frozen weight is dequantised once forward and once backward, whatever stands around it.

Counted are the torch operations that read a quantised weight's storage and give floating numbers: explicit
dequantisation as well as products that dequantise inside.
"""

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_tuners import make_base, make_batch, make_config, move, quantise_linears
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moelora.tuners import fuse

bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantised bases need bitsandbytes: moelora[quantised]")


class Dequantisations(TorchDispatchMode):
    """Counts by name how often each quantised weight is turned into floating numbers."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.names = {one.weight.untyped_storage().data_ptr(): name for name, one in quantised_layers(model)}
        self.counts: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(one, torch.Tensor) and one.is_floating_point() for one in tree_leaves(result)):
            for one in tree_leaves((args, kwargs)):
                if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() in self.names:
                    self.counts[self.names[one.untyped_storage().data_ptr()]] += 1
        return result


def quantised_layers(model):
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return [(name, one) for name, one in model.named_modules() if isinstance(one, kinds)]


def make_quantised(bits: int) -> torch.nn.Module:
    """Return a Llama of one layer whose linears are quantised."""
    base = make_base("llama", width=64, inner=128).requires_grad_(False)
    base.model.layers = base.model.layers[:1]
    base.config.num_hidden_layers = 1
    quantise_linears(base, bits)
    setattr(base, f"is_loaded_in_{bits}bit", True)  # what PEFT goes by
    return base


def adapt(base, method: str, **settings) -> torch.nn.Module:
    torch.manual_seed(3)
    if method == "peft":
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", **settings))
    else:
        model = get_peft_model(base, make_config("llama", method, **settings))
    move(model)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name and "moelora" not in name:
                one.normal_(std=0.1)
    return model


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
METHODS = {
    "lora": ("peft", {}),
    "dora": ("peft", {"use_dora": True}),
    "dora with dropout": ("peft", {"use_dora": True, "lora_dropout": 0.3}),
    "one expert": ("mixture", {"experts": 1, "target_modules": ALL}),
    "dense mixture": ("mixture", {"router": "dense", "target_modules": ALL}),
    "top-k mixture": ("mixture", {"router": "top_k", "experts_per_token": 2, "target_modules": ALL}),
    "mixlora": ("mixlora", {"experts_per_token": 2, "target_modules": ALL[:4]}),
    "mixlora with dropout": ("mixlora", {"experts_per_token": 2, "target_modules": ALL[:4], "dropout": 0.3}),
    "mixdora": ("mixlora", {"experts_per_token": 2, "target_modules": ALL[:4], "dora": True}),
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", METHODS)
def test_once_forward_and_once_backward(name, bits):
    method, settings = METHODS[name]
    model = adapt(make_quantised(bits), method, **settings).train()
    if method == "peft":
        assert fuse(model) == (7 if "dora" in name else 0)
    model.enable_input_require_grads()  # so that every layer passes a gradient on
    batch = make_batch("llama")
    model(**batch).loss.backward()  # the first pass also measures the weights' norms
    with Dequantisations(model) as forward:
        loss = model(**batch).loss
    with Dequantisations(model) as backward:
        loss.backward()
    once = dict.fromkeys((name for name, _ in quantised_layers(model)), 1)
    assert len(once) == 7
    assert forward.counts == once
    assert backward.counts == once


@pytest.mark.parametrize("bits", [4, 8])
def test_peft_alone_dequantises_a_doras_weight_twice(bits):
    """What the counting is worth: without our layer there is one more."""
    model = adapt(make_quantised(bits), "peft", use_dora=True).train()
    with Dequantisations(model) as forward:
        model(**make_batch("llama"))
    assert set(forward.counts.values()) == {2}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("autocast", [False, True])
def test_fused_dora_on_a_quantised_base_is_pefts(bits, dropout, autocast):
    """Under autocast both round to bfloat16 (2**-9) in a dozen places, and a layer's error feeds the next one's."""
    batch = make_batch("llama")
    found = []
    for fusing in (False, True):
        model = adapt(make_quantised(bits), "peft", use_dora=True, lora_dropout=dropout).train()
        assert not fusing or fuse(model) == 7
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(**batch)
        output.loss.backward()
        trained = [one.grad for one in model.parameters() if one.requires_grad]
        found.append([output.logits.detach(), *trained])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= (0.03 if autocast else 1e-4) * theirs.norm()


@pytest.mark.parametrize("name", ["dora", "mixdora"])
def test_the_layout_that_some_cpus_evaluate_with_is_read_rightly(name):
    """bitsandbytes repacks 4-bit weights at the first evaluation on a CPU with AVX512-BF16, then in bfloat16."""
    method, settings = METHODS[name]
    model, batch = adapt(make_quantised(4), method, **settings).train(), make_batch("llama")
    if method == "peft":
        assert fuse(model) == 7
    with torch.no_grad():
        trained = model(**batch).logits
        model.eval()
        with model.disable_adapter():
            model(**batch)
        for _ in range(2):
            assert (model(**batch).logits - trained).norm() < 0.01 * trained.norm()
