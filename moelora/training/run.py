"""One run: from a plan to an adapter, scores and a record.

Each step is skipped when its file is already there for the same key: the hash of the resolved plan, the fingerprint of
the code behind it, and a digest of what the suite built for it.
"""

import contextlib
from typing import Any

from moelora.errors import MoeloraError
from moelora.files import pretty_json, write_if_different, write_sealed_json
from moelora.progress import logger
from moelora.records.environment import now, peak_memory_bytes
from moelora.training.declarations import declarations, parent_declarations, source_declarations
from moelora.training.device import choose_device, make_accelerator
from moelora.training.fit import fit
from moelora.training.identity import Run
from moelora.training.outputs import clear_leftovers, drop_state, is_adapter_whole, write_adapter, write_items
from moelora.training.record import failed_record, make_record, skipped_record
from moelora.training.sources import load_tasks, load_watched


def train_run(run: Run) -> Any:
    """Train the run unless that is done; return the attached, trained model.

    Writes ``adapter/`` and ``train.json``; the latter is written last and names the sums of the adapter's files. A run
    whose adapter was changed or truncated since is trained again.

    Raises:
        Preempted: a signal asked the process to leave; what was trained so far is in the run's state.
    """
    from moelora.training.attach import adapter_file, attach, load_adapter
    from moelora.training.launch import crew_of
    from moelora.training.parent import load_parent

    plan, parent = run.plan, run.plan.get("parent")
    tasks = load_tasks(plan, run.data_dir)
    accelerator = make_accelerator(plan)
    trained = run.done("train.json")
    if trained is not None and (not trained["adapter_sha256"] or is_adapter_whole(run, trained)):
        drop_state(run)  # a kill may have come before it was
        attached = attach(plan, tasks, run.base_dir, accelerator.device)
        if trained["adapter_sha256"]:
            load_adapter(attached, run.folder / "adapter")
        elif parent and trained["status"] == "finished":
            load_parent(attached, run)
        return attached, trained
    started = now()
    with contextlib.ExitStack() as held:
        fitted = crew_of(accelerator).lead(fit, run, held)
        document = _trained_document(run, fitted, accelerator)
        document["started"] = started
        if fitted.result.status == "finished" and fitted.further:
            document["adapter_files"] = write_adapter(run, fitted.attached)
            path = adapter_file(run.folder / "adapter")
            document["adapter_sha256"] = document["adapter_files"][path.name]
            document["adapter_bytes"] = path.stat().st_size
        write_sealed_json(run.folder / "train.json", document)
        drop_state(run)
    return fitted.attached, document


def _trained_document(run: Run, fitted: Any, accelerator: Any) -> dict[str, Any]:
    """Return what ``train.json`` says of a run that has left no adapter yet."""
    attached, result, parameters, further = fitted.attached, fitted.result, fitted.parameters, fitted.further
    plan, method, parent = run.plan, attached.method, run.plan.get("parent")
    declare = method.make_hooks(attached.settings).declare
    declared = declare(attached.model) if declare and result.status == "finished" and parameters["trainable"] else []
    return {
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
                "examples_by_task",
                "loss_curve",
                "balance_curve",
                "micro_batch_size",
                "accumulation_steps",
                "resumed",
            )
        }
        | ({"processes": accelerator.num_processes} if accelerator.num_processes > 1 else {})
        | ({"data": fitted.data} if fitted.data else {}),
        "parameters": parameters,
        "attached": attached.layers(),
        "match": attached.matched.record() if attached.matched else None,
        "declarations": [
            *result.declarations,
            *(declarations(method, attached.settings, result.micro_batch_size) if further or not parent else []),
            *declared,
            *parent_declarations(parent),
            *source_declarations(plan),
        ],
        "base_identity": attached.base.identity,
        "adapter_sha256": None,
        "adapter_bytes": 0,
        "peak_memory_bytes": peak_memory_bytes(accelerator.device),
    }


def balance_of(method: Any) -> Any:
    """Return the function that reads the balance loss of the last forward pass, or ``None`` where there is none."""
    if not method.abilities.balance_loss:
        return None
    from moelora.tuners import balance_loss

    return balance_loss


def evaluate_run(run: Run, attached: Any, trained: dict[str, Any]) -> dict[str, Any]:
    """Score a trained run; write ``items.parquet``, ``scores.json`` and, last, ``record.json``.

    Where the plan asks for diagnostics of routing, the first choices of the routers are written too. Forgetting is
    measured last, so that nothing else can depend on it.
    """
    import torch

    from moelora.evaluation.score import routed_items, score_model
    from moelora.methods import get_method

    plan, method = run.plan, get_method(run.plan["method"])
    scores: dict[str, Any] = {}
    routing: list = []
    diagnostics = items = forgetting = None
    device = choose_device()
    if trained["status"] == "finished":
        tasks = load_tasks(plan, run.data_dir)
        with torch.no_grad():  # 4-bit layers give other numbers where gradients are kept
            scores, rows = score_model(
                attached.model,
                attached.base.tokenizer,
                tasks,
                plan,
                data_dir=run.data_dir,
                device=device,
                reads_input=method.abilities.reads_input,
            )
        if form := plan["model"].get("quantisation"):
            scores = {name: {**entry, "base_form": form} for name, entry in scores.items()}
        items = write_items(run.folder, rows)
        if method.abilities.routed:
            from moelora.evaluation.routing import diagnose, routing_rows, watch_routing

            watched = routed_items(
                tasks, attached.base.tokenizer, plan["training"]["max_length"], plan["evaluation"].get("limit")
            )
            kinds = {task.name: task.kind for task in tasks}
            pad_id = attached.base.tokenizer.pad_token_id
            recorder = watch_routing(attached.model, watched, kinds, pad_id, device)
            diagnosed = wants_diagnostics(run)
            routing = routing_rows(recorder, list(watched), plan["seed"], diagnosed=diagnosed)
            if diagnosed:
                diagnostics = diagnose(recorder, attached.model, watched, run.folder)
        if plan.get("forgetting"):
            from moelora.evaluation.forgetting import measure_forgetting

            text, probed = load_watched(plan, run.data_dir)
            forgetting = measure_forgetting(attached, plan, text, probed, run.base_dir, device)
        write_sealed_json(run.folder / "scores.json", {"key": run.key, "scores": scores})
    record = make_record(
        run,
        trained,
        scores=scores,
        routing=routing,
        items=items,
        device=device,
        diagnostics=diagnostics,
        forgetting=forgetting,
    )
    write_sealed_json(run.folder / "record.json", record)
    return record


def wants_diagnostics(run: Run) -> bool:
    """Return whether the plan asks for diagnostics, and the method has routers to watch."""
    from moelora.methods import get_method

    asked = (run.plan.get("diagnostics") or {}).get("routing", False)
    return bool(asked) and get_method(run.plan["method"]).abilities.routed


def is_complete(run: Run, record: dict[str, Any]) -> bool:
    """Return whether a record holds all that the plan asks for; a failed run is tried again."""
    lacks = record.get("diagnostics") is None and wants_diagnostics(run)
    asked = run.plan.get("forgetting")
    lacks |= asked is not None and record["plan"].get("forgetting") != asked
    return record["status"] != "failed" and not (record["status"] == "finished" and lacks)


def carry_out(run: Run, *, evaluate: bool) -> "dict[str, Any] | None":
    """Train and, if asked, score a run; return its record once there is one.

    Raises:
        MoeloraError: what the user can mend (data, models, settings, disk). Everything else becomes a failed record.
    """
    clear_leftovers(run.folder)
    write_if_different(run.folder / "resolved.json", pretty_json(run.plan))
    if evaluate and (record := run.done("record.json")) is not None and is_complete(run, record):
        logger.info("%s: already done", run.label)
        return record
    parent = run.plan.get("parent")
    if parent and parent["status"] != "finished":
        reason = f"the run of '{parent['task']}' that it starts from ended {parent['status']}"
        return skipped_record(run, reason)
    try:
        if evaluate:
            load_watched(run.plan, run.data_dir)  # what cannot be had is better known before training than after
        attached, trained = train_run(run)
        return evaluate_run(run, attached, trained) if evaluate else None
    except MoeloraError:
        raise
    except Exception as error:
        return failed_record(run, error)
