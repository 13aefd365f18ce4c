"""The protocol ``label-logits``: label words ranked by the logits after the prompt.

As coded, a word stands for the last token of its encoding after a space, the logits are those after the prompt's last
token, and a prompt that is too long loses its end and with it its answer marker. Without the switch words are encoded
behind the prompt and a prompt that is too long loses its start. A word then stands for its first token; where several
words begin with one token, for as many as tell it from the others, ranked by their probability in a row.
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

Tokens = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for one question: the logits after the prompt and each of ``contexts``, which rank ``words``.

    ``contexts`` are beginnings of the words, of which one is empty; usually there is no other.
    """

    prompt: Tokens
    words: tuple[Tokens, ...]
    contexts: tuple[Tokens, ...]


def make_request(example: Posed, tokenizer: Any, max_length: int) -> Request:
    """Return what is asked of the model for one question.

    Raises:
        ConfigError: the tokenizer cannot tell two label words apart.
    """
    prompt = tokenise(example.prompt, tokenizer)
    if example.keeps_start:
        words = [tuple(tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1:]) for word in example.words]
        prompt = prompt[:max_length]
    else:
        encoded = [tokenise(example.prompt + text, tokenizer)[len(prompt) :] for text in example.continuations]
        words = telling_beginnings([tuple(tokens) for tokens in encoded])
    if len(set(words)) < len(words):
        raise ConfigError(
            f"the label words {', '.join(example.words)} are not told apart by this tokenizer ({words}); score with "
            "'lm-eval' or 'generate-regex'"
        )
    contexts = sorted({word[:count] for word in words for count in range(len(word))})
    room = max_length - max(map(len, contexts))
    return Request(tuple(prompt[-room:]), tuple(words), tuple(contexts))


def telling_beginnings(words: list[Tokens]) -> list[Tokens]:
    """Return the shortest beginning of each word that no other word has; the whole word where there is none."""

    def shortest(place: int) -> Tokens:
        word, others = words[place], words[:place] + words[place + 1 :]
        counts = range(1, len(word) + 1)
        return next((word[:n] for n in counts if all(other[:n] != word[:n] for other in others)), word)

    return [shortest(place) for place in range(len(words))]


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
    texts = [(request, context) for request in requests for context in request.contexts]
    likely: dict[tuple[int, Tokens], float] = {}  # number of the request, beginning of a word → log-probability
    numbers = [number for number, request in enumerate(requests) for _ in request.contexts]
    pad_id, device = tokenizer.pad_token_id, next(model.parameters()).device

    def rank(rows: list[int]) -> None:
        ids = [texts[row][0].prompt + texts[row][1] for row in rows]
        found = last_logits(model, ids, pad_id, device).log_softmax(-1)
        for row, scores in zip(rows, found, strict=True):
            request, context = texts[row]
            size = len(context)
            for word in request.words:
                if len(word) > size and word[:size] == context:
                    likely[numbers[row], word[: size + 1]] = float(scores[word[size]])

    in_batches([len(request.prompt) + len(context) for request, context in texts], batch_size, rank, "label logits")
    scored: dict[str, dict[str, Any]] = {task.name: {"metrics": None, "items": []} for task in tasks}
    for number, ((name, example), request) in enumerate(zip(asked, requests, strict=True)):
        totals = [sum(likely[number, word[: n + 1]] for n in range(len(word))) for word in request.words]
        prediction = max(range(len(totals)), key=totals.__getitem__)
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
