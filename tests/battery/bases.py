"""Tiny base models that every method is attached to, with the model documents that say where their linears are."""

import copy
import json
from functools import cache

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from moelora.methods import ModelShapes
from moelora.models import BaseModel, adaptable_linears

VOCABULARY, PAD = 32, 0
WIDTH, INNER = 16, 24
KINDS = ("llama", "bert", "neox")
ARCHITECTURES = {"llama": "decoder", "bert": "encoder", "neox": "decoder"}
HEADS = {"llama": (), "bert": ("classifier",), "neox": ()}

DOCUMENTS = {
    "llama": {
        "name": "llama",
        "layers": 2,
        "block": "model.layers.{layer}",
        "modules": {
            "attention": {
                "query": "self_attn.q_proj",
                "key": "self_attn.k_proj",
                "value": "self_attn.v_proj",
                "output": "self_attn.o_proj",
            },
            "feed_forward": {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"},
        },
        "feed_forward_layout": "gated",
    },
    "bert": {
        "name": "bert",
        "layers": 2,
        "block": "encoder.layer.{layer}",
        "modules": {
            "attention": {
                "query": "attention.self.query",
                "key": "attention.self.key",
                "value": "attention.self.value",
                "output": "attention.output.dense",
            },
            "feed_forward": {"intermediate": "intermediate.dense", "output": "output.dense"},
        },
        "feed_forward_layout": "two_matrix",
    },
    "neox": {
        "name": "neox",
        "layers": 2,
        "block": "gpt_neox.layers.{layer}",
        "modules": {
            "attention": {"query_key_value": "attention.query_key_value", "output": "attention.dense"},
            "feed_forward": {"inner": "mlp.dense_h_to_4h", "outer": "mlp.dense_4h_to_h"},
        },
        "feed_forward_layout": "two_matrix_block",
    },
}


@cache
def _base(kind: str, width: int, inner: int) -> torch.nn.Module:
    torch.manual_seed(7)
    common = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD,
    }  # fmt: skip
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2, bos_token_id=1, eos_token_id=2))
    elif kind == "neox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**common, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False))
    else:
        model = BertForSequenceClassification(
            BertConfig(**common, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        )
    with torch.no_grad():
        # With the usual 0.02 a tiny model's attention is flat and its tokens alike; larger weights make checks bite.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def make_base(kind: str, dtype: torch.dtype = torch.float32, width: int = WIDTH, inner: int = INNER) -> torch.nn.Module:
    """Return a copy of the two-layer model of a kind."""
    return copy.deepcopy(_base(kind, width, inner)).to(dtype)


def describe(kind: str, model: torch.nn.Module) -> BaseModel:
    """Return the model as training hands it to a method; it has no tokenizer, since the checks speak in ids.

    Plans are kept with sorted keys, so the order of a model file's kinds says nothing: down comes before gate.
    """
    document = json.loads(json.dumps(DOCUMENTS[kind], sort_keys=True))
    shapes = ModelShapes(
        linears=adaptable_linears(model, document),
        feed_forward_layout=DOCUMENTS[kind]["feed_forward_layout"],
        hidden=model.config.hidden_size,
        head_parameters=sum(p.numel() for name in HEADS[kind] for p in model.get_submodule(name).parameters()),
        total_parameters=sum(p.numel() for p in model.parameters()),
        output_parameters=0 if HEADS[kind] else sum(p.numel() for p in model.get_output_embeddings().parameters()),
    )
    return BaseModel(model, None, shapes, HEADS[kind], "")


def make_quantised(kind: str, bits: int) -> torch.nn.Module:
    """Return a model whose adaptable linears are bitsandbytes' 4-bit (nf4) or 8-bit ones."""
    import bitsandbytes

    model = make_base(kind, width=64, inner=128).requires_grad_(False)
    for linear in adaptable_linears(model, DOCUMENTS[kind]):
        old = model.get_submodule(linear.name)
        options = {"bias": old.bias is not None}
        if bits == 4:
            new = bitsandbytes.nn.Linear4bit(old.in_features, old.out_features, quant_type="nf4", **options)
            new.weight = bitsandbytes.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4")
        else:
            new = bitsandbytes.nn.Linear8bitLt(old.in_features, old.out_features, has_fp16_weights=False, **options)
            new.weight = bitsandbytes.nn.Int8Params(old.weight.data, requires_grad=False, has_fp16_weights=False)
        if old.bias is not None:
            new.bias = old.bias
        model.set_submodule(linear.name, new.to("cpu"))
    # transformers says so of what it loads quantised, and PEFT chooses its layers by it
    setattr(model, f"is_loaded_in_{bits}bit", True)
    return model
