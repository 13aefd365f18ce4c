"""MixLoRA's blocks: against the full-weight definition, pairing of two-matrix halves, targets."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_tuners import make_base, make_batch, make_config, make_model
from torch.nn import functional

from moelora.errors import AdapterError, ConfigError, TargetModulesError
from moelora.ops import Frozen, LowRank, mixlora_reference
from moelora.routers import top_k
from moelora.tuners import (
    MixLoraConfig,
    MixLoraFeedForward,
    MixLoraInner,
    MixLoraOuter,
    MixtureLinear,
)


def logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def layers(model, layer_class) -> list:
    return [one for one in model.modules() if isinstance(one, layer_class)]


def pair(layer, role: str, outer=None) -> LowRank:
    second = getattr(outer or layer, f"moelora_{role}_B")
    return LowRank(getattr(layer, f"moelora_{role}_A")["default"], second["default"])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gated_block_equals_whole_experts(k):
    model = make_model("llama", "mixlora", moved=True, experts_per_token=k).double()
    layer = layers(model, MixLoraFeedForward)[1]
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    base = layer.base_layer
    expected = mixlora_reference(
        x.flatten(0, 1),
        tuple(Frozen(linear.weight) for linear in (base.gate_proj, base.up_proj, base.down_proj)),
        tuple(pair(layer, role) for role in ("gate", "up", "down")),
        top_k(x.flatten(0, 1) @ layer.moelora_router["default"].T, k).weights,
        functional.silu,
        2.0,
    )
    assert torch.allclose(layer(x), expected.view(2, 5, 16), rtol=1e-10, atol=1e-10)
    assert torch.allclose(layer(x.flatten(0, 1)), expected, rtol=1e-10, atol=1e-10)


def test_gradients_of_a_block_equal_those_of_whole_experts():
    model = make_model("llama", "mixlora", moved=True).double()
    layer = layers(model, MixLoraFeedForward)[0]
    x = torch.randn(9, 16, dtype=torch.float64, requires_grad=True)
    base = layer.base_layer
    slow = mixlora_reference(
        x,
        tuple(Frozen(linear.weight) for linear in (base.gate_proj, base.up_proj, base.down_proj)),
        tuple(pair(layer, role) for role in ("gate", "up", "down")),
        top_k(x @ layer.moelora_router["default"].T, 2).weights,
        functional.silu,
        2.0,
    )
    leaves = [x, *(one for one in layer.parameters() if one.requires_grad)]
    assert len(leaves) == 8
    cotangent = torch.randn_like(slow)
    fast_gradients = torch.autograd.grad(layer(x), leaves, cotangent)
    for one, other in zip(fast_gradients, torch.autograd.grad(slow, leaves, cotangent), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_one_expert_is_lora_on_all_matrices(kind):
    """MixLoRA with one expert equals PEFT's LoRA on the same linears."""
    ours = make_model(kind, "mixlora", num_experts=1, experts_per_token=1, moved=True)
    assert not [name for name, _ in ours.named_parameters() if "router" in name]
    if kind == "llama":
        names = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    else:
        names = {"inner": "intermediate.dense", "outer": "output.dense"}
    config = make_config(kind, "mixlora")
    blocks = r".*(layer|layers)\.\d+\.(" + "|".join(names.values()).replace(".", r"\.") + ")"
    attention = r".*\.(" + "|".join(config.target_modules) + ")"
    theirs = get_peft_model(
        make_base(kind),
        LoraConfig(r=4, lora_alpha=8, target_modules=f"{blocks}|{attention}", task_type=config.task_type),
    )
    weights = theirs.state_dict()
    ours_weights = {
        name: value for name, value in ours.state_dict().items() if "moelora_" in name or "classifier" in name
    }
    filled = set()
    for name, value in ours_weights.items():
        target = name
        for role, part in names.items():
            for factor in "AB":
                target = target.replace(f"moelora_{role}_{factor}.default", f"{part}.lora_{factor}.default.weight")
        for factor in "AB":
            target = target.replace(f"moelora_{factor}.default", f"lora_{factor}.default.weight")
        for doubled in ("mlp.mlp", "intermediate.intermediate", "output.dense.output.dense"):
            target = target.replace(doubled, doubled.split(".")[0] + (".dense" if "dense" in doubled else ""))
        target = target.replace("intermediate.output.dense", "output.dense")
        weights[target].copy_(value)
        filled.add(target)
    assert {name for name in weights if "lora_" in name} <= filled
    batch = make_batch(kind)
    assert torch.allclose(logits(ours, batch), logits(theirs, batch), atol=1e-6)


def test_what_is_attached_where(kind):
    model = make_model(kind, "mixlora")
    assert len(layers(model, MixtureLinear)) == 4
    blocks = {
        "llama": (MixLoraFeedForward, ["model.layers.0.mlp", "model.layers.1.mlp"]),
        "bert": (MixLoraInner, ["bert.encoder.layer.0.intermediate", "bert.encoder.layer.1.intermediate"]),
    }
    layer_class, names = blocks[kind]
    assert [one.module_name for one in layers(model, layer_class)] == names
    outer = [one.module_name for one in layers(model, MixLoraOuter)]
    # attention.output.dense ends alike and is left alone.
    assert outer == ([f"bert.encoder.layer.{n}.output.dense" for n in (0, 1)] if kind == "bert" else [])


def test_parameter_count_is_the_papers_formula():
    """attention LoRAs + E experts on three matrices + one router a layer."""
    model = make_model("llama", "mixlora")
    ours = sum(one.numel() for name, one in model.named_parameters() if "moelora_" in name)
    attention, feed_forward, router = 2 * 4 * 32, 4 * 3 * 4 * (16 + 24), 4 * 16
    assert ours == 2 * (attention + feed_forward + router)


def test_experts_without_tokens_get_zero_gradients():
    model = make_model("llama", "mixlora", num_experts=8, experts_per_token=1, moved=True)
    batch = make_batch("llama", rows=1, length=2)
    model(**batch).loss.backward()
    for layer in layers(model, MixLoraFeedForward):
        gradient = layer.moelora_gate_B["default"].grad.unflatten(-1, (8, -1))
        used = gradient.abs().sum(dim=(0, 2)) > 0
        assert 1 <= used.sum() <= 2


def test_frozen_down_projection_runs_once_a_token():
    model = make_model("llama", "mixlora", moved=True)
    layer = layers(model, MixLoraFeedForward)[0]
    seen = []
    layer.base_layer.down_proj.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    layer(torch.randn(2, 5, 16))
    assert seen == [torch.Size([10, 24])]


def test_attention_targets_may_be_absent(kind):
    model = make_model(kind, "mixlora", target_modules=None)
    assert not layers(model, MixtureLinear)
    model(**make_batch(kind)).loss.backward()


def test_full_names_work_as_endings_do():
    full = make_model(
        "bert", "mixlora",
        feed_forward_modules=["bert.encoder.layer.1.intermediate"],
        output_modules=["bert.encoder.layer.1.output.dense"],
    )  # fmt: skip
    assert [one.module_name for one in layers(full, MixLoraOuter)] == ["bert.encoder.layer.1.output.dense"]


def test_a_half_alone_is_noticed():
    model = make_model("bert", "mixlora")
    outer = layers(model, MixLoraOuter)[0]
    with pytest.raises(AdapterError, match="inner half"):
        outer(torch.randn(3, 24))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"feed_forward_modules": ["mpl"]}, r"\['mpl'\] match no module"),
        ("llama", {"target_modules": ["q_proj", "up_proj"]}, "inside it are targets"),
        ("llama", {"feed_forward_modules": ["self_attn"]}, "has no 'gate_proj' to be its gate"),
        ("llama", {"feed_forward_names": {"down": "act_fn"}}, "has no 'act_fn' to be its down"),
        ("bert", {"target_modules": ["query", "intermediate.dense"]}, "inside it are targets"),
        ("bert", {"target_modules": ["output.dense"]}, "in target_modules and in the feed-forward block"),
        ("bert", {"output_modules": ["output.densely"]}, "name no module for"),
        ("bert", {"output_modules": ["output"]}, "expected exactly one linear"),
    ],
)
def test_wrong_targets_are_refused(kind, settings, message):
    with pytest.raises(TargetModulesError, match=message):
        make_model(kind, "mixlora", **settings)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_chunk_of_tokens_changes_no_number(kind, tmp_path):
    batch = make_batch(kind)
    found = []
    for chunk in (None, 5):
        model = make_model(kind, "mixlora", moved=True, chunk=chunk).double()
        model(**batch).loss.backward()
        found.append([one.grad for one in model.parameters() if one.requires_grad])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(*pair, rtol=1e-10, atol=1e-12) for pair in zip(*found, strict=True))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_base(kind), tmp_path)
    assert {layer.chunk["default"] for layer in layers(loaded, MixLoraFeedForward | MixLoraInner)} == {5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts_per_token": 9}, "experts_per_token is 9 but num_experts is 8"),
        ({"feed_forward_modules": None}, "feed_forward_modules is empty"),
        ({"feed_forward_layout": "gatd"}, "did you mean 'gated'"),
        ({"feed_forward_layout": "two_matrix"}, "needs them"),
        ({"output_modules": ["output.dense"]}, "others have none"),
        ({"feed_forward_names": {"gat": "x"}}, "did you mean 'gate'"),
        ({"chunk": 0}, "chunk is 0; expected an integer of at least 1"),
        ({"chunk": 64, "dora": True}, "chunk is 64, but dora is True"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MixLoraConfig(**{"feed_forward_modules": ["mlp"], **settings})


def test_chunked_feed_forward_is_refused():
    base = make_base("bert")
    base.config.chunk_size_feed_forward = 2
    with pytest.raises(ConfigError, match="chunk_size_feed_forward"):
        get_peft_model(base, make_config("bert", "mixlora"))
