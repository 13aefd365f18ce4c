"""The protocol ``lm-eval``: multiple choice by log-likelihood, with lm-eval in process.

The numbers are lm-eval's own; items come back by ``doc_id``. Its cache is never used: it is not keyed by the model.
"""

from collections.abc import Callable
from typing import Any

import torch

from moelora.evaluation.batching import AUTO
from moelora.memory import free_cached, is_out_of_memory
from moelora.progress import logger
from moelora.tasks import Task
from moelora.tasks.choice import lm_eval_name, scored_task

CPU_BATCH = 32  # lm-eval finds a batch size by filling memory, which on a CPU takes minutes and swaps
LARGEST_BATCH = 256  # where it begins on a GPU; it halves until the longest request fits
KEPT_TOKENS = 1_000_000  # of texts that were tokenised: some tens of megabytes

_kept: dict[tuple[str, str], list[int]] = {}
_kept_tokens = 0


def kept(tokenizer: Any, text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Return a text's tokens, from memory where the process met it before: with another choice, or in another run.

    Args:
        tokenizer: of the model. One name is one vocabulary throughout a process; without a name nothing is kept.
        text: the text.
        encode: gives its tokens where they are not known yet.
    """
    global _kept_tokens
    if not tokenizer.name_or_path:
        return encode(text)
    key = (tokenizer.name_or_path, text)
    if key not in _kept:
        tokens = encode(text)
        if _kept_tokens + len(tokens) > KEPT_TOKENS:
            _kept.clear()
            _kept_tokens = 0
        _kept[key] = tokens
        _kept_tokens += len(tokens)
    return list(_kept[key])


def choose(
    model: torch.nn.Module,
    tokenizer: Any,
    tasks: list[Task],
    data_dir: Any,
    batch_size: "int | str",
    limit: "int | None",
    max_length: int,
) -> dict[str, dict[str, Any]]:
    """Score a decoder on tasks.

    Args:
        model: the decoder.
        tokenizer: its tokenizer.
        tasks: tasks under this protocol.
        data_dir: built-in data.
        batch_size: requests per batch, halved for good where memory runs out, or ``auto`` for as many as fit.
        limit: items per task; None is all.
        max_length: tokens; longer requests lose their start.

    Returns:
        By task name: ``metrics`` (accuracy and length-normalised accuracy as fractions) and ``items``, a list of
        ``(item, label, prediction, correct)`` with choice indices.
    """
    import logging

    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model.eval()

    class Scorer(HFLM):
        """lm-eval's model without its two progress bars a call, and without tokenising a text twice."""

        def loglikelihood(self, requests, disable_tqdm: bool = True):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def tok_encode(self, string, *options, **further):
            if options or further:
                return super().tok_encode(string, *options, **further)
            return kept(self.tokenizer, string, super().tok_encode)

    if batch_size == AUTO and next(model.parameters()).device.type == "cpu":
        batch_size = CPU_BATCH
    wrapped = Scorer(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_batch_size=LARGEST_BATCH,
        max_length=max_length,
    )  # fmt: skip

    def score(group: list[Task]) -> "dict[str, Any] | None":
        # not simple_evaluate: it asks pip for the environment after every call, and its records are not ours
        objects = {lm_eval_name(task.document): scored_task(task, data_dir) for task in group}
        try:
            with torch.no_grad():
                return evaluate(
                    lm=wrapped,
                    task_dict={"tasks": objects, "groups": {}, "group_map": {}},
                    limit=limit,
                    bootstrap_iters=0,
                    log_samples=True,
                    verbosity="ERROR",
                )
        except RuntimeError as error:
            if not is_out_of_memory(error) or wrapped.batch_size_per_gpu in (1, AUTO):  # auto has its own answer
                raise
            return None

    scores = {}
    for group in distinct(tasks):
        while (outcome := score(group)) is None:
            wrapped.batch_size_per_gpu //= 2
            logger.warning("lm-eval: out of memory, batches halved to %d", wrapped.batch_size_per_gpu)
            free_cached()
        for task in group:
            name = lm_eval_name(task.document)
            scores[task.name] = task_outcome(task, outcome["results"][name], outcome["samples"][name])
    return scores


def distinct(tasks: list[Task]) -> list[list[Task]]:
    """Return the tasks in groups in which no two have one name in lm-eval: it tells tasks apart by that."""
    groups: list[list[Task]] = []
    for task in tasks:
        name = lm_eval_name(task.document)
        free = (group for group in groups if name not in {lm_eval_name(other.document) for other in group})
        group = next(free, None)
        if group is None:
            groups.append([task])
        else:
            group.append(task)
    return groups


def task_outcome(task: Task, result: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return metrics and items of one task from what lm-eval gives."""
    metrics = {"acc": result["acc,none"]}
    if "acc_norm,none" in result:
        metrics["acc_norm"] = result["acc_norm,none"]
    items = []
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        likelihoods = [response[0] for response in sample["filtered_resps"]]
        prediction = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        answer = task.evaluation[sample["doc_id"]].answer  # the target of WinoGrande is a text, not a number
        items.append((sample["doc_id"], answer, prediction, float(sample["acc"])))
    return {"metrics": metrics, "items": items}
