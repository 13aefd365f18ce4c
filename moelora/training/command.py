"""``moelora train`` and ``moelora evaluate``: carry out the plans of one job and leave its manifest."""

import argparse
import contextlib
import importlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from moelora.errors import AdapterError
from moelora.files import sha256_file, write_sealed_json
from moelora.locks import LOCK_FILE, run_lock
from moelora.plans import plan_hash
from moelora.progress import logger, run_log, start_logging
from moelora.startup import quick_imports

NEEDED = ("datasets", "moelora.training.run", "moelora.training.loop", "moelora.evaluation.score")
"""What every run imports sooner or later, if only through these."""


def write_manifest(path: Path, runs: list) -> None:
    """Write which runs the job carried, with the sum of each record; the workflow waits for this file."""
    from moelora.training.identity import suite_root

    entries = []
    for run in runs:
        record = run.folder / "record.json"
        document = run.done("record.json")
        entries.append(
            {
                "folder": os.path.relpath(run.folder.resolve(), suite_root(run.folder / "plan.json")),
                "plan_hash": plan_hash(run.plan),
                "record_sha256": sha256_file(record) if document else None,
                "status": document["status"] if document else "trained",
            }
        )
    write_sealed_json(path, {"schema": 1, "job": path.stem, "runs": entries})


def run(options: argparse.Namespace) -> int:
    """Train every plan, score it where asked, and write the manifest.

    Raises:
        MoeloraError: data, model, settings or disk stand in the way; the runs finished so far stay finished.
    """
    return carry_out_all(options, evaluate=options.evaluate)


def forget_refused(run: Any) -> None:
    """Remove the folder that was made for a run from an adapter which was refused, unless there is more in it."""
    if run.made and {path.name for path in run.folder.iterdir()} <= {"resolved.json", "log.txt", LOCK_FILE}:
        shutil.rmtree(run.folder)


def carry_out_all(options: argparse.Namespace, *, evaluate: bool) -> int:
    """Carry out the plans one after the other; a failed run does not stop the others, a signal stops all.

    Of several processes the first does this, and the others train with it.
    """
    from moelora.training.preemption import listening

    start_logging()
    with listening("job"):
        with quick_imports(getattr(options, "alone", False)):
            for module in NEEDED:
                importlib.import_module(module)
        crew = _join_others()
        start_logging(str(options.log) if options.log and crew.main else None)
        if not crew.main:
            logger.setLevel(logging.ERROR)
            crew.follow()
            return 0
        try:
            runs = _carry_out_each(options, evaluate)
            if options.manifest:
                write_manifest(options.manifest, runs)
        except Exception:
            with contextlib.suppress(Exception):  # a process that is lost cannot be told, and the error says so
                crew.dismiss()
            raise
        crew.dismiss()
    return 0


def _join_others() -> Any:
    """Return the processes that train together; set how many threads each computes on."""
    import torch

    from moelora.training.launch import join

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    return join()


def _carry_out_each(options: argparse.Namespace, evaluate: bool) -> list:
    from moelora.fingerprint import method_fingerprint
    from moelora.training.identity import open_run
    from moelora.training.preemption import Preempted
    from moelora.training.run import carry_out

    runs = []
    for path in options.plans:
        opened = open_run(
            path, options.fingerprint, options.data, options.base, options.adapter, further=options.verb == "train"
        )
        if not opened.fingerprint:
            match = opened.plan.get("match")
            opened.fingerprint = method_fingerprint(opened.plan["method"], *([match["method"]] if match else []))
        if getattr(options, "diagnostics", False):
            opened.plan["diagnostics"] = {"routing": True}
        runs.append(opened)
        try:
            with run_lock(opened.folder, opened.label), run_log(opened.folder / "log.txt"):
                try:
                    record = carry_out(opened, evaluate=evaluate)
                except Preempted as stop:
                    stop.say(opened.label)  # also in the run's own log
                    raise
                if record is not None:
                    logger.info("%s: %s", opened.label, summary(record))
        except AdapterError:
            forget_refused(opened)
            raise
    return runs


def summary(record: dict) -> str:
    """Return a record in one line: main metric per task, or why there is none."""
    if record["status"] != "finished":
        return f"{record['status']}: {record['reason']}"
    scores = (f"{task} {entry['metrics'][entry['main_metric']]:.4f}" for task, entry in record["scores"].items())
    seconds = record["training"]["seconds"] if record["training"] else 0.0
    return f"{', '.join(scores)} ({seconds:.1f} s of training)"
