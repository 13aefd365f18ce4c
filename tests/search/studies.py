"""Small studies for tests: documents as the workflow writes them, without models and data."""

import json
from pathlib import Path

from moelora.search.study import StudyFile, study_document

SPACE = {
    "rate": {"set": "training.learning_rate", "numbers": [1e-4, 1e-2], "log": True},
    "rank": {"set": "settings.r", "choices": [2, 4, 8], "tied": {"settings.alpha": 2}},
    "strategy": {"set": "allocation.strategy", "choices": ["smoe_percentile", "uniform"]},
    "percentile": {"set": "allocation.percentile", "numbers": [20, 80], "when": {"strategy": "smoe_percentile"}},
}

SEARCH = {
    "variant": "lora_smoe", "name": "lora_smoe-searched", "model": "test-encoder", "task": "tiny-mood", "trials": 6,
    "seed": 3, "objectives": ["score"], "sampler": {"name": "tpe", "startup_trials": 3, "population": 4},
    "pruner": None, "validation_fraction": 0.25, "max_examples": None, "epochs": None, "max_steps": None,
    "storage": "journal", "retries": 1, "lease_seconds": 60, "space": SPACE,
}  # fmt: skip

PLAN = {
    "suite": "test", "model": {"name": "test-encoder"}, "task": "tiny-mood", "variant": "lora_smoe-searched",
    "tasks": [{"name": "tiny-mood", "kind": "classification", "synthetic": True}], "method": "lora_smoe",
    "settings": {"r": 8, "alpha": 16}, "training": {"learning_rate": 1e-3, "epochs": 3, "max_steps": None},
    "evaluation": {"batch_size": 8, "limit": None}, "seed": 0, "pending": {"search": "search/winner.json"},
}  # fmt: skip


def make_study(folder: Path, plan: "dict | None" = None, **changes) -> StudyFile:
    """Write a study, make it in its storage, and return it."""
    search = {
        "search": {**SEARCH, **changes},
        "allocation": {"strategy": "smoe_percentile", "percentile": 40, "pool": "per_type"},
        "run_seeds": [0, 1],
    }
    document = study_document(search, plan or PLAN, sensitivities=[], sources="", fingerprint="f")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(document, sort_keys=True))
    study = StudyFile(folder, document)
    study.create()
    return study


def peak(values: dict) -> float:
    """Return a score that is best at rank 4 and a rate of 1e-3."""
    import math

    return 1.0 - 0.1 * abs(math.log10(values["rate"]) + 3) - 0.05 * abs(values["rank"] - 4)
