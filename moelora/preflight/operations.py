"""Operations of one token, two for each multiplication with an addition.

A step takes the time of its operations, or that of launching them where they are few: `LAUNCH` and `STEP_LAUNCH`.
A frozen linear is multiplied twice in a step, once forward and once for the gradient of its input; a trained factor
three times. Norms, activations, softmax and routers' softmax are left out: they take time by moving bytes.
"""

from collections.abc import Mapping
from typing import Any

from moelora.methods import Counts
from moelora.shapes import Sizes

LAUNCH, STEP_LAUNCH = 1e-3, 3e-3
"""Seconds that launching one block's operations takes, forward and in a training step, however small the batch."""


def linear_operations(sizes: Sizes) -> float:
    """Return the operations of all linears of the blocks, forward."""
    return 2.0 * sizes.linear_parameters


def attention_operations(sizes: Sizes, tokens: float) -> float:
    """Return those of scores and mixed values over ``tokens`` tokens, forward; a decoder looks at half of them."""
    return (2.0 if sizes.gated else 4.0) * tokens * sizes.attention * sizes.layers


def head_operations(sizes: Sizes) -> float:
    """Return those of a decoder's language-model head, forward; an encoder's head is one token's."""
    return 2.0 * sizes.vocabulary * sizes.hidden if sizes.gated else 0.0


def adapter_operations(counts: Counts) -> float:
    """Return those of the adapter, forward: two for each parameter that a token uses."""
    return 2.0 * max(0, counts.active - counts.head)


def extra_products(method: str, settings: Mapping[str, Any], sizes: Sizes) -> float:
    """Return the operations with frozen weights that a method adds to the base model's, forward.

    MixDoRA multiplies the frozen down projection once for each expert of a token. DoRA with PEFT's dropout multiplies
    every frozen weight with the whole and with the dropped input.
    """
    if method == "mixdora":
        return 2.0 * (settings["experts_per_token"] - 1) * sizes.layers * sizes.hidden * sizes.inner
    if method == "dora" and settings.get("dropout"):
        return linear_operations(sizes)
    return 0.0


def forward_operations(sizes: Sizes, tokens: float, adapter: float = 0.0, extra: float = 0.0) -> float:
    """Return the operations of one token of a text of ``tokens`` tokens, forward."""
    blocks = linear_operations(sizes) + attention_operations(sizes, tokens)
    return blocks + head_operations(sizes) + adapter + extra


def training_operations(
    sizes: Sizes, tokens: float, adapter: float, extra: float = 0.0, *, whole: bool = False, checkpointing: bool = False
) -> float:
    """Return the operations of one token of a text of ``tokens`` tokens in a training step.

    Args:
        sizes: The base model's.
        tokens: Of the text.
        adapter: What the adapter adds forward.
        extra: Further products with frozen weights, forward.
        whole: Whether the base model's own weights are trained.
        checkpointing: Whether the blocks compute their activations again in the backward pass.
    """
    linears, attention = linear_operations(sizes) + extra, attention_operations(sizes, tokens)
    passes = 3.0 if whole else 2.0
    total = passes * (linears + head_operations(sizes)) + 3.0 * attention + 3.0 * adapter
    return total + (linears + attention + adapter if checkpointing else 0.0)
