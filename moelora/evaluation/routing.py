"""How tokens were routed: load per expert and task, and how well the first choice matches the task.

The match is the normalised mutual information of task and first-chosen expert over tokens; permuting the tasks of whole
items gives what chance alone would show.
"""

import re
from typing import Any

import numpy
import torch

from moelora.models import select_head
from moelora.seeds import derive_seed
from moelora.training.encode import Encoded, collate

PERMUTATIONS = 200


def mutual_information(table: numpy.ndarray) -> float:
    """Return the normalised mutual information (arithmetic mean of entropies) of a contingency table of counts."""
    joint = table / max(table.sum(), 1)
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        information = numpy.nansum(joint * numpy.log(joint / (rows * columns)))
        entropy = -numpy.nansum(rows * numpy.log(rows)) - numpy.nansum(columns * numpy.log(columns))
    return float(2 * information / entropy) if entropy > 1e-12 else 0.0


@torch.no_grad()
def record_routing_of(
    model: torch.nn.Module, items: dict[str, list[Encoded]], kinds: dict[str, str], pad_id: int, device: Any, seed: int
) -> list[dict[str, Any]]:
    """Run items of each task through the model and return one row per router.

    Args:
        model: a model with routers.
        items: task name → tokenised items.
        kinds: task name → kind.
        pad_id: token id of padding.
        device: where the model is.
        seed: seeds the permutations.

    Returns:
        Rows with ``module``, ``layer``, ``experts``, ``load`` (task → share of assignments per expert), and
        for several tasks ``nmi`` with the mean and 95th percentile of ``nmi`` under permuted tasks.
    """
    from moelora.tuners import record_routing, routing

    model.eval()
    counts: dict[str, list[numpy.ndarray]] = {}  # module → per item, first choices by expert
    loads: dict[str, dict[str, numpy.ndarray]] = {}  # module → task → assignments by expert
    owners: list[str] = []
    with record_routing(model):
        for task, examples in items.items():
            for start in range(0, len(examples), 16):
                batch = examples[start : start + 16]
                tensors = collate(batch, pad_id, kinds[task], device)
                tensors.pop("labels")
                with select_head(model, task):
                    model(**tensors)
                owners += [task] * len(batch)
                mask = tensors["attention_mask"].bool().cpu()
                for name, output in routing(model):
                    experts = output.probabilities.shape[-1]
                    chosen = output.chosen.reshape(*mask.shape, -1).cpu()
                    first = output.probabilities.reshape(*mask.shape, experts).argmax(-1).cpu()
                    rows = [numpy.bincount(first[i][mask[i]].numpy(), minlength=experts) for i in range(len(batch))]
                    counts.setdefault(name, []).extend(rows)
                    used = numpy.bincount(chosen[mask].flatten().numpy(), minlength=experts)
                    if chosen.shape[-1] == experts:  # dense routing: every expert is chosen, so weights are the load
                        used = output.probabilities.reshape(*mask.shape, experts).cpu()[mask].sum(0).double().numpy()
                    task_loads = loads.setdefault(name, {})
                    task_loads[task] = task_loads.get(task, 0) + used
    tasks = list(items)
    labels = numpy.array([tasks.index(owner) for owner in owners])
    generator = numpy.random.default_rng(derive_seed("routing permutations", seed))
    shuffled = [generator.permutation(labels) for _ in range(PERMUTATIONS)]
    rows = []
    for name in sorted(counts):
        per_item = numpy.stack(counts[name])
        layer = re.search(r"\.(\d+)\.", name)
        row = {
            "module": name,
            "layer": int(layer.group(1)) if layer else -1,
            "experts": int(per_item.shape[1]),
            "load": {task: [float(x) for x in load / load.sum()] for task, load in sorted(loads[name].items())},
            "nmi": None,
            "nmi_permuted_mean": None,
            "nmi_permuted_p95": None,
        }
        if len(tasks) > 1:
            one_hot = numpy.eye(len(tasks))
            chance = [mutual_information(one_hot[draw].T @ per_item) for draw in shuffled]
            row["nmi"] = mutual_information(one_hot[labels].T @ per_item)
            row["nmi_permuted_mean"] = float(numpy.mean(chance))
            row["nmi_permuted_p95"] = float(numpy.quantile(chance, 0.95))
        rows.append(row)
    return rows
