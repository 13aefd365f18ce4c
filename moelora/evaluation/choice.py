"""Multiple choice on a decoder, each task under the protocol of its document."""

from typing import Any

import torch

from moelora.errors import ConfigError, nearest
from moelora.tasks import Task
from moelora.tasks.protocols import GENERATE_REGEX, LABEL_LOGITS, LM_EVAL, POSED, family


@torch.no_grad()
def choose(
    model: torch.nn.Module,
    tokenizer: Any,
    tasks: list[Task],
    data_dir: Any,
    batch_size: "int | str",
    limit: "int | None",
    max_length: int,
) -> dict[str, dict[str, Any]]:
    """Score a decoder on tasks, each under the protocol of its document.

    Returns:
        By task name: ``metrics`` that the protocol's own program computed, or None, and ``items``, a list of
        ``(item, label, prediction, correct)`` with choice indices; a prediction of -1 is no answer.

    Raises:
        ConfigError: a task's protocol is unknown.
    """
    by_family: dict[str, list[Task]] = {}
    for task in tasks:
        by_family.setdefault(family(task.document["protocol"]), []).append(task)
    scores: dict[str, dict[str, Any]] = {}
    for name, members in by_family.items():
        if name == LM_EVAL:
            from moelora.evaluation.protocols import lm_eval

            scores |= lm_eval.choose(model, tokenizer, members, data_dir, batch_size, limit, max_length)
        elif name == LABEL_LOGITS:
            from moelora.evaluation.protocols import label_logits

            scores |= label_logits.choose(model, tokenizer, members, batch_size, limit, max_length)
        elif name == GENERATE_REGEX:
            from moelora.evaluation.protocols import generate_regex

            scores |= generate_regex.choose(model, tokenizer, members, batch_size, limit)
        else:
            raise ConfigError(f"task '{members[0].name}': unknown protocol '{name}'{nearest(name, {LM_EVAL, *POSED})}")
    return scores
