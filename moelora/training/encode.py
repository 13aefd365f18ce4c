"""From examples to token ids, once, before the first step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from moelora.tasks import Choice, LabelledText, Task

IGNORED = -100  # label of a token that the loss leaves out
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
    *,
    template: str = PROMPT,
    loss_tokens: str = "answer",
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
        loss_tokens: whether the loss counts the tokens of the ``answer`` or ``all`` but the first.
    """
    asked = template.replace(PROMPT, example.prompt)
    text = asked + example.continuations[example.answer if answer is None else answer]
    whole = tokenizer(text, add_special_tokens=True)["input_ids"]
    prompt = tokenizer(asked, add_special_tokens=True)["input_ids"]
    if whole and tokenizer.eos_token_id is not None and whole[-1] == tokenizer.eos_token_id:
        whole, prompt = whole[:-1], prompt[:-1]
    start = min(len(prompt), len(whole) - 1)
    cut = max(0, len(whole) - max_length)
    return Encoded(task.name, example.id, tuple(whole[cut:]), (), 1 if loss_tokens == "all" else max(1, start - cut))


def encode(task: Task, examples: Any, tokenizer: Any, max_length: int, **of_choices: str) -> list[Encoded]:
    """Tokenise examples of either kind; ``of_choices`` are options of `encode_choice`."""
    if task.kind == "multiple_choice":
        return [encode_choice(task, example, tokenizer, max_length, **of_choices) for example in examples]
    return encode_texts(task, examples, tokenizer, max_length)


_KEPT_TASKS = 16
_kept: dict[tuple, tuple[Any, list[Encoded]]] = {}


def encode_training(task: Task, limit: "int | None", tokenizer: Any, training: Mapping[str, Any]) -> list[Encoded]:
    """Tokenise a task's first training examples, all without a limit; the seeds of one job share what comes out.

    Args:
        task: the task.
        limit: how many examples.
        tokenizer: of the model.
        training: the plan's training settings: the cut-off and, for multiple choice, the ``prompt`` and the
            ``loss_tokens`` where they are not the task's.
    """
    max_length = training["max_length"]
    of_choices = {"template": training.get("prompt", PROMPT), "loss_tokens": training.get("loss_tokens", "answer")}
    key = (task.name, limit, tokenizer.name_or_path, max_length, *of_choices.values())
    examples, encoded = _kept.pop(key, (None, []))
    if examples is not task.train:  # a split cut from train has the task's name too
        encoded = encode(task, task.train[:limit], tokenizer, max_length, **of_choices)
    _kept[key] = (task.train, encoded)
    if len(_kept) > _KEPT_TASKS:
        _kept.pop(next(iter(_kept)))
    return encoded


def token_declarations(training: Mapping[str, Any]) -> list[str]:
    """Return what must be said beside the numbers of a run that was not trained on what is scored."""
    said = []
    if training.get("loss_tokens", "answer") == "all":
        said.append("the training loss counts all tokens of a text, not those of the answer alone")
    if training.get("prompt", PROMPT) != PROMPT:
        said.append(f"the prompt in training is not the one that is scored: {training['prompt']}")
    return said


def collate(
    batch: list[Encoded], pad_id: int, kind: str, device: "torch.device | str" = "cpu"
) -> dict[str, torch.Tensor]:
    """Pad a batch on the right.

    Returns:
        ``input_ids`` and ``attention_mask`` (B, T), ``token_type_ids`` (B, T) where the model has them, and ``labels``:
        (B,) classes or float32 grades, or (B, T) tokens with ``IGNORED`` outside the answer.
    """
    length = max(len(example.ids) for example in batch)
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
            labels[row, example.label : len(example.ids)] = ids[row, example.label : len(example.ids)]
    else:
        dtype = torch.float32 if kind == "regression" else torch.long
        labels = torch.tensor([example.label for example in batch], dtype=dtype)
    tensors["labels"] = labels
    return {name: tensor.to(device) for name, tensor in tensors.items()}
