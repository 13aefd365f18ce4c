"""What a schema cannot say of a model or task file: which of its keys go together.

Checked where the file is read, so that a run does not find it out after hours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, nearest

METRICS = {
    "classification": ("accuracy", "f1", "macro_f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "multiple_choice": ("acc", "acc_norm"),
}
"""Metrics by kind of task; `moelora.evaluation.metrics` has their functions."""

PARTS = {"gated": ("gate", "up", "down"), "two_matrix": (), "two_matrix_block": ()}
"""Names that a model's feed-forward linears must have; those of two matrices may be called as the model calls them."""


def check_meaning(kind: str, document: Mapping[str, Any], path: "Path | str") -> None:
    """Refuse a model or task file whose keys contradict each other.

    Args:
        kind: Of the file; only ``model`` and ``task`` have rules here.
        document: What follows its schema.
        path: The file, for the message.

    Raises:
        ConfigError: Names the file, the key and what is expected.
    """
    trouble = {"model": _of_model, "task": _of_task}.get(kind, lambda _: "")(document)
    if trouble:
        raise ConfigError(f"{path}: {trouble}")


def _of_model(model: Mapping[str, Any]) -> str:
    missing = [part for part in PARTS[model["feed_forward_layout"]] if part not in model["modules"]["feed_forward"]]
    if missing:
        return (
            f"'modules.feed_forward' has no '{missing[0]}', which 'feed_forward_layout' {model['feed_forward_layout']} "
            "needs; add it"
        )
    if model["feed_forward_layout"] != "gated" and len(model["modules"]["feed_forward"]) != 2:
        return (
            f"'modules.feed_forward' has {len(model['modules']['feed_forward'])} linears, but 'feed_forward_layout' "
            f"{model['feed_forward_layout']} speaks of two; correct one of them"
        )
    layers = model.get("facts", {}).get("config", {}).get("num_hidden_layers")
    if layers is not None and layers != model["layers"]:
        return f"'layers' is {model['layers']}, but 'facts.config.num_hidden_layers' is {layers}; correct one of them"
    return ""


def _of_task(task: Mapping[str, Any]) -> str:
    known = METRICS[task["kind"]]
    for metric in task["metrics"]:
        if metric not in known:
            return f"'metrics' names '{metric}', which {task['kind']} does not have{nearest(metric, known)}"
    if task["main_metric"] not in task["metrics"]:
        main = task["main_metric"]
        return f"'main_metric' is '{main}', which 'metrics' does not name{nearest(main, set(task['metrics']))}"
    choice = task["kind"] == "multiple_choice"
    protocol = "lm-eval" if choice else "glue"
    if task["protocol"] != protocol:
        return f"'protocol' is '{task['protocol']}', expected '{protocol}' for {task['kind']}"
    labels = task.get("labels", [])
    if task["kind"] == "classification" and len(set(labels)) < 2:
        return f"'labels' names {len(set(labels))} labels, expected two or more different ones for classification"
    if task["kind"] == "regression" and labels:
        return "'labels' is for classification; a grade has none, take them out"
    if "f1" in task["metrics"] and len(labels) != 2:
        return f"'metrics' names 'f1', which is of two labels, but 'labels' has {len(labels)}; take macro_f1"
    splits = task.get("splits", {})
    if splits and splits["train"] == splits["evaluation"]:
        return f"'splits' trains and scores on the same split '{splits['train']}'; name another for evaluation"
    return _of_source(task, choice)


def _of_source(task: Mapping[str, Any], choice: bool) -> str:
    source = task["source"]
    if choice and "hub" in source:
        return "'source' of multiple_choice is {lm_eval: name} or {builtin: name}; its data set goes into 'hub'"
    if not choice and "lm_eval" in source:
        return f"'source.lm_eval' is for multiple_choice, found {task['kind']}; name a data set as 'hub'"
    if "hub" in source:
        if not 1 <= len(task.get("fields", [])) <= 2:
            return f"'fields' must name one or two text columns of the data set, found {len(task.get('fields', []))}"
        if not task.get("label"):
            return "'label' must name the data set's column of labels; add it"
    if ("hub" in task) != ("prompts" in task):
        lacking = "prompts" if "hub" in task else "hub"
        return f"key '{lacking}' is missing: 'hub' and 'prompts' go together; add it"
    return ""
