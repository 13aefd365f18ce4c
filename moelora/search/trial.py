"""One trial: the plan that its values make, trained on a part of train and scored on the part that was cut from it.

The official evaluation split is never opened here, and no trial has the seed of a run.
"""

import copy
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moelora.plans import plan_hash
from moelora.search.outcome import Outcome
from moelora.search.space import merge
from moelora.training.tune import cut_validation, run_trial


def trial_plan(study: Any, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the plan of a trial: the searched run's own, but for the values, the seed and the length."""
    changed = study.space.overrides(values)
    plan = copy.deepcopy(dict(study.document["plan"]))
    training = plan["training"]
    for key in ("epochs", "max_steps"):
        if study.search[key] is not None:
            training |= {"epochs": None, "max_steps": None, key: study.search[key]}
    plan["settings"] = merge(plan["settings"], changed["settings"])
    plan["training"] = merge(training, changed["training"]) | {"checkpoint_every_steps": None}
    plan["evaluation"] = {**plan["evaluation"], "limit": None}
    plan["seed"] = seed
    plan["pending"] = {}
    return plan


def make_trial_allocation(study: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the allocation document of a trial: the variant's own, but for the values.

    Raises:
        AllocationError: the strategy cannot do what the values ask for.
    """
    from moelora.allocation.command import make_allocation

    changed = study.space.overrides(values)
    plan = study.document["plan"]
    return make_allocation(
        [study.folder / entry["path"] for entry in study.document["sensitivities"]],
        merge(study.document["allocation"], changed["allocation"]),
        plan["method"],
        merge(plan["settings"], changed["settings"]),
    )


def make_objective(study: Any, data_dir: "Path | None", base_dir: "Path | None") -> Callable[[Any], Outcome]:
    """Return what carries out the trials of a study.

    Args:
        study: the study.
        data_dir: built-in data.
        base_dir: a base model that the suite built.
    """
    search = study.search

    @cache
    def tasks() -> list[Any]:
        from moelora.training.sources import load_tasks

        return [
            cut_validation(task, search["validation_fraction"], search["seed"], search["max_examples"])
            for task in load_tasks(study.document["plan"], data_dir)
        ]

    def carry_out(asked: Any) -> Outcome:
        from optuna import TrialPruned

        plan = trial_plan(study, asked.values, asked.seed)
        details: dict[str, Any] = {}
        if study.document["sensitivities"]:
            allocation = make_trial_allocation(study, asked.values)
            plan["allocation"] = allocation["experts"]
            details["experts"] = allocation["budget"]
        details["plan_hash"] = plan_hash(plan)
        watch = pruning(asked.trial, search["pruner"]["every_steps"]) if search["pruner"] else None
        try:
            found = run_trial(plan, tasks(), base_dir, data_dir, watch)
        except TrialPruned as pruned:
            return Outcome(pruned=True, reason=str(pruned), details=details)
        step_seconds = found["cpu_seconds" if found["device"] == "cpu" else "seconds"] / max(1, found["steps"])
        details |= {"metric": found["metric"], "loss": found["loss_curve"][-1][1] if found["loss_curve"] else None}
        details |= {key: found[key] for key in ("score", "status", "steps", "seconds", "trainable_parameters")}
        details["step_seconds"] = step_seconds
        if found["status"] != "finished":
            return Outcome(reason=f"{found['status']}: {found['reason']}", details=details)
        return Outcome(values={name: float(details[name]) for name in study.objectives}, details=details)

    return carry_out


def pruning(trial: Any, every: int) -> Callable[[int, int, Callable[[], float]], None]:
    """Return what reports the validation score after every so many steps, and ends a trial that falls behind."""

    def watch(done: int, total: int, score: Callable[[], float]) -> None:
        from optuna import TrialPruned

        if done % every or done == total:
            return
        value = score()
        trial.report(value, done)
        if trial.should_prune():
            raise TrialPruned(f"pruned at step {done} of {total} with score {value:.4f}")

    return watch
