"""How many tokens a feed-forward block of experts works on at a time, which bounds its working memory.

What a block keeps for the backward pass grows with all tokens: the frozen first projections. On top of it come, for
the tokens whose frozen products are computed together, as much again for their gradients; and for those whose
experts' rows are worked on together, one wide tensor and a few rows of an expert. A plain LoRA keeps more wide tensors
than that, so with these defaults a step's memory grows no further than with one.

Notation: T tokens.
"""

from typing import NamedTuple

# Frozen products over fewer rows are slower: on a CPU by 2 to 5 % at 256 rows and by a fifth at 128.
PRODUCTS, PRODUCTS_ON_ACCELERATOR = 512, 2048
ROWS, ROWS_WITHOUT_GRADIENT, ROWS_ON_ACCELERATOR = 256, 128, 1024


class Chunks(NamedTuple):
    """How many tokens go through the frozen layers together, and of how many the experts' rows are worked on."""

    products: int
    rows: int


def choose_chunks(chunk: int | None, on_cpu: bool, keeps: bool = True) -> Chunks:
    """Return the chunks of a pass.

    Args:
        chunk: What the user asks for, for both; None for the default.
        on_cpu: Whether the tokens are on a CPU.
        keeps: Whether it is part of a training step; without, a pass needs less memory for the same reason.
    """
    if chunk is not None:
        return Chunks(chunk, chunk)
    if not on_cpu:
        return Chunks(PRODUCTS_ON_ACCELERATOR, ROWS_ON_ACCELERATOR)
    return Chunks(PRODUCTS, ROWS if keeps else ROWS_WITHOUT_GRADIENT)


def spans(tokens: int, size: int) -> list[slice]:
    """Cut T tokens into spans of ``size``, the last one shorter; no tokens are one empty span."""
    return [slice(start, min(start + size, tokens)) for start in range(0, max(tokens, 1), max(size, 1))]
