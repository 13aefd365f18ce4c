"""The loss of a decoder on general text, before and after."""

from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch.nn import functional

from moelora.errors import ConfigError
from moelora.evaluation.forgetting.subject import Subject, interval, resampling
from moelora.tasks.text import Text
from moelora.training.encode import Encoded, collate

TOKENS = 4096  # of one forward pass: the logits of a large vocabulary are what fills the memory

Piece = tuple[int, tuple[int, ...]]
"""Number of a document, and some of its tokens in a row."""


def text_change(subject: Subject, text: Text) -> dict[str, Any]:
    """Return the loss on text before and after, in nats per token, with an interval over documents of its rise."""
    pieces = text_pieces(text, subject.tokenizer, subject.max_length)
    pad_id, count = subject.tokenizer.pad_token_id, len(text.documents)

    def losses(model: torch.nn.Module) -> numpy.ndarray:
        return document_losses(model, pieces, count, pad_id, subject.device)

    before, after = subject.of_base(("text", text.content), losses), losses(subject.model)
    tokens = numpy.zeros(count)
    for document, ids in pieces:
        tokens[document] += len(ids) - 1
    drawn = resampling(count, "text", text.content)
    base, tuned = float(before.sum() / tokens.sum()), float(after.sum() / tokens.sum())
    return {
        "source": text.name,
        "content": text.content,
        "documents": count,
        "tokens": int(tokens.sum()),
        "base": base,
        "tuned": tuned,
        "rise": tuned - base,
        "interval": interval(drawn @ (after - before) / numpy.maximum(drawn @ tokens, 1)),
    }


def text_pieces(text: Text, tokenizer: Any, max_length: int) -> list[Piece]:
    """Return what a model reads at a time: at most ``max_length`` tokens of one document.

    The first token of a piece has nothing before it and is not predicted, so pieces of one token are left out.

    Raises:
        ConfigError: nothing is left.
    """
    encoded = tokenizer(list(text.documents))["input_ids"]
    pieces = [
        (document, tuple(ids[start : start + max_length]))
        for document, ids in enumerate(encoded)
        for start in range(0, len(ids), max_length)
    ]
    pieces = [(document, ids) for document, ids in pieces if len(ids) > 1]
    if not pieces:
        raise ConfigError(
            f"'forgetting.text' ({text.name}) has no document of two tokens; choose another field or split"
        )
    return pieces


def document_losses(
    model: torch.nn.Module, pieces: list[Piece], documents: int, pad_id: int, device: Any
) -> numpy.ndarray:
    """Return the summed loss of each document in nats, float64.

    Args:
        model: a causal language model.
        pieces: of documents (see :func:`text_pieces`).
        documents: how many documents there are.
        pad_id: token id of padding.
        device: where the model is.
    """
    sums = numpy.zeros(documents)
    for batch in batches(pieces):
        # as examples whose answer begins with the second token: the loss and the routers get their masks
        examples = [Encoded("", document, ids, (), 1) for document, ids in batch]
        tensors = collate(examples, pad_id, "multiple_choice", device)
        labels = tensors.pop("labels")
        logits = model(**tensors).logits[:, :-1].float()
        losses = functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        for (document, _), loss in zip(batch, losses.double().sum(1).tolist(), strict=True):
            sums[document] += loss
    return sums


def batches(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Yield pieces of similar length that with padding are no more than `TOKENS` together, or a single one."""
    batch: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece[1])):
        if batch and (len(batch) + 1) * len(batch[0][1]) > TOKENS:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
