"""Multiple choice by log-likelihood with lm-eval in process.

The numbers are lm-eval's own; items come back by ``doc_id``. Its cache is never used: it is not keyed by the model.
"""

from typing import Any

import torch

from moelora.tasks import Task
from moelora.tasks.choice import lm_eval_name, lm_eval_task


def choose(
    model: torch.nn.Module,
    tokenizer: Any,
    tasks: list[Task],
    data_dir: Any,
    batch_size: int,
    limit: "int | None",
    max_length: int,
) -> dict[str, dict[str, Any]]:
    """Score a decoder on tasks.

    Returns:
        By task name: ``metrics`` (accuracy and length-normalised accuracy as fractions) and ``items``, a list of
        ``(item, label, prediction, correct)`` with choice indices.
    """
    import logging

    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model.eval()
    documents = [task.document for task in tasks]

    class Scorer(HFLM):
        """lm-eval's model without its two progress bars a call."""

        def loglikelihood(self, requests, disable_tqdm: bool = True):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    wrapped = Scorer(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
    with torch.no_grad():
        # not simple_evaluate: it asks pip for the environment after every call, and its records of that are not ours
        objects = {lm_eval_name(document): lm_eval_task(document, data_dir) for document in documents}
        outcome = evaluate(
            lm=wrapped,
            task_dict={"tasks": objects, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            verbosity="ERROR",
        )
    scores = {}
    for document in documents:
        name = lm_eval_name(document)
        result = outcome["results"][name]
        metrics = {"acc": result["acc,none"]}
        if "acc_norm,none" in result:
            metrics["acc_norm"] = result["acc_norm,none"]
        items = []
        for sample in sorted(outcome["samples"][name], key=lambda sample: sample["doc_id"]):
            likelihoods = [response[0] for response in sample["filtered_resps"]]
            prediction = max(range(len(likelihoods)), key=likelihoods.__getitem__)
            items.append((sample["doc_id"], int(sample["target"]), prediction, float(sample["acc"])))
        scores[document["name"]] = {"metrics": metrics, "items": items}
    return scores
