"""Bytes on the card, by stated formulas.

Training holds the frozen weights; for each trained parameter 18 bytes (weight, gradient and two moments of AdamW in
float32, and a copy in bfloat16 under autocast); what the blocks keep for the backward pass; and the logits with their
gradient. Scoring holds weights, adapter, the activations of one block, and logits.
"""

import dataclasses

from moelora.shapes import Sizes

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
TRAINED = 18
# nf4 (arXiv 2305.14314): half a byte, a byte for the constant of 64 weights, and four bytes for 256 such constants
FORMS = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}


def weight_bytes(sizes: Sizes, dtype: str, form: "str | None" = None, head: int = 0) -> int:
    """Return the bytes of a base model: its linears in a quantised form if there is one, all else in its dtype.

    Args:
        sizes: The model's.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        form: ``nf4`` or ``int8``.
        head: Parameters of a classification head.
    """
    rest = sizes.base_parameters + head - sizes.linear_parameters
    return round(sizes.linear_parameters * FORMS.get(form or "", BYTES[dtype]) + rest * BYTES[dtype])


def trained_bytes(trainable: int) -> int:
    """Return the bytes of what is trained: weights, gradients, the optimiser's moments and the copy for autocast."""
    return TRAINED * trainable


def block_bytes(sizes: Sizes, width: int) -> int:
    """Return what one block keeps of one token for the backward pass with an adapter on every linear.

    Inputs of the linears for the factors' gradients; query, key, value and the attention's output; what the activation
    and the gate multiply; and the inputs of two norms in float32. The adapter's dropout keeps nothing, since its masks
    are drawn again; a BERT keeps two masks of its own, and a copy of the attention's output.

    Args:
        sizes: The model's.
        width: Bytes of a number in the computation.
    """
    inside = 4 if sizes.gated else 2  # gate, its activation, up, and their product; or before and after the activation
    numbers = 2 * sizes.hidden + 2 * sizes.attention + 2 * sizes.key_value + inside * sizes.inner
    own = 0 if sizes.gated else (width + 2) * sizes.hidden
    return width * numbers + 2 * 4 * sizes.hidden + own


def activation_bytes(sizes: Sizes, tokens: float, width: int, *, checkpointing: bool = False) -> int:
    """Return what the blocks keep of ``tokens`` tokens; with checkpointing the input of each and one block's inside."""
    if checkpointing:
        return round(tokens * (sizes.layers * width * sizes.hidden + block_bytes(sizes, width)))
    return round(tokens * sizes.layers * block_bytes(sizes, width))


def logit_bytes(sizes: Sizes, tokens: float, width: int, *, training: bool) -> int:
    """Return the bytes of a decoder's logits over ``tokens`` tokens.

    In training: logits and their gradient in the computation's dtype, and in float32 a copy, its shifted copy, the
    log-softmax and the gradient. In scoring: logits, a copy in float32 and the log-softmax.
    """
    if not sizes.gated:
        return 0
    return round(tokens * sizes.vocabulary * (2 * width + 16 if training else width + 8))


@dataclasses.dataclass(frozen=True)
class Load:
    """What a run puts on a card.

    Attributes:
        sizes: The base model's.
        dtype: Of its weights.
        form: Its quantised form, if any.
        precision: Of the computation, ``fp32`` or ``bf16``.
        trainable: Parameters trained, the head included.
        head: Parameters of the classification head.
        micro_batch: Texts of a forward pass in training.
        score_batch: Texts of a forward pass in scoring.
        tokens: Of the longest text.
        checkpointing: Whether activations are computed again.
        generated: Tokens that scoring adds to each text; 0 where it only reads.
    """

    sizes: Sizes
    dtype: str
    form: "str | None"
    precision: str
    trainable: int
    head: int
    micro_batch: int
    score_batch: int
    tokens: float
    checkpointing: bool = False
    generated: int = 0

    @property
    def weights(self) -> int:
        """Return the bytes of the base model, with autocast's copies of float32 linears, kept for the backward pass."""
        found = weight_bytes(self.sizes, self.dtype, self.form, self.head)
        copied = self.precision == "bf16" and self.dtype == "fp32" and self.form is None
        return found + (2 * self.sizes.linear_parameters if copied else 0)

    @property
    def training(self) -> int:
        """Return the bytes of a training step."""
        tokens, width = self.micro_batch * self.tokens, BYTES[self.precision]
        kept = activation_bytes(self.sizes, tokens, width, checkpointing=self.checkpointing)
        logits = logit_bytes(self.sizes, tokens, width, training=True)
        return self.weights + trained_bytes(self.trainable) + kept + logits

    @property
    def scoring(self) -> int:
        """Return the bytes of a forward pass in scoring, which is done in the weights' own dtype.

        Generating needs the logits of the last token alone, and keeps the keys and values of all.
        """
        tokens, width = self.score_batch * self.tokens, BYTES[self.dtype]
        inside = round(tokens * block_bytes(self.sizes, width))
        logits = logit_bytes(self.sizes, self.score_batch if self.generated else tokens, width, training=False)
        texts = self.score_batch * (self.tokens + self.generated) if self.generated else 0
        cache = round(texts * width * 2 * self.sizes.key_value * self.sizes.layers)
        return self.weights + 4 * self.trainable + inside + logits + cache


def remedies(load: Load, room: int) -> "str | None":
    """Return the setting that brings a training step below some bytes, the least intrusive that does, or nothing.

    Recomputing activations changes no number. A smaller micro-batch changes only a balance loss. A quantised base is
    another model.
    """
    smallest = range(load.micro_batch.bit_length() - 1, -1, -1)
    batches = sorted({min(load.micro_batch, 2**power) for power in smallest}, reverse=True)
    tries = [("training.checkpointing: true", {"checkpointing": True})]
    for batch in batches:
        tries.append((f"training.micro_batch_size: {batch}", {"micro_batch": batch}))
    for batch in batches:
        words = f"training.checkpointing: true and training.micro_batch_size: {batch}"
        tries.append((words, {"checkpointing": True, "micro_batch": batch}))
    if load.form is None:
        for form in ("int8", "nf4"):
            found = remedies(dataclasses.replace(load, form=form), room) if not _fits(load, room, form=form) else ""
            if found is not None:
                tries.append((f"the model's name with -{form} at the end" + (f", with {found}" if found else ""), None))
                break
    for words, changes in tries:
        if changes is None or dataclasses.replace(load, **changes).training <= room:
            return words
    return None


def _fits(load: Load, room: int, **changes: "str | int | bool") -> bool:
    return dataclasses.replace(load, **changes).training <= room
