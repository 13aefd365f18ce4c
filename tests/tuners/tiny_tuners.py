"""Tiny models and adapters that the tuner tests share."""

import torch
from peft import get_peft_model
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from moelora.tuners import MixLoraConfig, MixtureConfig

VOCABULARY = 32
ATTENTION = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}


def make_base(kind: str, width: int = 16, inner: int = 24) -> torch.nn.Module:
    """Build a two-layer model from a fixed seed, without dropout of its own."""
    torch.manual_seed(7)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return LlamaForCausalLM(config)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def quantise_linears(base: torch.nn.Module, bits: int) -> torch.nn.Module:
    """Put bitsandbytes' 4- or 8-bit layers in the place of a base's linears; return the base."""
    import bitsandbytes

    for name, module in list(base.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            shape = (module.in_features, module.out_features)
            if bits == 4:
                new = bitsandbytes.nn.Linear4bit(*shape, bias=False, quant_type="nf4")
                new.weight = bitsandbytes.nn.Params4bit(module.weight.data, quant_type="nf4")
            else:
                new = bitsandbytes.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False)
                new.weight = bitsandbytes.nn.Int8Params(module.weight.data, requires_grad=False, has_fp16_weights=False)
            base.model.set_submodule(name, new.to("cpu"))
    return base


def make_config(kind: str, method: str, **settings):
    """Return a config of ``method`` that fits the model ``kind``."""
    common = {"r": 4, "alpha": 8, "task_type": "CAUSAL_LM" if kind == "llama" else "SEQ_CLS"}
    if method == "mixture":
        feed_forward = ["up_proj", "down_proj"] if kind == "llama" else ["intermediate.dense"]
        common |= {"experts": 4, "target_modules": [*ATTENTION[kind], *feed_forward]}
        return MixtureConfig(**{**common, **settings})
    common |= {"num_experts": 4, "target_modules": ATTENTION[kind]}
    if kind == "llama":
        common |= {"feed_forward_modules": ["mlp"]}
    else:
        common |= {
            "feed_forward_layout": "two_matrix",
            "feed_forward_modules": ["intermediate"],
            "output_modules": ["output.dense"],
        }
    return MixLoraConfig(**{**common, **settings})


def make_model(kind: str, method: str, moved: bool = False, **settings) -> torch.nn.Module:
    """Return a PEFT model; ``moved`` gives every adapter weight a value as if trained."""
    base = make_base(kind)
    torch.manual_seed(3)
    model = get_peft_model(base, make_config(kind, method, **settings))
    if moved:
        move(model)
    return model


def move(model: torch.nn.Module, seed: int = 11) -> None:
    """Add noise to all adapter weights, so that no factor is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "moelora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def make_batch(kind: str, rows: int = 3, length: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return random ids without padding, with labels."""
    torch.manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length))
    labels = ids.clone() if kind == "llama" else torch.randint(0, 2, (rows,))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
