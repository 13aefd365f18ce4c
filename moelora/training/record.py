"""The record of a run: everything that is needed to argue about its number."""

import traceback
from typing import Any

from moelora.files import read_json, sha256_file, write_sealed_json
from moelora.progress import logger
from moelora.records import SCHEMA, validate_record
from moelora.records.environment import environment, now
from moelora.secrets import hide_secrets
from moelora.training.device import choose_device
from moelora.training.identity import Run


def make_record(
    run: Run,
    trained: dict[str, Any],
    *,
    scores: dict,
    routing: list,
    items: "str | None",
    device: Any,
    diagnostics: "dict | None" = None,
    forgetting: "dict | None" = None,
) -> dict:
    """Return the run's record, checked against its schema."""
    plan = run.plan
    allocation = tuning = None
    if path := run.pending.get("allocation"):
        allocation = read_json(run.suite_file(path), "allocation")
    if path := run.pending.get("learning_rate"):
        tuning = read_json(run.suite_file(path), "tuning")
    record = {
        "schema": SCHEMA,
        "id": run.hash,
        "status": trained["status"],
        "reason": trained["reason"],
        "suite": plan["suite"],
        "model": plan["model"]["name"],
        "task": plan["task"],
        "variant": plan["variant"],
        "method": plan["method"],
        "regime": plan["regime"],
        "seed": plan["seed"],
        "plan": plan,
        "plan_hash": run.hash,
        "fingerprint": run.fingerprint,
        "sources": run.sources,
        "attached": trained["attached"],
        "parameters": trained["parameters"],
        "training": trained["training"],
        "costs": {
            "peak_memory_bytes": trained["peak_memory_bytes"],
            "adapter_bytes": trained["adapter_bytes"],
            **(forgetting["costs"] if forgetting else {}),
        },
        "scores": scores,
        "items": items,
        **({"items_sha256": sha256_file(run.folder / items)} if items else {}),
        "routing": routing,
        "diagnostics": diagnostics,
        **({"forgetting": forgetting["measured"]} if forgetting else {}),
        "allocation": allocation,
        "tuning": tuning,
        "declarations": trained["declarations"],
        "match": trained["match"],
        **({"parent": plan["parent"]} if plan.get("parent") else {}),
        "environment": {**environment(device, trained["started"]), "base_commit": trained["base_identity"] or None},
    }
    validate_record(record, run.folder / "record.json")
    return record


def failed_record(run: Run, error: Exception) -> dict[str, Any]:
    """Write and return the record of a run that stopped with an error nobody expected: a row with a reason, no hole.

    Where memory ran out outside the steps of training, which have their own answer to it, that is the status.
    """
    from moelora.errors import first_line
    from moelora.memory import is_out_of_memory

    logger.error("%s failed:\n%s", run.label, "".join(traceback.format_exception(error)))
    reason = f"{type(error).__name__}: {first_line(error)}"
    return _untrained_record(run, "out_of_memory" if is_out_of_memory(error) else "failed", reason)


def skipped_record(run: Run, reason: str) -> dict[str, Any]:
    """Write and return the record of a run that could not begin."""
    logger.warning("%s skipped: %s", run.label, reason)
    return _untrained_record(run, "skipped", reason)


def _untrained_record(run: Run, status: str, reason: str) -> dict[str, Any]:
    trained = {
        "status": status,
        "reason": hide_secrets(reason)[:500],
        "attached": [], "parameters": None, "training": None, "peak_memory_bytes": 0, "adapter_bytes": 0,
        "declarations": [], "match": None, "base_identity": "", "started": now(),
    }  # fmt: skip
    record = make_record(run, trained, scores={}, routing=[], items=None, device=choose_device())
    write_sealed_json(run.folder / "record.json", record)
    return record
