"""The true shapes of published models, from the sizes in their configurations: parameters without weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from moelora.errors import ConfigError, nearest
from moelora.methods import Linear, ModelShapes


@dataclass(frozen=True)
class Sizes:
    """Sizes of one transformer.

    Attributes:
        hidden: D, width of the residual stream.
        inner: Width inside the feed-forward block.
        layers: L.
        attention: Width of all query heads together.
        key_value: Width of all key (and value) heads together.
        vocabulary: Rows of the embedding.
        gated: Whether the feed-forward block has a gate (Llama) or two matrices (BERT).
        tied: Whether the output shares the embedding.
        positions: Rows of learnt positions and token types together, 0 where there are none.
        biases: Whether query, key and value have biases (Qwen2), or all linears and norms do (BERT).
    """

    hidden: int
    inner: int
    layers: int
    attention: int
    key_value: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    positions: int = 0
    biases: str = ""


SIZES = {
    "llama-7b": Sizes(4096, 11008, 32, 4096, 4096, 32000),
    "llama-13b": Sizes(5120, 13824, 40, 5120, 5120, 32000),
    "llama-2-7b": Sizes(4096, 11008, 32, 4096, 4096, 32000),
    "llama-2-13b": Sizes(5120, 13824, 40, 5120, 5120, 32000),
    "llama-3-8b": Sizes(4096, 14336, 32, 4096, 1024, 128256),
    "mistral-7b": Sizes(4096, 14336, 32, 4096, 1024, 32000),
    "gemma-2b": Sizes(2048, 16384, 18, 2048, 256, 256000, tied=True),
    "qwen2.5-3b": Sizes(2048, 11008, 36, 2048, 256, 151936, tied=True, biases="attention"),
    "roberta-base": Sizes(768, 3072, 12, 768, 768, 50265, gated=False, positions=515, biases="all"),
    "roberta-large": Sizes(1024, 4096, 24, 1024, 1024, 50265, gated=False, positions=515, biases="all"),
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
        head = size.hidden**2 + size.hidden + (size.hidden + 1) * outputs
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
    size = SIZES[name]
    total = (size.vocabulary + size.positions) * size.hidden
    linears = [x for layer in range(size.layers) for x in _linears(size, layer)]
    total += sum(x.inputs * x.outputs for x in linears)
    if size.biases == "all":
        total += sum(x.outputs for x in linears) + (2 * size.layers + 1) * 2 * size.hidden
        return total
    if size.biases == "attention":
        total += size.layers * (size.attention + 2 * size.key_value)
    total += (2 * size.layers + 1) * size.hidden
    return total if size.tied else total + size.vocabulary * size.hidden


def _linears(size: Sizes, layer: int) -> list[Linear]:
    hidden, inner = size.hidden, size.inner
    if size.gated:
        attention, block = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        found = [
            ("query", f"{attention}.q_proj", hidden, size.attention),
            ("key", f"{attention}.k_proj", hidden, size.key_value),
            ("value", f"{attention}.v_proj", hidden, size.key_value),
            ("output", f"{attention}.o_proj", size.attention, hidden),
            ("gate", f"{block}.gate_proj", hidden, inner),
            ("up", f"{block}.up_proj", hidden, inner),
            ("down", f"{block}.down_proj", inner, hidden),
        ]
    else:
        base = f"encoder.layer.{layer}"
        found = [
            ("query", f"{base}.attention.self.query", hidden, size.attention),
            ("key", f"{base}.attention.self.key", hidden, size.key_value),
            ("value", f"{base}.attention.self.value", hidden, size.key_value),
            ("output", f"{base}.attention.output.dense", size.attention, hidden),
            ("intermediate", f"{base}.intermediate.dense", hidden, inner),
            ("dense", f"{base}.output.dense", inner, hidden),
        ]
    return [
        Linear(name, kind, "attention" if i < 4 else "feed_forward", layer, inputs, outputs)
        for i, (kind, name, inputs, outputs) in enumerate(found)
    ]
