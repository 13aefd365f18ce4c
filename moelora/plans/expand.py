"""From a suite to its runs, and from its runs to the jobs that carry them."""

import copy
import itertools
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moelora.config import ConfigDir, fill_defaults
from moelora.errors import ConfigError, nearest
from moelora.plans import layout
from moelora.plans.expansion import SCHEMA, Expansion, Job, Run
from moelora.plans.forgetting import check_forgetting, plan_forgetting
from moelora.plans.mixtures import check_sampling, plan_sampling
from moelora.plans.names import check_names
from moelora.plans.parts import check_loss, check_quantised, check_shares, has_variant, wanted_cells, without_defaults
from moelora.plans.placements import allocation_file
from moelora.plans.searched import fill_search, search_document, searched_runs
from moelora.plans.training_data import plan_data
from moelora.plans.transfer import as_transfer, check_transfers, transfer_document, wanted_tasks
from moelora.plans.variants import Variant, choose_variants, is_untrained, lineage
from moelora.tasks.protocols import LM_EVAL, put_under


def expand(
    suite: "Mapping[str, Any] | Path | str", config_dir: "ConfigDir | Path | str", source: str = ""
) -> Expansion:
    """Return the runs and jobs of a suite.

    Args:
        suite: path of a suite file, or a suite as a mapping (Snakemake's config).
        config_dir: the folder with ``models/``, ``tasks/`` and ``methods/``.
        source: what messages call the suite when it is a mapping.

    Raises:
        ConfigError: the suite, or a file that it names, says something that cannot be meant.
    """
    config_dir = config_dir if isinstance(config_dir, ConfigDir) else ConfigDir(Path(config_dir))
    if isinstance(suite, Mapping):
        source = source or "suite"
        suite = config_dir.check_suite(suite, source)
    else:
        source = str(suite)
        suite = config_dir.load_suite(suite)
    variants = choose_variants(suite, config_dir, source)
    check_regimes(suite, {name for variant in variants for name in lineage(variant)}, source)
    check_limits(suite, source)
    check_filter(suite, source)
    check_sampling(suite, source)
    check_shares(suite, variants, source)
    cells = wanted_cells(suite)
    models: dict[str, dict] = {}
    tasks: dict[str, dict] = {}
    runs: dict[str, Run] = {}
    for name in {name: None for cell in cells for name in cell["models"]}:
        models[name] = config_dir.load("model", name, source)
    check_forgetting(suite, models.values(), source)
    load_task = cache(lambda name: config_dir.load("task", name, source))

    def forgetting(model: str, own: tuple[str, ...]) -> "dict[str, Any] | None":
        return plan_forgetting(suite, models[model], own, load_task, config_dir.schema("suite"), source)

    for cell in cells:
        mixtures = {name: [name] for name in cell.get("tasks", [])}
        for name, members in cell.get("mixtures", {}).items():
            if name in mixtures or config_dir.file("task", name).is_file():
                raise ConfigError(f"{source}: mixture '{name}' has the name of a task; choose another")
            mixtures[name] = members
        if not mixtures:
            raise ConfigError(f"{source}: a cell of 'grid' has neither tasks nor mixtures; add one of them")
        targets = [transfer["to"] for transfer in cell.get("transfer", [])]
        for member in (*(member for members in mixtures.values() for member in members), *targets):
            tasks.setdefault(member, config_dir.load("task", member, source))
        check_transfers(suite, cell, tasks, source)
        documents = {layout.transfer(entry): transfer_document(entry, tasks) for entry in cell.get("transfer", [])}
        for model, variant in itertools.product(cell["models"], variants):
            check_architecture(variant, models[model], source)
            check_quantised(variant, models[model], source)
        for model in cell["models"]:
            for task, members in mixtures.items():
                check_fit(models[model], [tasks[member] for member in members], source)
                loaded, forgotten = [tasks[member] for member in members], forgetting(model, tuple(members))
                for variant in variants:
                    for run in _runs(suite, config_dir, models[model], task, loaded, variant, source, forgotten):
                        if run.folder in runs and runs[run.folder].plan != run.plan:
                            raise ConfigError(
                                f"{source}: '{task}' on '{model}' stands in 'grid' twice with other tasks; "
                                "give the mixtures different names"
                            )
                        runs.setdefault(run.folder, run)
            for transfer, variant in itertools.product(cell.get("transfer", []), variants):
                target, document = tasks[transfer["to"]], documents[layout.transfer(transfer)]
                forgotten = forgetting(model, (transfer["from"], transfer["to"]))
                alone = (suite, config_dir, models[model], transfer["to"], [target], variant, source, forgotten)
                for run in _runs(*alone):
                    moved = as_transfer(run, transfer, document)
                    runs.setdefault(moved.folder, moved)
        tasks |= documents
    search = None
    if suite["search"]:
        filled = fill_search(suite, config_dir)
        found = searched_runs(filled, suite, variants, runs.values(), config_dir, source)
        runs |= {run.folder: run for run in found}
        variants.append(found[0].variant)
        search = search_document(filled, suite, found[0].variant)
    planned = tuple(runs.values())
    kept = wanted_tasks(suite)
    wanted = tuple(run for run in planned if kept is None or run.task in kept)
    jobs = tuple(_jobs(wanted, suite["jobs"]["carry"]))
    check_names(jobs, source)
    shown = {name: put_under(document, LM_EVAL, source) for name, document in tasks.items()}
    return Expansion(suite, models, shown, tuple(variants), planned, wanted, jobs, search)


def check_filter(suite: Mapping[str, Any], source: str) -> None:
    """Refuse a filter ``tasks`` or ``models`` that names what the grid does not have.

    Raises:
        ConfigError: as said.
    """
    models = {name for cell in suite["grid"] for name in cell["models"]}
    for key, known in (("tasks", grid_tasks(suite)), ("models", models)):
        for name in suite[key] or []:
            if name not in known:
                raise ConfigError(f"{source}: '{key}' names '{name}', which 'grid' does not have{nearest(name, known)}")


def grid_tasks(suite: Mapping[str, Any]) -> set[str]:
    """Return the names of all tasks, mixtures and transfers of a suite."""
    names = {name for cell in suite["grid"] for key in ("tasks", "mixtures") for name in cell.get(key, [])}
    return names | {layout.transfer(entry) for cell in suite["grid"] for entry in cell.get("transfer", [])}


def check_limits(suite: Mapping[str, Any], source: str) -> None:
    """Refuse a regime for models, or with settings for tasks, that the grid does not have.

    Raises:
        ConfigError: as said.
    """
    targets = {entry["to"] for cell in suite["grid"] for entry in cell.get("transfer", [])}
    known = {
        "models": {model for cell in suite["grid"] for model in cell["models"]},
        "training_by_task": grid_tasks(suite) | targets,
    }
    for regime, rules in suite["regimes"].items():
        for key, names in known.items():
            for name in rules.get(key, ()):
                if name not in names:
                    raise ConfigError(
                        f"{source}: 'regimes.{regime}.{key}' names '{name}', which 'grid' does not "
                        f"have{nearest(name, names)}"
                    )


def check_regimes(suite: Mapping[str, Any], variants: set[str], source: str) -> None:
    """Refuse per-variant training settings of a variant that is not there, and a run length given twice.

    Raises:
        ConfigError: as said.
    """
    for name in suite["training_by_variant"]:
        if name not in variants:
            raise ConfigError(f"{source}: unknown variant '{name}' in 'training_by_variant'{nearest(name, variants)}")
    blocks = {"training": suite["training"]}
    blocks |= {f"training_by_variant.{name}": block for name, block in suite["training_by_variant"].items()}
    for name, regime in suite["regimes"].items():
        blocks[f"regimes.{name}.training"] = regime.get("training", {})
        blocks |= {f"regimes.{name}.training_by_task.{t}": b for t, b in regime.get("training_by_task", {}).items()}
    for place, block in blocks.items():
        if block.get("epochs") is not None and block.get("max_steps") is not None:
            raise ConfigError(f"{source}: '{place}' gives epochs and max_steps; a run has one length, remove one")


def check_fit(model: Mapping[str, Any], tasks: list[dict], source: str) -> None:
    """Refuse a task that a model cannot be scored on.

    Raises:
        ConfigError: a multiple-choice task on an encoder, or a task with a head on a decoder.
    """
    for task in tasks:
        wanted = "decoder" if task["kind"] == "multiple_choice" else "encoder"
        if model["architecture"] != wanted:
            raise ConfigError(
                f"{source}: task '{task['name']}' ({task['kind']}) needs a model with architecture '{wanted}', "
                f"found '{model['name']}' ({model['architecture']}); put them into different cells of 'grid'"
            )


def check_architecture(variant: Variant, model: Mapping[str, Any], source: str) -> None:
    """Refuse a variant that cannot be attached to a model.

    Raises:
        ConfigError: as said; the message has the page's reason.
    """
    abilities = variant.abilities
    if model["architecture"] not in abilities.architectures:
        allowed = " or ".join(f"'{name}'" for name in abilities.architectures)
        raise ConfigError(
            f"{source}: variant '{variant.name}' can be attached to models of architecture "
            f"{allowed} only, found '{model['name']}' ({model['architecture']}): "
            f"{abilities.architecture_note}; take it out of 'variants', or put such models into a suite of their own"
        )
    fits = abilities.feed_forward_layouts
    if fits and model["feed_forward_layout"] not in fits:
        raise ConfigError(
            f"{source}: variant '{variant.name}' fits feed-forward blocks of the layout "
            f"{' or '.join(repr(layout) for layout in fits)} only, found '{model['name']}' "
            f"({model['feed_forward_layout']}); take it out of 'variants', or put such models into a suite of their own"
        )


def _runs(suite, config_dir, model, task, members, variant, source, forgetting):
    """Yield the runs of one variant on one task: regimes by seeds."""
    untrained = is_untrained(variant, model)
    for regime, rules in suite["regimes"].items():
        if model["name"] not in rules.get("models", [model["name"]]) or not has_variant(rules, variant):
            continue
        label = layout.label(variant.name, regime, len(suite["regimes"]))
        pending: dict[str, Any] = {}
        training = merge_training(suite, config_dir, regime, task, variant, model)
        training = plan_sampling(training, len(members))
        if training.get("data"):
            training["data"] = plan_data(training["data"], config_dir, model, source)
        if rules.get("tune") and not untrained:
            if training.get("data"):
                raise ConfigError(
                    f"{source}: regime '{regime}' tunes on a part of each task's train split, but its runs train on "
                    "'training.data'; take one of the two out of this regime"
                )
            training["learning_rate"] = None
            pending["learning_rate"] = layout.tuning(model["name"], task, label)
        if variant.allocated:
            pending["allocation"] = allocation_file(variant, model["name"], task)
            pending["allocation_settings"] = dict(variant.allocation)
        if variant.match:
            mixture = variant.match
            pending["match"] = {
                "variant": mixture.name,
                "method": mixture.method,
                "settings": dict(mixture.settings),
                "allocation": allocation_file(mixture, model["name"], task),
            }
            if variant.control["kind"] == "equal_active":
                pending["match"]["count"] = "active"
        elsewhere = ("separate_job", "protocol")  # no part of a number, and part of the tasks
        evaluation = {key: value for key, value in suite["evaluation"].items() if key not in elsewhere}
        protocol = {**suite["evaluation"], **rules.get("evaluation", {})}.get("protocol", LM_EVAL)
        check_loss(training, regime, members, protocol)
        documents = [put_under(member, protocol, source) for member in members]
        settings = dict(variant.settings)
        described = {key: value for key, value in model.items() if key != "facts"}
        seeds = rules["seeds"][:1] if untrained or variant.abilities.deterministic else rules["seeds"]
        for seed in seeds:
            plan = {
                "schema": SCHEMA,
                "suite": suite["name"],
                "model": described,
                "task": task,
                "tasks": documents,
                "variant": variant.name,
                "method": variant.method,
                "method_version": variant.version,
                "settings": settings,
                "regime": regime,
                "seed": seed,
                "training": training,
                "evaluation": evaluation,
                "pending": pending,
            }
            if any(suite["diagnostics"].values()):
                plan["diagnostics"] = suite["diagnostics"]
            if forgetting and not untrained:
                plan["forgetting"] = forgetting
            folder = layout.run_folder(model["name"], task, label, seed)
            yield Run(plan, folder, model["name"], task, variant, label, regime, seed)


def merge_training(
    suite, config_dir: ConfigDir, regime: str, task: str, variant: Variant, model: Mapping[str, Any]
) -> dict:
    """Return the training settings of a run.

    They are the suite's, then the regime's, then the regime's for the task, then the variant's own, then defaults. A
    variant's own are first those of what it was made from, by a sweep or as a changed form of a mixture.
    """
    merged: dict[str, Any] = {}
    layers = (
        suite["training"],
        suite["regimes"][regime].get("training", {}),
        suite["regimes"][regime].get("training_by_task", {}).get(task, {}),
        *(suite["training_by_variant"].get(name, {}) for name in lineage(variant)),
    )
    for layer in layers:
        if layer.get("epochs") is not None:
            merged["max_steps"] = None
        if layer.get("max_steps") is not None:
            merged["epochs"] = None
        merged |= copy.deepcopy(layer)
    merged = fill_defaults(merged, config_dir.schema("suite")["$defs"]["training"])
    if merged["max_length"] is None:
        merged["max_length"] = model["max_length"]
    if merged["micro_batch_size"] is None:
        merged["micro_batch_size"] = merged["batch_size"]
    return without_defaults(merged)


def _jobs(runs, carry: list[str]):
    """Yield jobs: runs of one model and labelled variant, further split by every axis that is not carried."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        name = f"{run.model}--{run.label}"
        if "task" not in carry or run.parent:  # a run waits for the job of its parent, so it is not in that job
            name += f"--{run.task}"
        if "seed" not in carry:
            name += f"--seed{run.seed}"
        groups.setdefault(name, []).append(run)
    for name, members in groups.items():
        yield Job(name, tuple(members))
