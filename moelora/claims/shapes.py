"""The true shapes of published models, from the sizes in their configurations: parameters without weights."""

from __future__ import annotations

from functools import cache

from moelora.errors import ConfigError, nearest
from moelora.methods import Linear, ModelShapes
from moelora.shapes import Sizes

SIZES = {
    "llama-7b": Sizes(4096, 11008, 32, 4096, 4096, 32000),
    "llama-13b": Sizes(5120, 13824, 40, 5120, 5120, 32000),
    "llama-2-7b": Sizes(4096, 11008, 32, 4096, 4096, 32000),
    "llama-2-13b": Sizes(5120, 13824, 40, 5120, 5120, 32000),
    "llama-3-8b": Sizes(4096, 14336, 32, 4096, 1024, 128256),
    "mistral-7b": Sizes(4096, 14336, 32, 4096, 1024, 32000),
    "gemma-2b": Sizes(2048, 16384, 18, 2048, 256, 256000, tied=True),
    "qwen2.5-3b": Sizes(2048, 11008, 36, 2048, 256, 151936, tied=True, biases="attention"),
    "roberta-base": Sizes(768, 3072, 12, 768, 768, 50265, gated=False, positions=515, biases="all", dense_head=True),
    "roberta-large": Sizes(
        1024, 4096, 24, 1024, 1024, 50265, gated=False, positions=515, biases="all", dense_head=True
    ),
}


@cache
def shapes(name: str, outputs: int = 0) -> ModelShapes:
    """Return a published model's shapes.

    Args:
        name: A key of `SIZES`.
        outputs: Classes of a RoBERTa head (dense, then projection), counted as the head; 0 for none.

    Raises:
        ConfigError: There is no such model here.
    """
    if name not in SIZES:
        raise ConfigError(f"no shapes of '{name}'{nearest(name, SIZES)}")
    size = SIZES[name]
    linears = tuple(x for layer in range(size.layers) for x in _linears(size, layer))
    head = 0
    head_linears: tuple[Linear, ...] = ()
    if outputs:
        head = size.head_parameters(outputs)
        head_linears = (Linear("classifier.dense", "dense", "head", 0, size.hidden, size.hidden),)
    return ModelShapes(
        linears,
        "gated" if size.gated else "two_matrix",
        size.hidden,
        head_parameters=head,
        total_parameters=total_parameters(name) + head,
        head_linears=head_linears,
    )


def total_parameters(name: str) -> int:
    """Return all parameters of a model without a classification head."""
    return SIZES[name].base_parameters


def _linears(size: Sizes, layer: int) -> list[Linear]:
    if size.gated:
        paths = [f"model.layers.{layer}.{path}" for path in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj",
        )]  # fmt: skip
    else:
        paths = [f"encoder.layer.{layer}.{path}" for path in (
            "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
            "intermediate.dense", "output.dense",
        )]  # fmt: skip
    return [
        Linear(path, kind, part, layer, inputs, outputs)
        for path, ((part, kind), (inputs, outputs)) in zip(paths, size.widths.items(), strict=True)
    ]
