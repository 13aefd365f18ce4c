"""The bottleneck of experts behind attention blocks: its arithmetic from the definition, and PEFT's functions."""

import copy

import peft
import pytest
import torch
from peft import PeftModel
from tiny_tuners import make_base, make_batch
from transformers import RobertaConfig, RobertaForSequenceClassification

from moelora.errors import AdapterError, ConfigError, MergeError, TargetModulesError
from moelora.tuners import BottleneckAttention, BottleneckConfig, balance_loss, record_routing, routing

BLOCKS = ["encoder.layer.1.attention"]


def make_roberta() -> torch.nn.Module:
    torch.manual_seed(7)
    config = RobertaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, num_labels=2, pad_token_id=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return RobertaForSequenceClassification(config)


BASES = {"bert": lambda: make_base("bert"), "roberta": make_roberta}


@pytest.fixture(params=sorted(BASES))
def base(request):
    return BASES[request.param]


def make_config(**settings) -> BottleneckConfig:
    common = {"r": 2, "num_experts": 3, "target_modules": BLOCKS, "task_type": "SEQ_CLS"}
    return BottleneckConfig(**{**common, **settings})


def make_model(base, **settings) -> torch.nn.Module:
    model = base()
    torch.manual_seed(3)
    return peft.get_peft_model(model, make_config(**settings)).eval()


def logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def layers(model) -> list[BottleneckAttention]:
    return [module for module in model.modules() if isinstance(module, BottleneckAttention)]


def obvious(attended, layer, sorted_weights) -> torch.Tensor:
    """Compute the mixture token by token and expert by expert, from the definition in the notebooks."""
    a, b, gate = (getattr(layer, f"moelora_{part}")["default"] for part in ("A", "B", "router"))
    experts = gate.shape[0]
    rank = a.shape[0] // experts
    rows = []
    for token in attended.reshape(-1, attended.shape[-1]):
        weights = torch.softmax(gate @ token, dim=0)
        if sorted_weights:
            weights, _ = torch.topk(weights, k=experts)  # in descending order, its indices ignored
        parts = [
            weights[e] * (b[:, e * rank : (e + 1) * rank] @ (a[e * rank : (e + 1) * rank] @ token))
            for e in range(experts)
        ]
        rows.append(sum(parts))
    return torch.stack(rows).view_as(attended)


@pytest.mark.parametrize("sorted_weights", [True, False])
def test_the_layer_replaces_the_block_by_the_mixture(base, sorted_weights):
    model = make_model(base, sorted_weights=sorted_weights).double()
    layer = layers(model)[0]
    hidden = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    attended, *_ = layer.base_layer(hidden)
    mixed, *rest = layer(hidden)
    assert len(rest) == 1  # attention weights are handed through
    expected = obvious(attended, layer, sorted_weights)
    assert torch.allclose(mixed, expected, rtol=1e-10, atol=1e-12)
    parameters = [one for one in layer.parameters() if one.requires_grad]
    assert len(parameters) == 3
    cotangent = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fast = torch.autograd.grad(mixed, parameters, cotangent)
    slow = torch.autograd.grad(expected, parameters, cotangent)
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_layer_computes_what_the_notebooks_write_down(base):
    """h = LayerNorm(W_out gelu(W_in m) + m) with the frozen feed-forward: nothing of the attention passes around m."""
    model = make_model(base)
    layer = layers(model)[0]
    block = model.get_submodule(f"base_model.model.{model.config.model_type}.encoder.layer.1")
    assert block.attention is layer
    hidden = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixed = obvious(layer.base_layer(hidden)[0], layer, sorted_weights=True)
        inner = torch.nn.functional.gelu(block.intermediate.dense(mixed))
        expected = block.output.LayerNorm(block.output.dense(inner) + mixed)
        assert torch.allclose(block(hidden), expected, atol=1e-5)


def test_a_block_that_returns_a_bare_tensor_works_too():
    layer = layers(make_model(BASES["bert"]))[0]
    real = layer.base_layer

    class Bare(torch.nn.Module):
        def forward(self, hidden):
            return real(hidden)[0]

    hidden = torch.randn(2, 5, 16)
    expected = layer(hidden)[0]
    layer.base_layer = Bare()
    assert torch.equal(layer(hidden), expected)


def test_the_output_spans_no_more_dimensions_than_the_experts_have():
    layer = layers(make_model(BASES["bert"]).double())[0]
    mixed = layer(torch.randn(20, 16, 16, dtype=torch.float64))[0].reshape(-1, 16)
    assert torch.linalg.matrix_rank(mixed, tol=1e-9) == 3 * 2


def test_first_values_are_xavier_uniform_for_each_expert():
    layer = layers(make_model(BASES["bert"], r=4, num_experts=8))[0]
    for part, fans in (("A", 16 + 4), ("B", 16 + 4), ("router", 16 + 8)):
        tensor, bound = getattr(layer, f"moelora_{part}")["default"], (6 / fans) ** 0.5
        assert tensor.abs().max() <= bound
        assert tensor.abs().max() > 0.9 * bound and abs(tensor.std() / (bound / 3**0.5) - 1) < 0.15
    assert torch.allclose(layer.moelora_A["default"].mean(), torch.zeros(()), atol=0.1)


def test_training_does_not_start_from_the_base(base):
    batch = make_batch("bert")
    assert (logits(make_model(base), batch) - logits(base().eval(), batch)).abs().max() > 1e-4


def test_sorting_matters():
    batch = make_batch("bert")
    one, other = (make_model(BASES["bert"], sorted_weights=flag) for flag in (True, False))
    assert torch.equal(layers(one)[0].moelora_A["default"], layers(other)[0].moelora_A["default"])
    assert not torch.allclose(logits(one, batch), logits(other, batch), atol=1e-6)


def test_one_expert_has_no_router(base):
    model = make_model(base, num_experts=1)
    layer = layers(model)[0]
    hidden = torch.randn(2, 5, 16)
    expected = layer.base_layer(hidden)[0] @ layer.moelora_A["default"].T @ layer.moelora_B["default"].T
    assert not layer.is_routed("default")
    assert torch.allclose(layer(hidden)[0], expected, atol=1e-6)


def test_disabled_is_bit_equal_to_the_base(base):
    batch, model = make_batch("bert"), make_model(base)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(base().eval(), batch))
    assert not torch.equal(logits(model, batch), logits(base().eval(), batch))


def test_only_adapter_and_head_are_trained_and_all_of_it_moves(base):
    model = make_model(base)
    before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    assert all("moelora_" in name or "modules_to_save" in name for name in before)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    model.train()
    for step in range(3):
        optimizer.zero_grad()
        model(**make_batch("bert", rows=6, seed=step)).loss.backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert not [name for name, one in before.items() if torch.equal(one, after[name])]
    assert balance_loss(model) is None


def test_round_trip_is_bit_equal(base, tmp_path):
    batch, model = make_batch("bert"), make_model(base, sorted_weights=False)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert loaded.peft_config["default"].sorted_weights is False
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    meta = PeftModel.from_pretrained(base(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(logits(meta, batch), logits(model, batch))
    state = peft.get_peft_model_state_dict(model)
    assert all(".moelora_" in name or "classifier" in name for name in state)


def test_several_adapters(base):
    batch, model = make_batch("bert"), make_model(base)
    first = logits(model, batch)
    model.add_adapter("second", make_config(num_experts=2))
    assert torch.equal(logits(model, batch), first)
    model.set_adapter("second")
    assert not torch.equal(logits(model, batch), first)
    layers(model)[0].set_adapter(["default", "second"])  # PEFT itself refuses two heads
    with pytest.raises(AdapterError, match="can be replaced only once"):
        logits(model, batch)
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(logits(model, batch), first)


def test_unload_gives_the_base_back_and_merging_is_refused(base):
    batch, model = make_batch("bert"), make_model(base)
    before = logits(model, batch)
    for attempt in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(MergeError, match="no single weight equals it"):
            attempt()
    assert torch.equal(logits(model, batch), before)
    bare = model.unload()
    assert not bare._forward_pre_hooks and not layers(bare)
    assert torch.equal(logits(bare, batch), logits(base().eval(), batch))


def test_gradient_checkpointing_gives_the_same_gradients(base):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(base).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**make_batch("bert")).loss.backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
    assert all(torch.allclose(gradients[1][name], one, atol=1e-6) for name, one in gradients[0].items())


def test_routing_says_what_experts_are_multiplied_by():
    batch = make_batch("bert")
    batch["attention_mask"][0, 4:] = 0
    found = {}
    for flag in (True, False):
        model = make_model(BASES["bert"], sorted_weights=flag)
        with record_routing(model):
            logits(model, batch)
        ((name, output),) = routing(model)
        assert name == "bert.encoder.layer.1.attention" and output.weights.shape == (18, 3)
        assert output.mask.sum() == 16
        assert torch.allclose(output.weights.sum(-1), torch.ones(18))
        found[flag] = output.weights
    assert torch.allclose(found[True], found[False].sort(dim=-1, descending=True).values, atol=1e-6)
    assert not torch.equal(found[True], found[False])


def test_precisions(base):
    model = peft.get_peft_model(base().to(torch.bfloat16), make_config())
    assert {one.dtype for name, one in model.named_parameters() if "moelora_" in name} == {torch.float32}
    model(**make_batch("bert")).loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(make_model(base)(**make_batch("bert")).loss)
    kept = peft.get_peft_model(base().to(torch.bfloat16), make_config(), autocast_adapter_dtype=False)
    assert {one.dtype for name, one in kept.named_parameters() if "moelora_" in name} == {torch.bfloat16}
    assert torch.isfinite(kept(**make_batch("bert")).loss)


def test_copies_are_independent():
    batch, model = make_batch("bert"), make_model(BASES["bert"])
    model(**batch)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        layers(twin)[0].moelora_B["default"].zero_()
    assert not torch.equal(logits(twin, batch), logits(model, batch))


def test_peft_reports(base, capsys):
    model = make_model(base)
    model.print_trainable_parameters()
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert f"trainable params: {trainable:,}" in capsys.readouterr().out
    assert model.get_model_status().enabled is True
    with pytest.raises(ValueError, match="MOELORA"):
        peft.get_peft_model(base(), make_config(), mixed=True)


def test_a_decoder_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="residual stream bypasses the attention block"):
        peft.get_peft_model(make_base("llama"), make_config(target_modules=["self_attn"], task_type="CAUSAL_LM"))


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ConfigError, match="num_experts is 0"):
        make_config(num_experts=0)
    with pytest.raises(ConfigError, match="sorted_weights is 'no'"):
        make_config(sorted_weights="no")
    with pytest.raises(TargetModulesError, match="target_modules is empty"):
        peft.get_peft_model(make_base("bert"), make_config(target_modules=None))
    with pytest.raises(TargetModulesError, match="match no module"):
        peft.get_peft_model(make_base("bert"), make_config(target_modules=["layer.9.attention"]))
    with pytest.raises(ConfigError, match="cannot be followed by a bottleneck"):
        peft.get_peft_model(make_base("bert"), make_config(target_modules=["layer.1.intermediate"]))
