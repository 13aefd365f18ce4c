"""A tiny Llama and a hand-made adapter for it in the format of package mixlora."""

import json
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from moelora.tuners import MixLoraConfig

WIDTH, INNER, LAYERS, EXPERTS, RANK = 16, 24, 2, 4, 3
NAME = "someone/tiny-llama"
LINEARS = {
    "q_proj": (WIDTH, WIDTH), "v_proj": (WIDTH, WIDTH // 2),
    "gate_proj": (WIDTH, INNER), "up_proj": (WIDTH, INNER), "down_proj": (INNER, WIDTH),
}  # fmt: skip


def make_base(**changes) -> LlamaForCausalLM:
    """Build the model from a fixed seed, in float64 throughout.

    transformers' own norm works in float32, which would round small differences away.
    """
    settings = {
        "vocab_size": 32, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, **changes,
    }  # fmt: skip
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    for layer in model.model.layers:
        layer.input_layernorm = torch.nn.RMSNorm(WIDTH, eps=model.config.rms_norm_eps)
        layer.post_attention_layernorm = torch.nn.RMSNorm(WIDTH, eps=model.config.rms_norm_eps)
    model.model.norm = torch.nn.RMSNorm(WIDTH, eps=model.config.rms_norm_eps)
    model = model.double().eval()
    model.config._name_or_path = NAME
    return model


def make_ours(seed: int = 11, base: torch.nn.Module | None = None, **changes):
    """Return our MixLoRA with every adapter weight moved as if trained."""
    settings = {
        "r": RANK, "alpha": 6, "num_experts": EXPERTS, "target_modules": ["q_proj", "v_proj"],
        "feed_forward_modules": ["mlp"], "task_type": "CAUSAL_LM", **changes,
    }  # fmt: skip
    model = get_peft_model(base or make_base(), MixLoraConfig(**settings)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "moelora_" in name:
                parameter.normal_(std=0.3)
    return model


def logits(model) -> torch.Tensor:
    """Return the logits of a fixed batch."""
    torch.manual_seed(1)
    ids = torch.randint(3, 32, (3, 9))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def foreign_config(**changes) -> dict:
    """Return an adapter_config.json with what moe-peft writes."""
    return {
        "bias": "none", "peft_type": "MIXLORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": NAME, "r": RANK,
        "lora_alpha": 6, "lora_dropout": 0.05, "target_modules": list(LINEARS), "routing_strategy": "mixlora",
        "num_experts": EXPERTS, "act_fn": "silu", "top_k": 2, **changes,
    }  # fmt: skip


def foreign_weights() -> dict[str, torch.Tensor]:
    """Return an adapter's tensors under the package's names, drawn from a fixed seed."""
    torch.manual_seed(3)
    weights = {}
    for layer in range(LAYERS):
        prefix = f"mixlora.layers.{layer}"
        weights[f"{prefix}.mlp.moe_gate.weight"] = torch.randn(EXPERTS, WIDTH)
        for name, (inner, outer) in LINEARS.items():
            attention = name in ("q_proj", "v_proj")
            stem = f"{prefix}.self_attn.{name}" if attention else f"{prefix}.mlp.{name}"
            for one in [stem] if attention else [f"{stem}.experts.{expert}" for expert in range(EXPERTS)]:
                weights[f"{one}.lora_A.weight"] = torch.randn(RANK, inner) * 0.3
                weights[f"{one}.lora_B.weight"] = torch.randn(outer, RANK) * 0.3
    return weights


def write_foreign(folder: Path, weights: dict | None = None, **changes) -> Path:
    """Write an adapter folder as the package reads it."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(foreign_config(**changes)))
    torch.save(foreign_weights() if weights is None else weights, folder / "adapter_model.bin")
    return folder
