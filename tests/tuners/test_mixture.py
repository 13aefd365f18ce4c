"""MixtureConfig and its layer: plain LoRA as a special case, counts per module, targets, merging."""

import json
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_tuners import ATTENTION, make_base, make_batch, make_config, make_model, move

from moelora.errors import ConfigError, TargetModulesError
from moelora.ops import gated_wide_lora_reference
from moelora.routers import dense, top_k
from moelora.tuners import MixtureConfig, MixtureLinear, balance_loss, record_routing, routing


def logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def mixture_layers(model) -> dict[str, MixtureLinear]:
    return {one.module_name: one for one in model.modules() if isinstance(one, MixtureLinear)}


def test_one_expert_is_pefts_lora_in_output_and_gradients(kind):
    ours = make_model(kind, "mixture", experts=1, moved=True)
    assert not [name for name, _ in ours.named_parameters() if "router" in name]
    config = make_config(kind, "mixture")
    torch.manual_seed(3)
    theirs = get_peft_model(
        make_base(kind),
        LoraConfig(r=4, lora_alpha=8, target_modules=config.target_modules, task_type=config.task_type),
    )
    names = {
        name: name.replace("moelora_A.default", "lora_A.default.weight").replace(
            "moelora_B.default", "lora_B.default.weight"
        )
        for name in ours.state_dict()
    }
    theirs.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    batch = make_batch(kind)
    assert torch.allclose(logits(ours, batch), logits(theirs, batch), atol=1e-6)
    ours(**batch).loss.backward()
    theirs(**batch).loss.backward()
    gradients = {name: one.grad for name, one in theirs.named_parameters() if one.grad is not None}
    for name, one in ours.named_parameters():
        if one.grad is not None:
            assert torch.allclose(one.grad, gradients.pop(names[name]), atol=1e-6), name
    assert not gradients


@pytest.mark.parametrize("router", ["dense", "top_k"])
def test_layer_equals_the_formula(router):
    model = make_model("llama", "mixture", moved=True, router=router)
    layer = mixture_layers(model)["model.layers.1.mlp.up_proj"]
    x = torch.randn(2, 5, 16)
    decide = dense if router == "dense" else lambda values: top_k(values, 2)
    weights = decide(x.flatten(0, 1) @ layer.moelora_router["default"].T).weights.view(2, 5, 4)
    expected = gated_wide_lora_reference(
        layer.base_layer(x), x, layer.moelora_A["default"], layer.moelora_B["default"], weights, 2.0
    )
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"router": "dense", "balance_loss": "cv_squared"},
        {"balance_loss": "switch"},
        {"experts_per_token": 1, "shared_a": True, "balance_loss": "switch"},
    ],
    ids=str,
)
def test_router_and_mixture_in_one_function_change_no_number(settings, monkeypatch):
    """Loss, balance loss, what is recorded and every gradient are those of a router and a mixture apart."""
    from moelora.tuners import mixture_layer

    batch, found = make_batch("llama"), []
    batch["attention_mask"][0, :2] = 0
    for together in (True, False):
        if not together:
            monkeypatch.setattr(mixture_layer, "takes_router", lambda *tensors: False)
        model = make_model("llama", "mixture", moved=True, **settings).train()
        with record_routing(model):
            loss = model(**batch).loss
            routed = dict(routing(model))
        loss = loss + balance_loss(model)
        loss.backward()
        gradients = [one.grad for one in model.parameters() if one.requires_grad]
        recorded = [getattr(one, name) for one in routed.values() for name in ("weights", "logits", "slot_weights")]
        found.append([loss, *gradients, *recorded])
        assert all(torch.equal(one.mask.view(3, 6), batch["attention_mask"].bool()) for one in routed.values())
    assert len(found[0]) == len(found[1]) > 20
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(*found, strict=True))


def test_initial_values(kind):
    model = make_model(kind, "mixture", init_router_std=0.5, experts=64)
    for layer in mixture_layers(model).values():
        a, b = layer.moelora_A["default"], layer.moelora_B["default"]
        bound = layer.in_features**-0.5
        assert a.shape == (64 * 4, layer.in_features) and b.shape == (layer.out_features, 64 * 4)
        assert bound * 0.95 < a.abs().max() <= bound
        assert not b.any()
        assert layer.moelora_router["default"].std().item() == pytest.approx(0.5, rel=0.1)
        assert layer.scaling["default"] == 2


def counts() -> dict[str, int]:
    return {
        "model.layers.0.self_attn.q_proj": 3,
        "model.layers.0.mlp.down_proj": 1,
        "model.layers.1.self_attn.q_proj": 0,
        "model.layers.1.mlp.up_proj": 2,
    }


def test_counts_per_module_and_their_round_trip(tmp_path):
    model = make_model("llama", "mixture", experts=counts(), target_modules=None, moved=True, experts_per_token=2)
    layers = mixture_layers(model)
    assert {name: layer.experts["default"] for name, layer in layers.items()} == {
        name: count for name, count in counts().items() if count
    }
    assert {name for name, layer in layers.items() if layer.is_routed("default")} == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }
    assert layers["model.layers.0.mlp.down_proj"].router["default"].experts_per_token == 1
    batch = make_batch("llama")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_base("llama"), tmp_path)
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    with record_routing(model):
        logits(model, batch)
    shapes = {name: (output.probabilities.shape, output.chosen.shape) for name, output in routing(model)}
    assert shapes == {
        "model.layers.0.self_attn.q_proj": ((18, 3), (18, 2)),
        "model.layers.1.mlp.up_proj": ((18, 2), (18, 2)),
    }


def test_many_counted_modules_survive_pefts_shortening_of_target_lists(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    def base():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=8,
                num_attention_heads=1, num_key_value_heads=1,
            )
        )  # fmt: skip

    wanted = {
        f"model.layers.{layer}.self_attn.{name}_proj": 1 + (layer + place) % 4
        for layer in range(8)
        for place, name in enumerate("qkvo")
        if layer != 3
    }
    model = get_peft_model(base(), MixtureConfig(r=2, experts=wanted))
    move(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path)
    assert {name: layer.experts["default"] for name, layer in mixture_layers(loaded).items()} == wanted
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_saved_config_does_not_depend_on_the_hash_seed(tmp_path):
    script = (
        "import sys, moelora.tuners as t; "
        "t.MixtureConfig(target_modules={'v_proj','q_proj','o_proj'}, experts=2,"
        " modules_to_save=['score','classifier']).save_pretrained(sys.argv[1])"
    )
    written = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, folder], check=True, env=environment)
        written.append((folder / "adapter_config.json").read_text())
    assert written[0] == written[1]
    assert json.loads(written[0])["target_modules"] == ["o_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize("settings", [{"experts": 1}, {"experts": 3, "router": "none"}])
def test_merging_without_a_router(kind, settings):
    batch = make_batch(kind)
    model = make_model(kind, "mixture", moved=True, **settings)
    layer = next(iter(mixture_layers(model).values()))
    frozen = layer.base_layer.weight.detach().clone()
    adapted = logits(model, batch)
    model.merge_adapter()
    delta = 2 * layer.moelora_B["default"] @ layer.moelora_A["default"]
    assert torch.equal(layer.base_layer.weight, frozen + delta)
    assert torch.allclose(logits(model, batch), adapted, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(layer.base_layer.weight, frozen, atol=1e-6)
    assert torch.allclose(logits(model, batch), adapted, atol=1e-5)
    merged = model.merge_and_unload(safe_merge=True)
    assert torch.allclose(logits(merged, batch), adapted, atol=1e-5)


def test_disabling_a_merged_adapter_gives_the_base(kind):
    batch = make_batch(kind)
    model = make_model(kind, "mixture", moved=True, experts=1)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.allclose(logits(model, batch), logits(make_base(kind), batch), atol=1e-5)


def test_safe_merge_refuses_broken_weights(kind):
    model = make_model(kind, "mixture", moved=True, experts=1)
    layer = next(iter(mixture_layers(model).values()))
    layer.moelora_A["default"].data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)


def test_two_active_adapters_add_up():
    batch = make_batch("llama")
    model = make_model("llama", "mixture", moved=True, target_modules=["lm_head"])
    first = logits(model, batch)
    model.add_adapter("second", make_config("llama", "mixture", r=2, experts=3, target_modules=["lm_head"]))
    move(model, seed=5)
    base = logits(make_base("llama"), batch)
    alone = []
    for name in ("default", "second"):
        model.set_adapter(name)
        alone.append(logits(model, batch) - base)
    model.base_model.set_adapter(["default", "second"])
    assert torch.allclose(logits(model, batch) - base, alone[0] + alone[1], atol=1e-4)
    assert not torch.equal(first, logits(model, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proi"]}, r"\['q_proi'\] match no module.*model.layers.\*.self_attn.q_proj"),
        ({"target_modules": ["q_proj", "v_porj"]}, r"\['v_porj'\] match no module"),
        ({"target_modules": r".*\.nothing"}, "match no module"),
        ({"target_modules": None}, "target_modules is empty"),
        ({"target_modules": ["self_attn"]}, "expected linear modules"),
        ({"target_modules": ["mlp", "up_proj"]}, "expected linear modules"),
        ({"experts": {"model.layers.9.self_attn.q_proj": 2}}, "do not exist.*model.layers.9"),
        (
            {"experts": {"model.layers.0.self_attn.q_proj": 2}, "target_modules": ["q_proj"]},
            "experts gives no count",
        ),
    ],
)
def test_wrong_targets_are_refused_and_the_model_stays_whole(settings, message):
    base = make_base("llama")
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(TargetModulesError, match=message):
        get_peft_model(base, make_config("llama", "mixture", **settings))
    assert [name for name, _ in base.named_modules()] == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 2, "experts_per_token": 3}, "experts_per_token is 3 but there are 2"),
        ({"experts": 0}, "experts is 0"),
        ({"experts": {"a": -1}}, r"experts\['a'\] is -1"),
        ({"experts": {"a": 0}}, "no module a positive count"),
        ({"router": "topk"}, "did you mean 'top_k'"),
        ({"balance_loss": "swich"}, "did you mean 'switch'"),
        ({"balance_scope": "modle"}, "did you mean 'mod"),
        ({"router": "dense", "balance_loss": "switch"}, "constant when every expert is used"),
        ({"router": "none", "balance_loss": "switch"}, "router is 'none'"),
        ({"r": 0}, "r is 0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MixtureConfig(target_modules=["q_proj"], **settings)


def test_all_linear_leaves_the_head_out(kind):
    model = make_model(kind, "mixture", target_modules="all-linear")
    layers = set(mixture_layers(model))
    linears = {name for name, one in make_base(kind).named_modules() if isinstance(one, torch.nn.Linear)}
    assert layers == linears - {"lm_head" if kind == "llama" else "classifier"}


def test_no_balance_loss_unless_asked_for(kind):
    model = make_model(kind, "mixture")
    model(**make_batch(kind))
    assert balance_loss(model) is None


def test_attention_targets_exist(kind):
    assert set(mixture_layers(make_model(kind, "mixture", target_modules=ATTENTION[kind])))
