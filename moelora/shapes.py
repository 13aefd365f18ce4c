"""The shapes of a base model from the sizes in its configuration: linears and parameters without weights or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        pooler: Whether a linear stands before the classification head (BERT).
        dense_head: Whether the classification head has a linear before its projection (RoBERTa).
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
    pooler: bool = False
    dense_head: bool = False

    @property
    def widths(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return inputs and outputs of each linear of a block, by part and kind, in the order of the forward pass."""
        attention = {
            ("attention", "query"): (self.hidden, self.attention),
            ("attention", "key"): (self.hidden, self.key_value),
            ("attention", "value"): (self.hidden, self.key_value),
            ("attention", "output"): (self.attention, self.hidden),
        }
        if self.gated:
            inside = {"gate": (self.hidden, self.inner), "up": (self.hidden, self.inner)}
            last = {"down": (self.inner, self.hidden)}
        else:
            inside, last = {"intermediate": (self.hidden, self.inner)}, {"output": (self.inner, self.hidden)}
        return {**attention, **{("feed_forward", kind): widths for kind, widths in {**inside, **last}.items()}}

    @property
    def linear_parameters(self) -> int:
        """Return the weights of the linears of all blocks, without biases."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.widths.values())

    @property
    def base_parameters(self) -> int:
        """Return all parameters of the model without a classification head."""
        total = (self.vocabulary + self.positions) * self.hidden + self.linear_parameters
        if self.biases == "all":
            total += self.layers * sum(outputs for _, outputs in self.widths.values())
            total += (2 * self.layers + 1) * 2 * self.hidden
            return total + (self.hidden + 1) * self.hidden * self.pooler
        if self.biases == "attention":
            total += self.layers * (self.attention + 2 * self.key_value)
        total += (2 * self.layers + 1) * self.hidden
        return total if self.tied else total + self.vocabulary * self.hidden

    def head_parameters(self, outputs: int) -> int:
        """Return the parameters of a classification head with some outputs, the pooler left out."""
        return (self.hidden + 1) * (outputs + self.hidden * self.dense_head)


FAMILIES = {"llama": "decoder", "mistral": "decoder", "gemma": "decoder", "qwen2": "decoder", "bert": "encoder",
            "roberta": "encoder"}  # fmt: skip
"""Kinds of configuration that are understood (``model_type``), and their architecture."""


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Return the sizes in a configuration as transformers writes it.

    Raises:
        ConfigError: Its ``model_type`` is of no family that is known here.
    """
    family = config["model_type"]
    if family not in FAMILIES:
        raise ConfigError(f"no shapes of models of the type '{family}'{nearest(family, FAMILIES)}")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    per_head = config.get("head_dim") or hidden // heads
    encoder = FAMILIES[family] == "encoder"
    return Sizes(
        hidden=hidden,
        inner=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        attention=heads * per_head,
        key_value=config.get("num_key_value_heads", heads) * per_head,
        vocabulary=config["vocab_size"],
        gated=not encoder,
        tied=not encoder and config.get("tie_word_embeddings", False),
        positions=config["max_position_embeddings"] + config["type_vocab_size"] if encoder else 0,
        biases="all" if encoder else "attention" if family == "qwen2" else "",
        pooler=family == "bert",
        dense_head=family == "roberta",
    )


def known_sizes(document: Mapping[str, Any]) -> Sizes | None:
    """Return the sizes that a model file states; nothing where it states none."""
    config = (document.get("facts") or {}).get("config")
    return sizes_of(config) if config else None


def shapes_of(document: Mapping[str, Any], outputs: Sequence[int] = ()) -> ModelShapes:
    """Return what methods are told about a model, from its file alone.

    Args:
        document: A model file's content, with its facts.
        outputs: Of the head of each task, for an encoder.

    Raises:
        ConfigError: The file states no configuration, or another one than its own modules and layers.
    """
    sizes = known_sizes(document)
    if sizes is None:
        raise ConfigError(
            f"model '{document['name']}' states no sizes, so nothing can be counted without its weights; add "
            "'facts.config' to its file"
        )
    widths, modules = sizes.widths, document["modules"]
    kinds = {(part, kind) for part, paths in modules.items() for kind in paths}
    if kinds != set(widths) or document["layers"] != sizes.layers:
        raise ConfigError(
            f"model '{document['name']}': 'facts.config' is of {sizes.layers} layers with {_listed(widths)}, but "
            f"'layers' and 'modules' say {document['layers']} with {_listed(kinds)}; correct one of them"
        )
    linears = tuple(
        Linear(f"{document['block'].format(layer=layer)}.{modules[part][kind]}", kind, part, layer, *widths[part, kind])
        for layer in range(sizes.layers)
        for part, kind in widths
    )
    head = sum(map(sizes.head_parameters, outputs))
    dense = (Linear("classifier.dense", "dense", "head", -1, sizes.hidden, sizes.hidden),)
    return ModelShapes(
        linears,
        document["feed_forward_layout"],
        sizes.hidden,
        head_parameters=head,
        total_parameters=sizes.base_parameters + head,
        output_parameters=0 if outputs else sizes.vocabulary * sizes.hidden,
        head_linears=dense if sizes.dense_head and len(outputs) == 1 else (),
    )


def _listed(kinds: Any) -> str:
    return ", ".join(sorted(f"{part}.{kind}" for part, kind in kinds))
