"""Runs that start from the adapter of another task's run: scored on their own task as it is, or trained on it further.

They are ordinary runs under a task of their own (``sst2-to-mrpc``, titled SST-2 → MRPC; ``sst2-then-mrpc`` where
training goes on), so that tables give them a column, and they wait for the run that they start from.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.plans import layout
from moelora.plans.expansion import Run
from moelora.plans.placements import allocation_file
from moelora.plans.variants import is_untrained


def transfer_document(transfer: Mapping[str, Any], tasks: Mapping[str, dict]) -> dict:
    """Return the task of a transfer: the target under a name and a title of its own; ``data`` is where its data lie."""
    source, target = tasks[transfer["from"]], tasks[transfer["to"]]
    sign = ", then " if transfer.get("continue") else " → "
    title = f"{source['title']}{sign}{target['title']}"
    return {**target, "name": layout.transfer(transfer), "title": title, "data": target["name"]}


def check_transfers(suite: Mapping[str, Any], cell: Mapping[str, Any], tasks: Mapping[str, dict], source: str) -> None:
    """Refuse transfers from a task that the cell does not train, and those whose head does not fit.

    Raises:
        ConfigError: as said.
    """
    own = cell.get("tasks", [])
    for transfer in cell.get("transfer", []):
        first, second = transfer["from"], transfer["to"]
        name = layout.transfer(transfer)
        if first not in own:
            raise ConfigError(
                f"{source}: 'transfer' is from '{first}', which is not among the cell's "
                f"'tasks'{nearest(first, set(own))}"
            )
        if name in tasks and "data" not in tasks[name]:
            raise ConfigError(f"{source}: transfer '{name}' has the name of a task; rename the task")
        heads = [_head(tasks[task]) for task in (first, second)]
        if heads[0] != heads[1] or first == second:
            raise ConfigError(
                f"{source}: '{first}' ({heads[0]}) cannot be transferred to '{second}' ({heads[1]}): the trained head "
                "goes with the adapter, so both must be different classification or graded tasks with equal heads"
            )
        if (
            transfer.get("continue")
            and second not in own
            and any("tune" in rules for rules in suite["regimes"].values())
        ):
            raise ConfigError(
                f"{source}: '{name}' trains with the learning rate tuned for '{second}', which is not among the cell's "
                "'tasks'; add it there"
            )


def _head(task: Mapping[str, Any]) -> str:
    if task["kind"] == "classification":
        return f"{len(task['labels'])} labels"
    return "grades" if task["kind"] == "regression" else f"no head, {task['name']}"


def as_transfer(run: Run, transfer: Mapping[str, Any], document: dict) -> Run:
    """Return the run of a transfer from the run that its target would have by itself.

    A variant that trains nothing has no adapter to start from; its run is that on the target alone.
    """
    further = bool(transfer.get("continue"))
    pending = dict(run.plan["pending"])
    if not further:
        pending.pop("learning_rate", None)
    if not is_untrained(run.variant, run.plan["model"]):
        pending["parent"] = {
            "run": layout.run_folder(run.model, transfer["from"], run.label, run.seed),
            "continue": further,
            "task": transfer["from"],
            **{key: run.plan[key] for key in ("suite", "variant", "method", "seed")},
            "model": run.model,
        }
    # the adapter that it starts from has its experts where the first task put them
    if "allocation" in pending:
        pending["allocation"] = allocation_file(run.variant, run.model, transfer["from"])
    if "match" in pending:
        first = allocation_file(run.variant.match, run.model, transfer["from"])
        pending["match"] = {**pending["match"], "allocation": first}
    plan = {**run.plan, "task": document["name"], "tasks": [document], "pending": pending}
    folder = layout.run_folder(run.model, document["name"], run.label, run.seed)
    return dataclasses.replace(run, plan=plan, folder=folder, task=document["name"], transfer=True)


def wanted_tasks(suite: Mapping[str, Any]) -> "set[str] | None":
    """Return the tasks that the suite's filter leaves, with those that a wanted transfer starts from; None is all."""
    if suite["tasks"] is None:
        return None
    wanted = set(suite["tasks"])
    transfers = [transfer for cell in suite["grid"] for transfer in cell.get("transfer", [])]
    return wanted | {transfer["from"] for transfer in transfers if layout.transfer(transfer) in wanted}
