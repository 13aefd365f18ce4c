"""MixLoRA adapters in the packages' format: what is read is what was written, and nothing else is accepted."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tiny_llama import EXPERTS, LAYERS, RANK, foreign_weights, logits, make_base, make_ours, write_foreign
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from moelora.errors import AdapterError, RecordError
from moelora.interchange import load_mixlora, save_mixlora
from moelora.tuners import MixtureConfig


def by_formula(base, weights: dict[str, torch.Tensor], scaling: float, k: int = 2) -> torch.Tensor:
    """Return the logits of the base with hooks that add the adapter straight from the foreign names."""
    weights = {name: one.double() for name, one in weights.items()}

    def lora(x, stem):
        return scaling * x @ weights[f"{stem}.lora_A.weight"].T @ weights[f"{stem}.lora_B.weight"].T

    def attention(stem):
        return lambda module, args, output: output + lora(args[0], stem)

    def block(stem):
        def forward(module, args, output):
            x = args[0]
            p = torch.softmax(x @ weights[f"{stem}.moe_gate.weight"].T, dim=-1)
            kept, chosen = p.topk(k, dim=-1)
            g = torch.zeros_like(p).scatter(-1, chosen, kept / kept.sum(-1, keepdim=True))
            result = 0
            for expert in range(EXPERTS):
                gate = module.gate_proj(x) + lora(x, f"{stem}.gate_proj.experts.{expert}")
                up = module.up_proj(x) + lora(x, f"{stem}.up_proj.experts.{expert}")
                hidden = functional.silu(gate) * up
                down = module.down_proj(hidden) + lora(hidden, f"{stem}.down_proj.experts.{expert}")
                result = result + g[..., expert : expert + 1] * down
            return result

        return forward

    for index, layer in enumerate(base.model.layers):
        prefix = f"mixlora.layers.{index}"
        for name in ("q_proj", "v_proj"):
            getattr(layer.self_attn, name).register_forward_hook(attention(f"{prefix}.self_attn.{name}"))
        layer.mlp.register_forward_hook(block(f"{prefix}.mlp"))
    return logits(base)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_read_adapter_computes_what_its_names_say(tmp_path, rslora):
    write_foreign(tmp_path, use_rslora=rslora)
    ours = logits(load_mixlora(make_base(), tmp_path))
    expected = by_formula(make_base(), foreign_weights(), 6 / math.sqrt(RANK) if rslora else 6 / RANK)
    assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ours, logits(make_base()), atol=1e-2)


def test_settings_are_taken_over(tmp_path):
    write_foreign(tmp_path, top_k=3, router_aux_loss_coef=0.02, router_init_range=0.1)
    config = load_mixlora(make_base(), tmp_path).peft_config["default"]
    assert (config.r, config.alpha, config.dropout, config.num_experts, config.experts_per_token) == (3, 6, 0.05, 4, 3)
    assert (config.balance_coefficient, config.init_router_std) == (0.02, 0.1)
    write_foreign(tmp_path, router_loss=False)
    assert load_mixlora(make_base(), tmp_path).peft_config["default"].balance_coefficient == 0


def test_it_is_frozen_unless_training_is_wanted(tmp_path):
    write_foreign(tmp_path)
    frozen = load_mixlora(make_base(), tmp_path)
    assert not frozen.training and not any(one.requires_grad for one in frozen.parameters())
    trainable = load_mixlora(make_base().train(), tmp_path, is_trainable=True)
    names = [name for name, one in trainable.named_parameters() if one.requires_grad]
    assert trainable.training and names and all("moelora_" in name for name in names)


def test_safetensors_are_read_too(tmp_path):
    write_foreign(tmp_path / "bin")
    write_foreign(tmp_path / "safe")
    (tmp_path / "safe" / "adapter_model.bin").unlink()
    save_file(foreign_weights(), tmp_path / "safe" / "adapter_model.safetensors")
    assert torch.equal(
        logits(load_mixlora(make_base(), tmp_path / "safe")), logits(load_mixlora(make_base(), tmp_path / "bin"))
    )


def test_target_modules_may_be_an_object_and_attention_may_be_absent(tmp_path):
    targets = {"q_proj": False, "gate_proj": True, "up_proj": True, "down_proj": True, "fc1": False}
    weights = {name: one for name, one in foreign_weights().items() if "self_attn" not in name}
    model = load_mixlora(make_base(), write_foreign(tmp_path, weights, target_modules=targets))
    assert model.peft_config["default"].target_modules is None


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_round_trip_of_ours(tmp_path, dropout):
    ours = make_ours(dropout=dropout, balance_coefficient=0.01)
    save_mixlora(ours, tmp_path / "adapter")
    again = load_mixlora(make_base(), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(ours))
    for name in ("r", "alpha", "dropout", "num_experts", "experts_per_token", "balance_coefficient"):
        assert getattr(again.peft_config["default"], name) == getattr(ours.peft_config["default"], name), name


def test_round_trip_of_theirs_gives_back_every_tensor(tmp_path):
    write_foreign(tmp_path / "theirs")
    save_mixlora(load_mixlora(make_base(), tmp_path / "theirs"), tmp_path / "again")
    again = torch.load(tmp_path / "again" / "adapter_model.bin", weights_only=True)
    theirs = foreign_weights()
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], one.to(again[name].dtype)) for name, one in theirs.items())
    # A share of a stack is written alone.
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in again.values())


def test_root_scaled_alpha_goes_round(tmp_path):
    write_foreign(tmp_path / "theirs", use_rslora=True)
    save_mixlora(load_mixlora(make_base(), tmp_path / "theirs"), tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["use_rslora"]) == (6, True)


def test_another_adapter_than_default(tmp_path):
    ours = make_ours()
    ours.add_adapter("second", ours.peft_config["default"])
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if ".second" in name:
                parameter.normal_(std=0.2)
    ours.set_adapter("second")
    save_mixlora(ours, tmp_path / "second", adapter="second")
    model = load_mixlora(make_base(), tmp_path / "second", adapter_name="mine")
    assert list(model.peft_config) == ["mine"]
    assert torch.equal(logits(model), logits(ours))


def test_a_loaded_adapter_is_saved_by_peft(tmp_path):
    write_foreign(tmp_path / "theirs")
    model = load_mixlora(make_base(), tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    assert torch.equal(logits(PeftModel.from_pretrained(make_base(), tmp_path / "ours")), logits(model))


def without(name: str) -> dict[str, torch.Tensor]:
    weights = foreign_weights()
    del weights[name]
    return weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: without("mixlora.layers.1.mlp.moe_gate.weight"), "1 missing: mixlora.layers.1.mlp.moe_gate.weight"),
        (
            lambda: foreign_weights() | {"mixlora.layers.2.mlp.moe_gate.weight": torch.zeros(4, 16)},
            "1 not expected: mixlora.layers.2",
        ),
        (
            lambda: foreign_weights() | {"mixlora.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 16)},
            r"q_proj.lora_A.weight is \(4, 16\), expected \(3, 16\)",
        ),
        (lambda: {"classifier": torch.zeros(2, 16)}, "missing: .*1 not expected: classifier"),
        (lambda: [torch.zeros(1)], "does not hold a dictionary of tensors"),
        (lambda: {"name": {1, 2}}, "does not hold a dictionary of tensors|cannot be read"),
    ],
)
def test_wrong_tensors_are_refused_and_nothing_is_attached(tmp_path, weights, message):
    base = make_base()
    with pytest.raises(AdapterError, match=message):
        load_mixlora(base, write_foreign(tmp_path, weights()))
    assert torch.equal(logits(base), logits(make_base()))
    assert not [name for name, _ in base.named_modules() if "moelora" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "expected 'MIXLORA'"),
        ({"routing_strategy": "mixlora-dynamic", "temperature": 0.5}, "temperature is 0.5"),
        ({"routing_strategy": "mixlora-switch"}, "block's input"),
        ({"routing_strategy": "mixlra"}, "did you mean 'mixlora'"),
        ({"use_dora": True}, "does not hold DoRA's magnitudes"),
        ({"jitter_noise": 0.1}, "expected 0"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"task_type": "SEQ_CLS"}, "classification head"),
        ({"expert_lora": {"r": 8}}, r"is \(3, 16\), expected \(8, 16\)"),
        ({"expert_lora": {"use_dora": True}}, "does not hold DoRA's magnitudes"),
        ({"target_modules": ["q_proj", "gate_proj", "down_proj"]}, "lack .'up_proj'"),
        ({"target_modules": "all-linear"}, "expected a list"),
        ({"act_fn": "gelu"}, "blocks have 'silu'"),
        ({"num_experts": 1}, "num_experts is 1"),
        ({"r": "3"}, "r is '3'"),
        ({"num_experts": 8}, "48 missing"),
        ({"base_model_name_or_path": "someone/other-llama"}, "any_base=True"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(tmp_path, changes, message):
    with pytest.raises(AdapterError, match=message):
        load_mixlora(make_base(), write_foreign(tmp_path, **changes))


def test_experts_may_have_settings_of_their_own(tmp_path):
    """The experts' rank, alpha and dropout come from their part of the config, the rest is inherited."""
    weights = {
        name: torch.cat([one, one], dim=0 if "lora_A" in name else 1) if "experts" in name else one
        for name, one in foreign_weights().items()
    }
    write_foreign(tmp_path / "plain")
    # Twice the same rank-3 expert as one of rank 6: the sum doubles, so alpha / r has to halve.
    write_foreign(tmp_path / "own", weights, expert_lora={"r": 2 * RANK, "lora_alpha": 6, "lora_dropout": 0.1})
    own = load_mixlora(make_base(), tmp_path / "own")
    config = own.peft_config["default"]
    assert (config.r, config.expert_r, config.alpha, config.expert_alpha) == (RANK, 2 * RANK, 6, None)
    assert (config.dropout, config.expert_dropout) == (0.05, 0.1)
    assert torch.allclose(logits(own), logits(load_mixlora(make_base(), tmp_path / "plain")), rtol=1e-10, atol=1e-12)


def test_equal_expert_settings_are_no_settings_of_their_own(tmp_path):
    expert = {"bias": "none", "r": RANK, "lora_alpha": 6, "lora_dropout": 0.05}
    config = load_mixlora(make_base(), write_foreign(tmp_path, expert_lora=expert)).peft_config["default"]
    assert (config.expert_r, config.expert_alpha, config.expert_dropout) == (None, None, None)


def test_the_dynamic_router_is_read_and_written(tmp_path):
    write_foreign(tmp_path / "theirs", routing_strategy="mixlora-dynamic", top_p=0.6)
    ours = load_mixlora(make_base(), tmp_path / "theirs")
    config = ours.peft_config["default"]
    assert (config.router, config.top_p) == ("top_p", 0.6)
    save_mixlora(ours, tmp_path / "again")
    assert torch.equal(logits(load_mixlora(make_base(), tmp_path / "again")), logits(ours))
    document = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (document["routing_strategy"], document["top_p"]) == ("mixlora-dynamic", 0.6) and "top_k" not in document


def test_missing_keys_are_named(tmp_path):
    write_foreign(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    del config["num_experts"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=r"lacks .'num_experts'"):
        load_mixlora(make_base(), tmp_path)
    with pytest.raises(RecordError, match="does not exist"):
        load_mixlora(make_base(), tmp_path / "nowhere")


def test_another_name_of_the_same_base_is_the_callers_word(tmp_path):
    write_foreign(tmp_path, base_model_name_or_path="/disk/models/other")
    assert load_mixlora(make_base(), tmp_path, any_base=True)
    # Another folder, the same last part.
    write_foreign(tmp_path, base_model_name_or_path="/disk/models/tiny-llama")
    assert load_mixlora(make_base(), tmp_path)


def test_another_base_is_noticed_by_its_shapes(tmp_path):
    write_foreign(tmp_path)
    with pytest.raises(AdapterError, match="of another shape"):
        load_mixlora(make_base(intermediate_size=32), tmp_path)
    with pytest.raises(AdapterError, match=r"missing: mixlora.layers.2"):
        load_mixlora(make_base(num_hidden_layers=LAYERS + 1), tmp_path)


def test_models_with_other_names_are_refused(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    bert = BertForSequenceClassification(
        BertConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    )
    with pytest.raises(AdapterError, match=r"has no layers at 'model.layers'"):
        load_mixlora(bert, write_foreign(tmp_path))
    with pytest.raises(AdapterError, match="already carries an adapter"):
        load_mixlora(make_ours(), tmp_path)


def make_family(name: str) -> torch.nn.Module:
    """Return a tiny model of another family."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(
        name, vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", ["mistral", "qwen2", "gemma", "gemma2"])
def test_other_families_with_llamas_names(tmp_path, name):
    ours = make_ours(base=make_family(name))
    save_mixlora(ours, tmp_path / "adapter")
    assert torch.equal(logits(load_mixlora(make_family(name), tmp_path / "adapter")), logits(ours))
    activation = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["act_fn"]
    assert activation == ("gelu_pytorch_tanh" if "gemma" in name else "silu")


@pytest.mark.parametrize("name", ["phi", "phi3"])
def test_families_with_other_blocks_are_refused(tmp_path, name):
    with pytest.raises(AdapterError, match=r"lacks 'model\.layers\.0\.mlp\.gate_proj'"):
        load_mixlora(make_family(name), write_foreign(tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_broken_or_missing_weights(tmp_path, content):
    write_foreign(tmp_path)
    file = tmp_path / "adapter_model.bin"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(AdapterError, match=r"holds neither|cannot be read"):
        load_mixlora(make_base(), tmp_path)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    write_foreign(tmp_path)
    torch.save({"trap": Trap()}, tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterError, match="cannot be read"):
        load_mixlora(make_base(), tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_modules": ["model.layers.0.mlp"]}, "missing or too many: .'model.layers.1.mlp'"),
        ({"target_modules": ["layers.1.self_attn.q_proj"]}, "missing or too many: .'model.layers.0.self_attn.q_proj'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "missing or too many: .'lm_head'"),
        ({"alpha": 5.5}, "alpha is 5.5"),
        ({"expert_r": 2}, "expert_r is 2 but the attention has 3"),
        ({"expert_alpha": 12}, "expert_alpha is 12 but the attention has 6"),
        ({"router": "switch"}, "router is 'switch'"),
        ({"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, "no place for whole modules"),
        ({"num_experts": 1, "experts_per_token": 1}, "at least 2 experts"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(tmp_path, changes, message):
    with pytest.raises(AdapterError, match=message):
        save_mixlora(make_ours(**changes), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_other_adapters_are_not_written(tmp_path):
    mixture = get_peft_model(make_base(), MixtureConfig(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match="is a MixtureConfig"):
        save_mixlora(mixture, tmp_path)
    lora = get_peft_model(make_base(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match="is a LoraConfig"):
        save_mixlora(lora, tmp_path)
    with pytest.raises(AdapterError, match="adapter 'other' is a NoneType"):
        save_mixlora(make_ours(), tmp_path, adapter="other")


def test_an_adapter_of_peft_in_the_folder_is_not_overwritten(tmp_path):
    ours = make_ours()
    ours.save_pretrained(tmp_path)
    before = (tmp_path / "adapter_config.json").read_text()
    with pytest.raises(AdapterError, match="write to another folder"):
        save_mixlora(ours, tmp_path)
    assert (tmp_path / "adapter_config.json").read_text() == before
