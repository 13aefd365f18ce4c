"""``moelora tune``: choose a variant's learning rate on a validation split cut from train.

Every variant gets the same rates, the same examples in the same order, and the same held-out part. The official
evaluation split is never opened here.
"""

import argparse
import copy
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, RecordError
from moelora.files import read_json, sha256_file, write_sealed_json
from moelora.locks import run_lock
from moelora.methods import Hooks
from moelora.progress import logger, start_logging
from moelora.seeds import derive_seed
from moelora.tasks import Task


def cut_validation(task: Task, fraction: float, seed: int, max_examples: "int | None") -> Task:
    """Return the task with its train split cut in two: the rest trains, the part evaluates.

    The cut depends on task and seed alone.
    """
    order = list(range(len(task.train)))
    random.Random(derive_seed("validation cut", task.name, seed)).shuffle(order)
    held = max(1, round(fraction * len(order)))
    kept = order[held:][:max_examples]
    return dataclasses.replace(
        task,
        train=tuple(task.train[index] for index in kept),
        evaluation=tuple(task.train[index] for index in order[:held]),
        held_out=tuple(order[:held]),
    )


def trial_plan(plan: dict[str, Any], tune: dict[str, Any], rate: float) -> dict[str, Any]:
    """Return the plan of one trial: the run's own, but for rate, seed and length."""
    trial = copy.deepcopy(plan)
    trial["seed"] = tune["seed"]
    trial["training"]["learning_rate"] = rate
    for key in ("epochs", "max_steps"):
        if tune.get(key) is not None:
            trial["training"].update({"epochs": None, "max_steps": None, key: tune[key]})
    trial["training"]["checkpoint_every_steps"] = None
    trial["evaluation"]["limit"] = None
    return trial


Watch = Callable[[int, int, Callable[[], float]], None]


def run_trial(
    plan: dict[str, Any], tasks: list[Task], base_dir: Any, data_dir: Any, watch: "Watch | None" = None
) -> dict[str, Any]:
    """Train and score one trial; return rate, mean main metric over tasks, status, seconds and size.

    Args:
        plan: the trial's plan.
        tasks: what to train and to score on.
        base_dir: a base model that the suite built.
        data_dir: built-in data.
        watch: called after each step with the steps done, the total, and a function that scores the model as it is;
            it may end the trial by raising.

    Raises:
        ConfigError: the plan trains on other data than its tasks'.
    """
    from moelora.evaluation.score import score_model
    from moelora.methods import get_method
    from moelora.training.attach import attach, recompute_activations
    from moelora.training.device import make_accelerator
    from moelora.training.encode import encode_training
    from moelora.training.loop import train_loop
    from moelora.training.order import all_steps
    from moelora.training.run import balance_of
    from moelora.training.state import seed_everything

    training = plan["training"]
    if training.get("data"):
        raise ConfigError("a trial trains on a part of its task's train split; it cannot train on 'training.data'")
    accelerator = make_accelerator(plan)
    attached = attach(plan, tasks, base_dir, accelerator.device)
    examples = []
    for task in tasks:
        examples += encode_training(task, None, attached.base.tokenizer, training)
    steps = all_steps(
        examples, training["batch_size"], plan["seed"], epochs=training.get("epochs"),
        max_steps=training.get("max_steps"), by_task=tasks[0].kind != "multiple_choice",
        sampling=training.get("sampling"),
    )  # fmt: skip
    recompute_activations(attached.model, training)
    seed_everything(derive_seed("training", plan["seed"]))
    method = get_method(plan["method"])
    hooks = method.make_hooks(attached.settings)
    kinds = {task.name: task.kind for task in tasks}

    def mean_score() -> float:
        scores, _ = score_model(
            attached.model, attached.base.tokenizer, tasks, plan, data_dir=data_dir, device=accelerator.device,
            reads_input=True,
        )  # fmt: skip
        return sum(entry["metrics"][entry["main_metric"]] for entry in scores.values()) / len(scores)

    if watch is not None:
        hooks = watched(hooks, lambda done, total: watch(done, total, mean_score))
    result = train_loop(
        attached.model, steps, kinds, training, attached.base.tokenizer.pad_token_id, accelerator,
        balance=balance_of(method), hooks=hooks,
        label=f"rate {training['learning_rate']:g}",
    )  # fmt: skip
    metric = tasks[0].document["main_metric"]
    trial = {"learning_rate": training["learning_rate"], "metric": metric, "score": None, "status": result.status,
             "reason": result.reason, "steps": result.steps, "seconds": result.seconds,
             "cpu_seconds": result.cpu_seconds, "loss_curve": result.loss_curve, "device": accelerator.device.type,
             "trainable_parameters": attached.parameters()["trainable"]}  # fmt: skip
    if result.status == "finished":
        trial["score"] = mean_score()
    return trial


def watched(hooks: Hooks, look: Callable[[int, int], None]) -> Hooks:
    """Return the hooks of a method with a look at the model after each step."""

    def after_step(model: Any, done: int, total: int) -> None:
        if hooks.after_step is not None:
            hooks.after_step(model, done, total)
        look(done, total)
        model.train()  # scoring leaves it in evaluation mode

    return dataclasses.replace(hooks, after_step=after_step)


def _earlier_trials(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials that a killed process of the same tuning has left."""
    if not path.is_file():
        return []
    try:
        earlier = read_json(path, "trials")
    except RecordError as error:
        logger.warning("%s; its trials are carried out again", error)
        return []
    return earlier["trials"] if earlier.get("identity") == identity else []


def best_rate(scored: list[dict[str, Any]]) -> float:
    """Return the rate of the best score; the lower final training loss breaks a tie.

    Ties are common: on small budgets several rates leave a model at its majority class.
    """
    return max(scored, key=lambda trial: (trial["score"], -trial["loss_curve"][-1][1]))["learning_rate"]


def run(options: argparse.Namespace) -> int:
    """Run one trial per rate and write which rate scored best.

    Raises:
        ConfigError: every trial diverged, so no rate can be chosen.
    """
    from moelora.plans import resolve
    from moelora.plans.reading import read_plan
    from moelora.training.identity import suite_root
    from moelora.training.launch import refuse_several
    from moelora.training.sources import load_tasks

    start_logging()
    refuse_several("tune")
    tune = options.tune
    document = read_plan(options.plan)
    document["pending"].pop("learning_rate", None)
    plan = resolve(document, suite_root(options.plan))
    tasks = [
        cut_validation(task, tune["validation_fraction"], tune["seed"], tune.get("max_examples"))
        for task in load_tasks(plan, options.data)
    ]
    out = Path(options.out)
    with run_lock(out.parent, f"{plan['variant']}: choosing a learning rate"):
        write_choice(out, options, plan, tasks)
    return 0


def write_choice(out: Path, options: argparse.Namespace, plan: dict[str, Any], tasks: list[Task]) -> None:
    """Carry out the trials that a killed process has not, and write the rate that scored best.

    Raises:
        ConfigError: every trial diverged.
    """
    tune, progress_file = options.tune, out.with_suffix(".partial.json")
    identity = {"plan": sha256_file(options.plan), "tune": tune}
    trials = _earlier_trials(progress_file, identity)
    for rate in tune["learning_rates"][len(trials) :]:
        trials.append(run_trial(trial_plan(plan, tune, rate), tasks, options.base, options.data))
        logger.info("%s: rate %g scored %s", plan["variant"], rate, trials[-1]["score"])
        write_sealed_json(progress_file, {"identity": identity, "trials": trials})
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        raise ConfigError(f"all {len(trials)} trials of '{plan['variant']}' diverged; give smaller learning_rates")
    chosen = best_rate(scored)
    held = {task.name: len(task.evaluation) for task in tasks}
    write_sealed_json(
        out,
        {
            "schema": 1,
            "variant": plan["variant"],
            "trials": trials,
            "chosen": chosen,
            "split": f"cut from train, {tune['validation_fraction']:g} of it, seed {tune['seed']}; items: {held}",
            "training_examples": {task.name: len(task.train) for task in tasks},
        },
    )
    progress_file.unlink(missing_ok=True)
