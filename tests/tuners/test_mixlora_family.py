"""MixLoRA's routers and layouts against whole experts computed one at a time, frozen biases included."""

import pytest
import torch
from peft import get_peft_model
from tiny_tuners import make_base, make_config, move
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from moelora.errors import ConfigError, TargetModulesError
from moelora.ops import gated_wide_lora, gated_wide_lora_reference
from moelora.tuners import MixLoraConfig, MixtureConfig, balance_loss, record_routing, routing, set_sample_types

ROUTERS = {
    "top_k": {"router": "top_k"},
    "top_p": {"router": "top_p", "top_p": 0.6},
    "switch": {"router": "switch", "expert_capacity": 1},
}


def make_neox():
    torch.manual_seed(7)
    config = GPTNeoXConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, hidden_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def make_family(kind, **settings):
    if kind == "neox":
        config = MixLoraConfig(
            r=4, alpha=8, num_experts=4, target_modules=["query_key_value"], feed_forward_layout="two_matrix_block",
            feed_forward_modules=["mlp"], task_type="CAUSAL_LM",
            feed_forward_names={"inner": "dense_h_to_4h", "outer": "dense_4h_to_h"}, **settings,
        )  # fmt: skip
        base = make_neox()
    else:
        config, base = make_config(kind, "mixlora", **settings), make_base(kind)
    torch.manual_seed(3)
    model = get_peft_model(base.double(), config).double()
    move(model)
    with torch.no_grad():  # biases start at zero, which would hide how often they count
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def parts(model, kind):
    """Return the block's wrappers and, per role, the frozen linear, A and B of layer 0."""
    modules = dict(model.named_modules())
    prefix = {"llama": "base_model.model.model.layers.0.mlp", "bert": "base_model.model.bert.encoder.layer.0",
              "neox": "base_model.model.gpt_neox.layers.0.mlp"}[kind]  # fmt: skip
    if kind == "bert":
        inner, outer = modules[f"{prefix}.intermediate"], modules[f"{prefix}.output.dense"]
        base = inner.get_base_layer()
        roles = {
            "inner": (base.dense, inner.moelora_inner_A, inner.moelora_inner_B),
            "outer": (outer.get_base_layer(), inner.moelora_outer_A, outer.moelora_outer_B),
        }
        return (lambda x: outer(inner(x))), inner, roles, base.intermediate_act_fn
    block = modules[prefix]
    base = block.get_base_layer()
    roles = {
        role: (
            getattr(base, block.names[role]),
            getattr(block, f"moelora_{role}_A"),
            getattr(block, f"moelora_{role}_B"),
        )
        for role in block.names
        if role != "activation"
    }
    return block, block, roles, getattr(base, block.names["activation"])


def whole_experts(x, roles, activation, weights, scaling):
    """Return sum_e g_e W_out,e act(…) with every expert's full weights."""

    def apply(role, expert, rows):
        linear, a, b = roles[role]
        a, b = a["default"], b["default"]
        rank = a.shape[0] // weights.shape[-1]
        own = slice(expert * rank, (expert + 1) * rank)
        return torch.nn.functional.linear(rows, linear.weight + scaling * b[:, own] @ a[own], linear.bias)

    total = 0
    for expert in range(weights.shape[-1]):
        if "gate" in roles:
            hidden, last = activation(apply("gate", expert, x)) * apply("up", expert, x), "down"
        else:
            hidden, last = activation(apply("inner", expert, x)), "outer"
        total = total + weights[:, expert : expert + 1] * apply(last, expert, hidden)
    return total


@pytest.mark.parametrize("router", sorted(ROUTERS))
@pytest.mark.parametrize("kind", ["llama", "bert", "neox"])
def test_a_block_is_the_weighted_sum_of_whole_experts(kind, router):
    model = make_family(kind, **ROUTERS[router])
    model.train()
    run, wrapper, roles, activation = parts(model, kind)
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    y = run(x)
    routed = wrapper._route(x, "default", wrapper.moelora_router["default"])
    if router == "switch":
        assert (routed.chosen < 0).any()
    expected = whole_experts(x.flatten(0, 1), roles, activation, routed.weights, wrapper.scaling["default"])
    assert torch.allclose(y.flatten(0, 1), expected, rtol=1e-10, atol=1e-12)
    tensors = [x, wrapper.moelora_router["default"], *(t["default"] for r in roles.values() for t in r[1:])]
    seed = torch.randn_like(y)
    got = torch.autograd.grad((y * seed).sum(), tensors)
    wanted = torch.autograd.grad((expected.view_as(y) * seed).sum(), tensors)
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_experts_may_have_a_rank_and_scaling_of_their_own():
    model = make_family("llama", expert_r=2, expert_alpha=6)
    _, block, roles, _ = parts(model, "llama")
    assert block.scaling["default"] == 3 and roles["gate"][1]["default"].shape == (8, 16)
    attention = dict(model.named_modules())["base_model.model.model.layers.0.self_attn.q_proj"]
    assert attention.scaling["default"] == 2 and attention.moelora_A["default"].shape == (4, 16)


def test_the_z_loss_joins_the_balance_loss():
    batch = {"input_ids": torch.randint(3, 32, (2, 5))}
    values = {}
    for coefficient in (0.0, 0.5):
        model = make_family("neox", router="switch", z_loss_coefficient=coefficient, balance_coefficient=0.25)
        model.train()
        with record_routing(model):
            model(**batch)
        values[coefficient] = balance_loss(model)
        logits = torch.cat([output.logits for _, output in routing(model)])
    expected = 0.5 * torch.logsumexp(logits, -1).square().mean()
    assert torch.allclose(values[0.5] - values[0.0], expected)


def test_checkpointing_routes_again_as_before_where_padding_takes_no_place():
    """The second forward pass runs outside the model's own; capacity must still know the padding."""
    ids, mask = torch.randint(3, 32, (2, 6)), torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    gradients = []
    for checkpointing in (False, True):
        model = make_family("llama", router="switch", expert_capacity=2, jitter_noise=0.1)
        model.train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(0)
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_sample_types_reach_the_localised_loss_and_last_one_batch():
    config = make_config("llama", "mixture", router="dense", balance_loss="localised", balance_coefficient=1.0)
    torch.manual_seed(3)
    model = get_peft_model(make_base("llama"), config)
    model.train()
    batch = {"input_ids": torch.randint(3, 32, (2, 5))}
    model(**batch)
    plain = balance_loss(model)
    set_sample_types(model, torch.tensor([0, 1]))
    model(**batch)
    typed = balance_loss(model)
    model(**batch)
    assert not torch.equal(plain, typed) and torch.equal(balance_loss(model), plain)


def test_wrong_numbers_of_types_are_refused():
    config = make_config("llama", "mixture", router="dense", balance_loss="localised")
    model = get_peft_model(make_base("llama"), config)
    set_sample_types(model, torch.tensor([0, 1, 1]))
    with pytest.raises(Exception, match="types for \\(3,\\) samples, but the batch has 2"):
        model(input_ids=torch.randint(3, 32, (2, 5)))


def test_a_shared_first_factor_equals_its_slow_version():
    torch.manual_seed(0)
    x, a, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 7, 5), (3, 5), (6, 12)))
    base = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 7, 4, dtype=torch.float64, requires_grad=True)
    tensors = [base, x, a, b, weights]
    results = []
    for function in (gated_wide_lora, gated_wide_lora_reference):
        y = function(base, x, a, b, weights, 0.7)
        results.append((y, *torch.autograd.grad(y.sin().sum(), tensors)))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_shared_first_factor_without_a_router_merges():
    config = MixtureConfig(r=3, alpha=6, experts=4, shared_a=True, router="none", target_modules=["q_proj"],
                           task_type="CAUSAL_LM")  # fmt: skip
    torch.manual_seed(3)
    model = get_peft_model(make_base("llama"), config)
    move(model)
    model.eval()
    ids = torch.randint(3, 32, (2, 5))
    before = model(input_ids=ids).logits
    merged = model.merge_and_unload()
    assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-5)


def test_an_unknown_layout_says_how_to_declare_one():
    with pytest.raises(TargetModulesError, match=r"feed_forward_layout \(gated, two_matrix, two_matrix_block\)"):
        get_peft_model(make_neox(), MixLoraConfig(feed_forward_modules=["mlp"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="router is 'dense'"):
        MixLoraConfig(feed_forward_modules=["mlp"], router="dense")
