"""The protocol ``label-logits``: label words ranked by one row of logits after the prompt.

As coded, a word stands for the last token of its encoding after a space, the row is that of the prompt's last token,
and a prompt that is too long loses its end and with it its answer marker. Without the switch the words are encoded
behind the prompt, tokens that all of them begin with join the prompt, and a prompt that is too long loses its start.
"""

import dataclasses
import inspect
from typing import Any

import torch

from moelora.errors import ConfigError
from moelora.evaluation.batching import in_batches
from moelora.tasks import Task
from moelora.tasks.prompts.posing import Posed
from moelora.training.encode import tokenise


@dataclasses.dataclass(frozen=True)
class Request:
    """Tokens whose last row of logits ranks ``candidates``, token ids in the order of the label words."""

    ids: tuple[int, ...]
    candidates: tuple[int, ...]


def make_request(example: Posed, tokenizer: Any, max_length: int) -> Request:
    """Return what is asked of the model for one question.

    Raises:
        ConfigError: the tokenizer cannot tell two label words apart.
    """
    prompt = tokenise(example.prompt, tokenizer)
    if example.keeps_start:
        candidates = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1] for word in example.words]
        ids = prompt[:max_length]
    else:
        encoded = [tokenise(example.prompt + text, tokenizer)[len(prompt) :] for text in example.continuations]
        common = shared_length(encoded)
        candidates = [tokens[common] if common < len(tokens) else None for tokens in encoded]
        ids = (prompt + encoded[0][:common])[-max_length:]
    if len(set(candidates)) < len(candidates) or None in candidates:
        raise ConfigError(
            f"the label words {', '.join(example.words)} are not told apart by one token of this tokenizer "
            f"({candidates}); score with 'lm-eval' or 'generate-regex'"
        )
    return Request(tuple(ids), tuple(candidates))


def shared_length(texts: list[list[int]]) -> int:
    """Return how many tokens all texts begin with."""
    for place, tokens in enumerate(zip(*texts, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, texts))


def choose(
    model: torch.nn.Module,
    tokenizer: Any,
    tasks: list[Task],
    batch_size: "int | str",
    limit: "int | None",
    max_length: int,
) -> dict[str, dict[str, Any]]:
    """Score a decoder on tasks under this protocol (see :func:`moelora.evaluation.choice.choose`)."""
    model.eval()
    asked = [(task.name, example) for task in tasks for example in task.evaluation[:limit]]
    requests = [make_request(example, tokenizer, max_length) for _, example in asked]
    predictions = [0] * len(requests)
    pad_id, device = tokenizer.pad_token_id, next(model.parameters()).device

    def rank(rows: list[int]) -> None:
        logits = last_logits(model, [requests[row].ids for row in rows], pad_id, device)
        for row, scores in zip(rows, logits, strict=True):
            predictions[row] = int(scores[list(requests[row].candidates)].argmax())

    in_batches([len(request.ids) for request in requests], batch_size, rank, "label logits")
    scored: dict[str, dict[str, Any]] = {task.name: {"metrics": None, "items": []} for task in tasks}
    for (name, example), prediction in zip(asked, predictions, strict=True):
        hit = float(prediction == example.answer)
        scored[name]["items"].append((example.id, example.answer, prediction, hit))
    return scored


def last_logits(model: torch.nn.Module, texts: list[tuple[int, ...]], pad_id: int, device: Any) -> torch.Tensor:
    """Return the logits after the last token of each text, (B, V) in float32 on the CPU.

    Texts are padded on the right, where a causal model does not look. Only the rows that are needed meet the
    vocabulary, in models that can leave out the others.
    """
    lengths = torch.tensor([len(ids) for ids in texts])
    ids = torch.full((len(texts), int(lengths.max())), pad_id, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    places, chosen = torch.unique(lengths - 1, return_inverse=True)
    options = {"logits_to_keep": places.to(device)} if keeps_logits(model) else {}
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), **options).logits
    column = chosen if options else lengths - 1
    return logits[torch.arange(len(texts)), column.to(device)].float().cpu()


def keeps_logits(model: torch.nn.Module) -> bool:
    """Return whether a model can give the logits of some positions only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
