"""How tokens were routed: load per expert and task, and how well the first choice matches the task.

The match is the normalised mutual information of task and first-chosen expert over tokens; permuting the tasks of whole
items gives what chance alone would show.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy
import torch

from moelora.evaluation.diagnostics.recorder import DEAD_SHARE, RoutingRecorder
from moelora.evaluation.diagnostics.similarity import expert_similarity
from moelora.files import atomic_write_bytes, sha256_file
from moelora.models import select_head
from moelora.seeds import derive_seed
from moelora.training.encode import Encoded, collate

PERMUTATIONS = 200
CHOICES_FILE = "routing.safetensors"
DIAGNOSED = ("entropy", "entropy_share", "dead", "load_cv")


def mutual_information(table: numpy.ndarray) -> float:
    """Return the normalised mutual information (arithmetic mean of entropies) of a contingency table of counts."""
    joint = table / max(table.sum(), 1)
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        information = numpy.nansum(joint * numpy.log(joint / (rows * columns)))
        entropy = -numpy.nansum(rows * numpy.log(rows)) - numpy.nansum(columns * numpy.log(columns))
    return float(2 * information / entropy) if entropy > 1e-12 else 0.0


@torch.no_grad()
def watch_routing(
    model: torch.nn.Module, items: dict[str, list[Encoded]], kinds: dict[str, str], pad_id: int, device: Any
) -> RoutingRecorder:
    """Run items of each task through the model and return what was recorded.

    Args:
        model: a model with routers.
        items: task name → tokenised items.
        kinds: task name → kind.
        pad_id: token id of padding.
        device: where the model is.
    """
    model.eval()
    with RoutingRecorder(model) as recorder:
        for task, examples in items.items():
            with recorder.task(task), select_head(model, task):
                for start in range(0, len(examples), 16):
                    tensors = collate(examples[start : start + 16], pad_id, kinds[task], device)
                    tensors.pop("labels")
                    model(**tensors)
    return recorder


def routing_rows(recorder: RoutingRecorder, tasks: list[str], seed: int, *, diagnosed: bool) -> list[dict[str, Any]]:
    """Return one row per router.

    Args:
        recorder: what was recorded.
        tasks: names of the tasks.
        seed: seeds the permutations.
        diagnosed: keep entropy, dead experts and the coefficient of variation of the load.

    Returns:
        Rows with ``module``, ``layer``, ``experts``, ``load`` (task → share of assignments per expert), and
        for several tasks ``nmi`` with the mean and 95th percentile of ``nmi`` under permuted tasks; see
        `RoutingRecorder.routers` for the others.
    """
    rows = []
    draws: dict[tuple[str, ...], list[numpy.ndarray]] = {}  # the same for all routers that saw the same items
    for row in recorder.routers():
        row |= {"nmi": None, "nmi_permuted_mean": None, "nmi_permuted_p95": None}
        if len(tasks) > 1:
            sums, one_hot = recorder.sums[row["module"]], numpy.eye(len(tasks))
            per_item, owners = numpy.stack(sums.per_item), tuple(sums.owners)
            labels = numpy.array([tasks.index(owner) for owner in owners])
            if owners not in draws:
                generator = numpy.random.default_rng(derive_seed("routing permutations", seed))
                draws[owners] = [generator.permutation(labels) for _ in range(PERMUTATIONS)]
            chance = [mutual_information(one_hot[draw].T @ per_item) for draw in draws[owners]]
            row["nmi"] = mutual_information(one_hot[labels].T @ per_item)
            row["nmi_permuted_mean"] = float(numpy.mean(chance))
            row["nmi_permuted_p95"] = float(numpy.quantile(chance, 0.95))
        rows.append(row if diagnosed else {key: value for key, value in row.items() if key not in DIAGNOSED})
    return rows


def diagnose(
    recorder: RoutingRecorder, model: torch.nn.Module, items: dict[str, list[Encoded]], folder: Path
) -> dict[str, Any]:
    """Return the record's ``diagnostics`` of a run, and write its first choices beside the record.

    Args:
        recorder: what was recorded.
        model: the model it was recorded on.
        items: the items it was recorded with, task by task.
        folder: where the choices are written.
    """
    from safetensors.numpy import save

    digest = hashlib.sha256()
    for task, examples in items.items():
        for example in examples:
            digest.update(f"{task}\0{','.join(map(str, example.ids))}\n".encode())
    choices = recorder.choices()
    atomic_write_bytes(folder / CHOICES_FILE, save(choices))
    seen = [sums.tokens for sums in recorder.sums.values()]
    return {
        "dead_share": DEAD_SHARE,
        "tokens": {task: max(tokens.get(task, 0) for tokens in seen) for task in sorted(items)} if seen else {},
        "choices": {
            "file": CHOICES_FILE,
            "sha256": sha256_file(folder / CHOICES_FILE),
            "tokens": max((len(array) for array in choices.values()), default=0),
            "items": digest.hexdigest()[:16],
        },
        "similarity": expert_similarity(model),
    }
