"""All that is measured of forgetting on one run."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from moelora.evaluation.forgetting.probes import probe_change
from moelora.evaluation.forgetting.subject import Subject, changes_body
from moelora.evaluation.forgetting.text import text_change
from moelora.tasks import Task
from moelora.tasks.text import Text


def measure_forgetting(
    attached: Any,
    plan: dict[str, Any],
    text: "Text | None",
    tasks: Sequence[Task],
    base_dir: "Path | None",
    device: Any,
) -> "dict[str, Any] | None":
    """Return the record's ``forgetting`` and its ``costs``; None where the model's body was not trained.

    Args:
        attached: the trained model; it is left as it was found.
        plan: the run's resolved plan.
        text: what a decoder's loss is measured on.
        tasks: what an encoder is probed for.
        base_dir: where a built-in base model was saved.
        device: where the model is.
    """
    if not changes_body(attached):
        return None
    wall, cpu = time.monotonic(), time.process_time()
    subject = Subject(attached, plan, base_dir, device)
    attached.model.eval()
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=subject.precision == "bf16")
    with torch.no_grad(), autocast:
        measured = {
            "text": None if text is None else text_change(subject, text),
            "probes": {task.name: probe_change(subject, task) for task in tasks},
        }
    costs = {"forgetting_seconds": time.monotonic() - wall, "forgetting_cpu_seconds": time.process_time() - cpu}
    return {"measured": measured, "costs": costs}
