"""Filling in what a plan had to leave open until earlier steps were done."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.allocation.documents import read_allocation
from moelora.errors import RecordError
from moelora.files import read_object

WINNER = {"settings": dict, "training": dict, "study": str, "trial": int, "trials": int, "params": dict}


def resolve(plan: Mapping[str, Any], root: "Path | str") -> dict:
    """Return the plan with nothing pending.

    An allocation arrives as ``plan["allocation"]`` (module name → experts), a tuned rate as
    ``plan["training"]["learning_rate"]``, the winner of a search as its settings and training (``plan["search"]`` says
    which trial it was), and the mixture that a plain LoRA is matched to as ``plan["match"]``;
    its rank is solved where the model's shapes are known. The run whose adapter it starts from becomes
    ``plan["parent"]``: labels and the adapter's sum, so that the plan's hash depends on its content.

    Args:
        plan: a plan document.
        root: the suite's folder, to which pending paths are relative.

    Raises:
        RecordError: a file that the plan waits for is missing, truncated or lacks what is needed.
    """
    resolved = copy.deepcopy(dict(plan))
    pending = resolved.pop("pending", {})
    resolved["pending"] = {}
    root = Path(root)
    if "allocation" in pending:
        resolved["allocation"] = read_allocation(root / pending["allocation"])
    if "learning_rate" in pending:
        path = root / pending["learning_rate"]
        chosen = read_object(path, "tuning", {}).get("chosen")
        if isinstance(chosen, bool) or not isinstance(chosen, int | float) or chosen <= 0:
            raise RecordError(f"tuning {path}: 'chosen' is no learning rate ({chosen!r}); look at its trials")
        resolved["training"]["learning_rate"] = float(chosen)
    if "search" in pending:
        winner = read_object(root / pending["search"], "winner of the search", WINNER)
        for part in ("settings", "training"):
            resolved[part] |= winner[part]
        resolved["search"] = {key: winner[key] for key in ("study", "trial", "trials", "params")}
    if "match" in pending:
        match = pending["match"]
        if match.get("allocation"):
            match["allocation"] = read_allocation(root / match["allocation"])
        resolved["match"] = match
    if "parent" in pending:
        resolved["parent"] = read_parent_run(pending["parent"], root)
    return resolved


def read_parent_run(parent: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return what a run says of the run whose adapter it starts from: its labels, how it ended, and the adapter's sum.

    Raises:
        RecordError: that run has not been carried out.
    """
    trained, record = (root / parent["run"] / name for name in ("train.json", "record.json"))
    # a run that failed before it was trained has left a record only
    path = record if record.is_file() and not trained.is_file() else trained
    trained = read_object(path, "training", {"status": str})
    return {
        **{key: parent[key] for key in ("suite", "model", "task", "variant", "method", "seed", "continue")},
        "status": trained.get("status"),
        "adapter_sha256": trained.get("adapter_sha256"),
    }
