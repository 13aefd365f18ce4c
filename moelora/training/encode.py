"""From examples to token ids, once, before the first step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from moelora.tasks import Choice, LabelledText, Task
from moelora.tasks.prompts.posing import Posed
from moelora.tasks.protocols import POSED

IGNORED = -100  # label of a token that the loss leaves out
# What the loss of a decoder counts; between the two, "all_tokens" leaves out padding.
ANSWERS, PADDING = "answers", "all_tokens_and_padding"
PROMPT = "{prompt}"  # where a template has the task's own prompt


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One tokenised example.

    ``label`` is a class index or a grade for labelled texts; for multiple choice it is the position of the first
    answer token, from which on the loss counts. ``type_ids`` are BERT's segment ids, empty where a model has none.
    """

    task: str
    item: int
    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    label: int | float


def encode_texts(task: Task, examples: "list[LabelledText] | tuple", tokenizer: Any, max_length: int) -> list[Encoded]:
    """Tokenise labelled texts, cutting the longer text first where a pair exceeds ``max_length`` tokens."""
    if not examples:
        return []
    pairs = [example.text_pair for example in examples] if examples[0].text_pair is not None else None
    batch = tokenizer(
        [example.text for example in examples],
        pairs,
        truncation="longest_first" if pairs else True,
        max_length=max_length,
        padding=False,
    )
    types = batch.get("token_type_ids") or [[]] * len(examples)
    return [
        Encoded(task.name, example.id, tuple(ids), tuple(type_ids), example.label)
        for example, ids, type_ids in zip(examples, batch["input_ids"], types, strict=True)
    ]


def encode_choice(
    task: Task,
    example: Choice,
    tokenizer: Any,
    max_length: int,
    answer: "int | None" = None,
    template: str = PROMPT,
) -> Encoded:
    """Tokenise a prompt with one continuation (the right one by default); the prompt is cut from the left.

    The split into prompt and continuation is lm-eval's: the whole text is tokenised, and what goes beyond the
    prompt's own tokens is the continuation. An end-of-text token is not appended, since scoring asks for none.

    Args:
        task: the task.
        example: one of its examples.
        tokenizer: of the model.
        max_length: tokens.
        answer: which continuation; the right one by default.
        template: what stands around the prompt, which it has as ``{prompt}``.
    """
    asked = template.replace(PROMPT, example.prompt)
    text = asked + example.continuations[example.answer if answer is None else answer]
    whole, prompt = tokenise(text, tokenizer), tokenise(asked, tokenizer)
    start = min(len(prompt), len(whole) - 1)
    cut = max(0, len(whole) - max_length)
    return Encoded(task.name, example.id, tuple(whole[cut:]), (), max(1, start - cut))


def encode_posed(task: Task, example: Posed, tokenizer: Any, max_length: int) -> Encoded:
    """Tokenise a question under one of our protocols with its right answer, as its program does for training.

    A text that is too long loses its start. As coded it loses its end, and an end-of-text token follows only where
    there is room.
    """
    prompt = tokenise(example.training, tokenizer)
    whole = tokenise(example.training + example.continuations[example.answer], tokenizer)
    start, end = min(len(prompt), len(whole) - 1), tokenizer.eos_token_id
    if example.ends and end is not None and (len(whole) < max_length or not example.keeps_start):
        whole = [*whole, end]
    cut = 0 if example.keeps_start else max(0, len(whole) - max_length)
    ids = tuple(whole[cut : cut + max_length])
    return Encoded(task.name, example.id, ids, (), max(1, min(start - cut, len(ids) - 1)))


def tokenise(text: str, tokenizer: Any) -> list[int]:
    """Return a text's tokens with what the tokenizer puts before it, but without an end-of-text token."""
    ids = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    return ids[:-1] if ids and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id else ids


def encode(task: Task, examples: Any, tokenizer: Any, max_length: int, template: str = PROMPT) -> list[Encoded]:
    """Tokenise examples of either kind; ``template`` is for those of `encode_choice`."""
    if task.kind == "multiple_choice":
        if task.document.get("protocol") in POSED:
            return [encode_posed(task, example, tokenizer, max_length) for example in examples]
        return [encode_choice(task, example, tokenizer, max_length, template=template) for example in examples]
    return encode_texts(task, examples, tokenizer, max_length)


_KEPT_TASKS = 16
_kept: dict[tuple, tuple[Any, list[Encoded]]] = {}


def encode_training(task: Task, limit: "int | None", tokenizer: Any, training: Mapping[str, Any]) -> list[Encoded]:
    """Tokenise a task's first training examples, all without a limit; the seeds of one job share what comes out.

    Args:
        task: the task.
        limit: how many examples.
        tokenizer: of the model.
        training: the plan's training settings: the cut-off, whether an answer is followed by ``end_of_text``, and the
            ``prompt`` where it is not the task's.
    """
    max_length, end_of_text = training["max_length"], training.get("end_of_text", False)
    template = training.get("prompt", PROMPT)
    key = (task.name, limit, tokenizer.name_or_path, max_length, end_of_text, template)
    examples, encoded = _kept.pop(key, (None, []))
    if examples is not task.train:  # a split cut from train has the task's name too
        encoded = encode(task, task.train[:limit], tokenizer, max_length, template)
        if end_of_text and tokenizer.eos_token_id is not None:
            encoded = [end_text(example, tokenizer.eos_token_id, max_length) for example in encoded]
    _kept[key] = (task.train, encoded)
    if len(_kept) > _KEPT_TASKS:
        _kept.pop(next(iter(_kept)))
    return encoded


def end_text(example: Encoded, end: int, max_length: int) -> Encoded:
    """Return a decoder's example with an end-of-text token after its answer, where it fits and none is there."""
    ids = example.ids
    return example if ids[-1] == end or len(ids) >= max_length else dataclasses.replace(example, ids=(*ids, end))


def collate(
    batch: list[Encoded],
    pad_id: int,
    kind: str,
    device: "torch.device | str" = "cpu",
    loss_on: str = ANSWERS,
    length: "int | None" = None,
) -> dict[str, torch.Tensor]:
    """Pad a batch on the right, to ``length`` where one is given.

    Returns:
        ``input_ids`` and ``attention_mask`` (B, T), ``token_type_ids`` (B, T) where the model has them, and ``labels``:
        (B,) classes or float32 grades, or (B, T) tokens with ``IGNORED`` outside of what the loss counts: the answer,
        all tokens of the text, or padding too.
    """
    length = length or max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(batch), length), dtype=torch.long)
    types = torch.zeros((len(batch), length), dtype=torch.long)
    for row, example in enumerate(batch):
        size = len(example.ids)
        ids[row, :size] = torch.tensor(example.ids)
        mask[row, :size] = 1
        if example.type_ids:
            types[row, :size] = torch.tensor(example.type_ids)
    tensors = {"input_ids": ids, "attention_mask": mask}
    if batch[0].type_ids:
        tensors["token_type_ids"] = types
    if kind == "multiple_choice":
        labels = torch.full((len(batch), length), IGNORED, dtype=torch.long)
        for row, example in enumerate(batch):
            first, last = example.label if loss_on == ANSWERS else 0, len(example.ids) if loss_on != PADDING else length
            labels[row, first:last] = ids[row, first:last]
    else:
        dtype = torch.float32 if kind == "regression" else torch.long
        labels = torch.tensor([example.label for example in batch], dtype=dtype)
    tensors["labels"] = labels
    return {name: tensor.to(device) for name, tensor in tensors.items()}
