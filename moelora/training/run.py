"""One run: from a plan to an adapter, scores and a record.

Each step is skipped when its file is already there for the same key: the hash of the resolved plan, the fingerprint of
the code behind it, and a digest of what the suite built for it.
"""

import dataclasses
import hashlib
import json
import shutil
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from moelora.errors import MoeloraError, RecordError
from moelora.files import atomic_write_json, canonical_json, read_json, replace_folder, sha256_file
from moelora.plans import plan_hash, resolve
from moelora.progress import logger
from moelora.records import SCHEMA, read_record, validate_record
from moelora.records.environment import environment, now, peak_memory_bytes
from moelora.tasks import Task, load_task


@cache
def _task(document: str, data_dir: "Path | None") -> Task:
    return load_task(json.loads(document), data_dir)


def load_tasks(plan: dict[str, Any], data_dir: "Path | None") -> list[Task]:
    """Return the plan's tasks; a process loads each task once."""
    return [_task(canonical_json(document), data_dir) for document in plan["tasks"]]


@dataclasses.dataclass
class Run:
    """A plan with its folder, and where its sources lie; ``sources`` is a digest of built-in data and base model."""

    folder: Path
    plan: dict[str, Any]
    pending: dict[str, Any]
    fingerprint: str
    sources: str
    data_dir: "Path | None"
    base_dir: "Path | None"

    @property
    def label(self) -> str:
        """Return a short name for log lines."""
        return f"{self.plan['model']['name']} {self.plan['task']} {self.folder.parent.name} seed {self.plan['seed']}"

    @property
    def key(self) -> str:
        """Return what the run's number depends on: the plan, the code, and what was built for it."""
        return run_key(self.hash, self.fingerprint, self.sources)

    @property
    def hash(self) -> str:
        """Return the hash of the resolved plan."""
        return plan_hash(self.plan)

    def done(self, name: str) -> "dict[str, Any] | None":
        """Return ``train.json`` or ``record.json`` when it is there, whole, and of this key."""
        try:
            document = read_record(self.folder / name) if name == "record.json" else read_json(self.folder / name)
        except RecordError:
            return None
        key = document.get("key") or run_key(*(str(document.get(x)) for x in ("plan_hash", "fingerprint", "sources")))
        return document if key == self.key else None

    def suite_file(self, path: str) -> Path:
        """Return a file that the plan names relative to the suite's folder."""
        return suite_root(self.folder / "plan.json") / path


def run_key(plan_hash: str, fingerprint: str, sources: str) -> str:
    """Return the key of a run's state, adapter and record."""
    return f"{plan_hash}-{fingerprint}-{sources}"


def source_digest(plan: dict[str, Any], data_dir: "Path | None", base_dir: "Path | None") -> str:
    """Return a digest of the built-in data and base model of a run, which its plan names by seed only.

    Sources of the hub are identified by commit in the record; they do not change beneath a suite.
    """
    digest = hashlib.sha256()
    folders = [Path(base_dir)] if base_dir is not None and "builtin" in plan["model"]["source"] else []
    if data_dir is not None:
        names = [task["name"].removeprefix("tiny-") for task in plan["tasks"] if "builtin" in task["source"]]
        folders += [Path(data_dir) / half / name for name in names for half in ("encoder", "decoder")]
    for folder in folders:
        for path in sorted(folder.glob("*")):
            digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def suite_root(plan_path: Path) -> Path:
    """Return the suite's folder of a plan: <root>/<model>/<task>/<variant>/seed<N>/plan.json."""
    return plan_path.resolve().parents[4]


def open_run(plan_path: Path, fingerprint: str, data_dir: "Path | None", base_dir: "Path | None") -> Run:
    """Read and resolve a plan, and write the resolved one beside it."""
    plan = read_json(plan_path, "plan")
    resolved = resolve(plan, suite_root(plan_path))
    atomic_write_json(plan_path.with_name("resolved.json"), resolved)
    sources = source_digest(resolved, data_dir, base_dir)
    return Run(plan_path.parent, resolved, plan.get("pending", {}), fingerprint, sources, data_dir, base_dir)


def choose_device() -> Any:
    """Return the device of this process: the GPU where there is one, unless MOELORA_DEVICE says otherwise."""
    import os

    import torch

    return torch.device(os.environ.get("MOELORA_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def make_accelerator(plan: dict[str, Any]) -> Any:
    """Return the accelerator of this process for the plan's precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = {"fp32": "no", "bf16": "bf16"}[plan["training"]["precision"]]
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=choose_device().type == "cpu")


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
            state_path=run.folder / ".state" / f"{run.key}.pt",
            label=run.label,
        )
    document = {
        "key": run.key,
        "status": result.status,
        "reason": result.reason,
        "training": {
            name: getattr(result, name)
            for name in (
                "seconds",
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
        "declarations": result.declarations + declarations(method, result.micro_batch_size),
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


def declarations(method: Any, micro_batch_size: int) -> list[str]:
    """Return what a reader must know before comparing this number with others."""
    if not method.abilities.balance_loss:
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


def make_record(
    run: Run, trained: dict[str, Any], *, scores: dict, routing: list, items: "str | None", device: Any
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
        "costs": {"peak_memory_bytes": trained["peak_memory_bytes"], "adapter_bytes": trained["adapter_bytes"]},
        "scores": scores,
        "items": items,
        "routing": routing,
        "allocation": allocation,
        "tuning": tuning,
        "declarations": trained["declarations"],
        "match": trained["match"],
        "environment": {**environment(device, trained["started"]), "base_commit": trained["base_identity"] or None},
    }
    validate_record(record, run.folder / "record.json")
    return record


def failed_record(run: Run, error: Exception) -> dict[str, Any]:
    """Write and return the record of a run that stopped with an error nobody expected: a row with a reason, no hole."""
    logger.error("%s failed:\n%s", run.label, "".join(traceback.format_exception(error)))
    trained = {
        "status": "failed",
        "reason": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"[:500],
        "attached": [], "parameters": None, "training": None, "peak_memory_bytes": 0, "adapter_bytes": 0,
        "declarations": [], "match": None, "base_identity": "", "started": now(),
    }  # fmt: skip
    record = make_record(run, trained, scores={}, routing=[], items=None, device=choose_device())
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
