"""One run: from a plan to an adapter, scores and a record.

Each step is skipped when its file is already there for the same key: the hash of the resolved plan, the fingerprint of
the code behind it, and a digest of what the suite built for it.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from moelora.errors import MoeloraError
from moelora.files import atomic_write_json, canonical_json, replace_folder, sha256_file
from moelora.progress import logger
from moelora.records.environment import now, peak_memory_bytes
from moelora.tasks import Task, load_task
from moelora.training.device import choose_device, make_accelerator
from moelora.training.identity import Run
from moelora.training.record import failed_record, make_record


@cache
def _task(document: str, data_dir: "Path | None") -> Task:
    return load_task(json.loads(document), data_dir)


def load_tasks(plan: dict[str, Any], data_dir: "Path | None") -> list[Task]:
    """Return the plan's tasks; a process loads each task once."""
    return [_task(canonical_json(document), data_dir) for document in plan["tasks"]]


def train_run(run: Run) -> Any:
    """Train the run unless that is done; return the attached, trained model.

    Writes ``adapter/`` and ``train.json``; the latter is written last and names the adapter's sum.

    Raises:
        AdapterError: the run was trained before, but its adapter was changed or truncated since.
    """
    from moelora.methods import get_method
    from moelora.seeds import derive_seed
    from moelora.training.attach import adapter_file, attach, load_adapter, save_adapter
    from moelora.training.encode import encode
    from moelora.training.loop import LoopResult, train_loop
    from moelora.training.order import all_steps
    from moelora.training.state import seed_everything

    plan, training = run.plan, run.plan["training"]
    tasks = load_tasks(plan, run.data_dir)
    accelerator = make_accelerator(plan)
    method = get_method(plan["method"])
    trained = run.done("train.json")
    if trained is not None:
        attached = attach(plan, tasks, run.base_dir, accelerator.device)
        if trained["adapter_sha256"]:
            path = adapter_file(run.folder / "adapter")
            if not path.is_file() or sha256_file(path) != trained["adapter_sha256"]:
                logger.warning("%s: %s is missing or was changed since it was trained; training again", run.label, path)
                trained = None
            else:
                load_adapter(attached, run.folder / "adapter")
                return attached, trained
        else:
            return attached, trained
    started = now()
    attached = attach(plan, tasks, run.base_dir, accelerator.device)
    parameters = attached.parameters()
    result = LoopResult()
    if method.abilities.trains and parameters["trainable"]:
        examples = []
        for task in tasks:
            limit = training.get("max_examples")
            examples += encode(task, task.train[:limit], attached.base.tokenizer, training["max_length"])
        steps = all_steps(
            examples,
            training["batch_size"],
            plan["seed"],
            epochs=training.get("epochs"),
            max_steps=training.get("max_steps"),
            by_task=tasks[0].kind != "multiple_choice",
        )
        seed_everything(derive_seed("training", plan["seed"]))
        result = train_loop(
            attached.model,
            steps,
            {task.name: task.kind for task in tasks},
            training,
            attached.base.tokenizer.pad_token_id,
            accelerator,
            balance=balance_of(method),
            hooks=method.make_hooks(attached.settings),
            state_path=run.folder / ".state" / f"{run.key}.pt",
            label=run.label,
        )
    declare = method.make_hooks(attached.settings).declare
    declared = declare(attached.model) if declare and result.status == "finished" and parameters["trainable"] else []
    document = {
        "key": run.key,
        "status": result.status,
        "reason": result.reason,
        "training": {
            name: getattr(result, name)
            for name in (
                "seconds",
                "cpu_seconds",
                "steps",
                "tokens",
                "examples",
                "loss_curve",
                "balance_curve",
                "micro_batch_size",
                "accumulation_steps",
                "resumed",
            )
        },
        "parameters": parameters,
        "attached": attached.layers(),
        "match": attached.matched.record() if attached.matched else None,
        "declarations": [
            *result.declarations,
            *declarations(method, attached.settings, result.micro_batch_size),
            *declared,
        ],
        "base_identity": attached.base.identity,
        "adapter_sha256": None,
        "adapter_bytes": 0,
        "peak_memory_bytes": peak_memory_bytes(accelerator.device),
        "started": started,
    }
    if result.status == "finished" and parameters["trainable"]:
        temporary = run.folder / ".adapter.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        save_adapter(attached, temporary)
        replace_folder(temporary, run.folder / "adapter")
        path = adapter_file(run.folder / "adapter")
        document["adapter_sha256"], document["adapter_bytes"] = sha256_file(path), path.stat().st_size
    atomic_write_json(run.folder / "train.json", document)
    shutil.rmtree(run.folder / ".state", ignore_errors=True)
    return attached, document


def balance_of(method: Any) -> Any:
    """Return the function that reads the balance loss of the last forward pass, or ``None`` where there is none."""
    if not method.abilities.balance_loss:
        return None
    from moelora.tuners import balance_loss

    return balance_loss


def declarations(method: Any, settings: Any, micro_batch_size: int) -> list[str]:
    """Return what a reader must know before comparing this number with others."""
    off = getattr(settings, "balance_loss", "") == "none" or not getattr(settings, "balance_coefficient", 1)
    if not method.abilities.balance_loss or off:
        return []
    return [
        f"the balance loss is not linear in the batch: it was formed over micro-batches of {micro_batch_size} examples"
    ]


def evaluate_run(run: Run, attached: Any, trained: dict[str, Any]) -> dict[str, Any]:
    """Score a trained run; write ``items.parquet``, ``scores.json`` and, last, ``record.json``."""
    import pandas

    from moelora.evaluation.score import routed_items, score_model
    from moelora.methods import get_method

    plan, method = run.plan, get_method(run.plan["method"])
    scores: dict[str, Any] = {}
    routing: list = []
    items = None
    device = choose_device()
    if trained["status"] == "finished":
        tasks = load_tasks(plan, run.data_dir)
        scores, rows = score_model(
            attached.model,
            attached.base.tokenizer,
            tasks,
            plan,
            data_dir=run.data_dir,
            device=device,
            reads_input=method.abilities.reads_input,
        )
        frame = pandas.DataFrame(rows, columns=["task", "item", "label", "prediction", "correct"])
        frame = frame.astype({"label": float, "prediction": float, "correct": float})
        temporary = run.folder / ".items.parquet.tmp"
        frame.to_parquet(temporary, index=False)
        temporary.replace(run.folder / "items.parquet")
        items = "items.parquet"
        if method.abilities.routed:
            from moelora.evaluation.routing import record_routing_of

            watched = routed_items(
                tasks, attached.base.tokenizer, plan["training"]["max_length"], plan["evaluation"].get("limit")
            )
            kinds = {task.name: task.kind for task in tasks}
            pad_id = attached.base.tokenizer.pad_token_id
            routing = record_routing_of(attached.model, watched, kinds, pad_id, device, plan["seed"])
        atomic_write_json(run.folder / "scores.json", {"key": run.key, "scores": scores})
    record = make_record(run, trained, scores=scores, routing=routing, items=items, device=device)
    atomic_write_json(run.folder / "record.json", record)
    return record


def carry_out(run: Run, *, evaluate: bool) -> "dict[str, Any] | None":
    """Train and, if asked, score a run; return its record once there is one.

    Raises:
        MoeloraError: what the user can mend (data, models, settings, disk). Everything else becomes a failed record.
    """
    if evaluate and (record := run.done("record.json")) is not None and record["status"] != "failed":
        logger.info("%s: already done", run.label)
        return record
    try:
        attached, trained = train_run(run)
        return evaluate_run(run, attached, trained) if evaluate else None
    except MoeloraError:
        raise
    except Exception as error:
        return failed_record(run, error)
