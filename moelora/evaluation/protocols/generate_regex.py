"""The protocol ``generate-regex``: an answer is generated with beams, and the first label word in it counts.

Four beams and at most 32 new tokens, without sampling. No label word is a wrong answer. As coded, all that stands
between the first and a second response marker of the whole text is searched; without the switch, the new tokens are.
"""

from typing import Any

import torch

from moelora.evaluation.batching import TOKENS, in_batches
from moelora.tasks import Task
from moelora.tasks.prompts.generate_regex import MARKER, find_word
from moelora.tasks.prompts.posing import Posed
from moelora.training.encode import tokenise

BEAMS = 4
NEW_TOKENS = 32


def choose(
    model: torch.nn.Module, tokenizer: Any, tasks: list[Task], batch_size: "int | str", limit: "int | None"
) -> dict[str, dict[str, Any]]:
    """Score a decoder on tasks under this protocol (see :func:`moelora.evaluation.choice.choose`).

    A prompt is cut, from its start, only where model and answer together have no room for it.
    """
    model.eval()
    asked = [(task.name, example) for task in tasks for example in task.evaluation[:limit]]
    positions = getattr(model.config, "max_position_embeddings", None)  # some models have no limit
    room = positions - NEW_TOKENS if positions else 0  # from the end; zero keeps all
    prompts = [tokenise(example.prompt, tokenizer)[-room:] for _, example in asked]
    predictions = [-1] * len(prompts)

    def answer(rows: list[int]) -> None:
        responses = generate(model, tokenizer, [prompts[row] for row in rows])
        for row, (whole, new) in zip(rows, responses, strict=True):
            predictions[row] = read_answer(asked[row][1], whole, new)

    in_batches([len(ids) for ids in prompts], batch_size, answer, "generation", TOKENS // BEAMS)
    scored: dict[str, dict[str, Any]] = {task.name: {"metrics": None, "items": []} for task in tasks}
    for (name, example), prediction in zip(asked, predictions, strict=True):
        hit = float(prediction == example.answer)
        scored[name]["items"].append((example.id, example.answer, prediction, hit))
    return scored


def read_answer(example: Posed, whole: str, new: str) -> int:
    """Return which label word a response has, -1 for none.

    Args:
        example: the question.
        whole: prompt and response as decoded.
        new: the response alone.
    """
    response = whole.split(MARKER)[1] if example.keeps_start and MARKER in whole else new
    return find_word(response, example.words)


def generate(model: torch.nn.Module, tokenizer: Any, prompts: list[list[int]]) -> list[tuple[str, str]]:
    """Return, for each prompt, the whole text and the new text. Prompts are padded on the left."""
    from transformers import GenerationConfig

    device, pad_id, length = next(model.parameters()).device, tokenizer.pad_token_id, max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    config = GenerationConfig(
        num_beams=BEAMS, max_new_tokens=NEW_TOKENS, do_sample=False, temperature=1.0, top_p=1.0, top_k=50,
        repetition_penalty=1.0, length_penalty=1.0, no_repeat_ngram_size=0, early_stopping=False,
        num_return_sequences=1, pad_token_id=pad_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    written = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config)
    new = tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
    whole = tokenizer.batch_decode(written, skip_special_tokens=True)
    return list(zip(whole, new, strict=True))
