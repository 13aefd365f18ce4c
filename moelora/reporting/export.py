"""`moelora export`: records in the layout of the result files of PEFT's method comparison.

One JSON a run and scored task, under `<task>/results/`, with the keys that its tables read. Their score is a share of
right answers, so runs whose task has none are left out, as are baselines without an adapter. What records do not have
is said in `moelora.notes` of each file rather than made up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from moelora.errors import RecordError
from moelora.files import atomic_write_json
from moelora.reporting.collect import read_records
from moelora.tasks.protocols import POSED

_PEFT_TYPES = {
    "lora": ("LORA", {}),
    "rslora": ("LORA", {"use_rslora": True}),
    "dora": ("LORA", {"use_dora": True}),
    "adalora": ("ADALORA", {}),
}

_WITHOUT_ADAPTER = frozenset({"majority", "base", "head_only"})

_PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")

_NOTES = (
    "accelerator_memory_max is the peak of the process (resident memory on a CPU); average and 99th percentile are not "
    "recorded and repeat it",
    "total_time is the training time: evaluation is not timed",
)


def run(args: argparse.Namespace) -> None:
    """Carry out `moelora export --records FILE --to DIR`."""
    written, left_out = export_records(read_records(args.records), Path(args.to))
    print(f"wrote {len(written)} files under {args.to}")
    for reason, number in sorted(left_out.items()):
        print(f"left out {number}: {reason}", file=sys.stderr)


def export_records(frame: pd.DataFrame, to: Path) -> tuple[list[Path], dict[str, int]]:
    """Write every run that has a place in that layout.

    Args:
        frame: The rows of `records.parquet`.
        to: Folder; files go to `<task>/results/<method>--<experiment>.json` in it.

    Returns:
        The files written, sorted, and how many runs were left out by reason.

    Raises:
        RecordError: There is no record.
        OutputError: The folder can't be written.
    """
    records = [json.loads(text) for text in frame.drop_duplicates("id")["record"]]
    if not records:
        raise RecordError("found no record to export, expected at least one; run the suite first")
    written, left_out = [], {}
    for record in records:
        tasks = sorted(record.get("scores") or {}) or [record["task"]]
        for task in tasks:
            reason = why_not(record, task)
            if reason:
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            document = result_of(record, task)
            name = document["run_info"]["experiment_name"].replace("/", "--")
            path = to / task / "results" / f"{name}.json"
            atomic_write_json(path, document)
            written.append(path)
    return sorted(written), left_out


def why_not(record: Mapping[str, Any], task: str) -> str:
    """Return why a run has no place in the layout; empty where it has one."""
    if record["method"] in _WITHOUT_ADAPTER:
        return "a baseline without an adapter"
    if record["status"] == "skipped":
        return "skipped, so nothing was run"
    score = (record.get("scores") or {}).get(task)
    if score is not None and score["protocol"] in POSED:
        return f"scored under {score['protocol']}, and the layout has one column for every accuracy"
    if score is not None and "accuracy" not in score["metrics"] and "acc" not in score["metrics"]:
        return "its task has no accuracy"
    return ""


def result_of(record: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return one run and task in the layout: `run_info`, `train_info`, `meta_info`, and `moelora` for what is ours."""
    environment, training = record["environment"], record.get("training") or {}
    costs, parameters = record.get("costs") or {}, record.get("parameters") or {}
    peak = int(costs.get("peak_memory_bytes") or 0)
    succeeded = record["status"] == "finished"
    return {
        "run_info": {
            "created_at": environment.get("started"),
            "total_time": float(training.get("seconds") or 0.0),
            "experiment_name": _experiment(record),
            "peft_branch": f"moelora {environment.get('moelora', '')}".strip(),
            "train_config": _train_config(record),
            "peft_config": _peft_config(record),
            "error_msg": "" if succeeded else f"{record['status']}: {record.get('reason') or ''}".strip(": "),
        },
        "train_info": {
            "accelerator_memory_reserved_avg": peak,
            "accelerator_memory_max": peak,
            "accelerator_memory_reserved_99th": peak,
            "train_time": float(training.get("seconds") or 0.0),
            "file_size": int(costs.get("adapter_bytes") or 0),
            "num_trainable_params": parameters.get("trainable"),
            "num_total_params": parameters.get("total"),
            "status": "success" if succeeded else "failed",
            "metrics": _metrics(record, task) if succeeded else [],
        },
        "meta_info": {
            "model_info": {"sha": _revision(record["plan"].get("model")), "created_at": None},
            "dataset_info": {task: {"sha": _revision(_task(record, task)), "created_at": None}},
            "package_info": {
                key: value
                for name in _PACKAGES
                for key, value in ((f"{name}-version", environment.get(name)), (f"{name}-commit-hash", None))
            },
            "system_info": {
                "system": str(environment.get("platform") or "").split(" ")[0],
                "machine": str(environment.get("platform") or "").split(" ")[-1],
                "processor": environment.get("processor"),
                "gpu": environment.get("device_name") if environment.get("device") == "cuda" else None,
            },
            "pytorch_info": f"torch {environment.get('torch')}",
        },
        "moelora": {
            "record": record["id"],
            "suite": record["suite"],
            "variant": record["variant"],
            "regime": record["regime"],
            "score": (record.get("scores") or {}).get(task),
            "declarations": record["declarations"],
            "notes": list(_NOTES),
        },
    }


def _experiment(record: Mapping[str, Any]) -> str:
    name = f"{record['model']}--{record['task']}--{record['variant']}--{record['regime']}--seed{record['seed']}"
    return f"{'full-finetuning' if record['method'] == 'full' else record['method']}/{name}"


def _train_config(record: Mapping[str, Any]) -> dict[str, Any]:
    plan = record["plan"]
    training, model = plan.get("training") or {}, plan.get("model")
    source = (model.get("source") or {}) if isinstance(model, dict) else {}
    return {
        "model_id": source.get("hub") or record["model"],
        "dtype": training.get("precision"),
        "max_seq_length": training.get("max_length"),
        "batch_size": training.get("batch_size"),
        "batch_size_eval": (plan.get("evaluation") or {}).get("batch_size"),
        "max_steps": (record.get("training") or {}).get("steps"),
        "seed": record["seed"],
        "grad_norm_clip": training.get("max_grad_norm"),
        "optimizer_type": training.get("optimizer"),
        "optimizer_kwargs": {"lr": training.get("learning_rate"), "weight_decay": training.get("weight_decay")},
        "lr_scheduler": training.get("scheduler"),
    }


def _peft_config(record: Mapping[str, Any]) -> dict[str, Any] | None:
    if record["method"] == "full":
        return None
    peft_type, more = _PEFT_TYPES.get(record["method"], (record["method"].upper(), {}))
    return {"peft_type": peft_type, **more, **(record["plan"].get("settings") or {})}


def _metrics(record: Mapping[str, Any], task: str) -> list[dict[str, Any]]:
    training, score = record.get("training") or {}, record["scores"][task]
    curve = training.get("loss_curve") or []
    metrics = score["metrics"]
    return [
        {
            "step": training.get("steps"),
            "test accuracy": metrics["accuracy"] if "accuracy" in metrics else metrics["acc"],
            "train loss": curve[-1][1] if curve else None,
            "train samples": int(training.get("examples") or 0),
            "train total tokens": int(training.get("tokens") or 0),
        }
    ]


def _task(record: Mapping[str, Any], task: str) -> Any:
    return next((t for t in record["plan"].get("tasks") or [] if isinstance(t, dict) and t["name"] == task), None)


def _revision(document: Any) -> str | None:
    return (document.get("source") or {}).get("revision") if isinstance(document, dict) else None
