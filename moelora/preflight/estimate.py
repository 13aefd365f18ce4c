"""From a suite to what it takes: one row for each model, variant and regime, totals, access, and what cannot work."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.config import ConfigDir
from moelora.methods import Counts
from moelora.plans.expansion import Expansion, Run
from moelora.plans.variants import is_untrained
from moelora.preflight import operations
from moelora.preflight.access import data_rows, model_row
from moelora.preflight.counting import count_variant
from moelora.preflight.devices import GIB, SCORING_UTILISATION, UTILISATION, Device
from moelora.preflight.lengths import BEAMS, NEW_TOKENS, Length, read_facts, run_length, tuning_length
from moelora.preflight.measured import read_throughput
from moelora.preflight.memory import Load, remedies, trained_bytes, weight_bytes
from moelora.shapes import Sizes, known_sizes, shapes_of

STATE = 12  # bytes of a trained parameter in a training state: weight and two moments
ADAPTER = 4  # bytes of a trained parameter in an adapter


def estimate(
    expansion: Expansion, config_dir: ConfigDir, device: Device, root: Path, devices: int = 1
) -> dict[str, Any]:
    """Return what a suite takes on a kind of card, as plain data.

    Args:
        expansion: The suite.
        config_dir: Where the facts about data sets are.
        device: The card.
        root: The suite's folder of results, whose cost records are used where there are any.
        devices: How many such cards there are.

    Raises:
        ConfigError: nothing is known of the size of a data set.
        RecordError: a cost record is damaged.
    """
    facts = read_facts(config_dir)
    measured = read_throughput(root, expansion.used_models)
    rows, unknown = [], []
    for model in expansion.used_models:
        document = expansion.models[model]
        sizes = known_sizes(document)
        if sizes is None:
            unknown.append(model)
            continue
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in expansion.runs:
            if run.model == model:
                groups.setdefault((run.variant.name, run.regime), []).append(run)
        rows += [_row(runs, document, sizes, facts, expansion, device, measured) for runs in groups.values()]
        rows += _sensitivity_rows(expansion, document, sizes, facts, device)
    models = [
        model_row(expansion.models[model], known_sizes(expansion.models[model])) for model in expansion.used_models
    ]
    used = {run.model for run in expansion.runs} - set(unknown)
    data = data_rows([task for run in expansion.runs if run.model in used for task in run.plan["tasks"]], facts)
    hours = sum(row["hours"] for row in rows)
    kept = sum(row["adapter_bytes"] for row in rows)
    state = max((row["state_bytes"] for row in rows), default=0)
    download = sum(row["download_bytes"] or 0 for row in models if not row["here"])
    return {
        "schema": 1,
        "suite": expansion.suite["name"],
        "device": {**dataclasses.asdict(device), "devices": devices, "usable": device.usable},
        "utilisation": UTILISATION,
        "runs": len(expansion.runs),
        "jobs": len(expansion.jobs),
        "models": models,
        "data": data,
        "rows": rows,
        "hours": hours,
        "days": hours / devices / 24,
        "results_bytes": kept + devices * state,
        "fetched_bytes": download + round(sum(1e6 * row["megabytes"] for row in data)),
        "unknown": unknown,
        "refused": [refusal for row in rows if (refusal := row["refused"])] + _cost_refusals(expansion, rows, device),
    }


def load_of(run: Run, document: Mapping[str, Any], sizes: Sizes, counts: Counts, length: Length) -> Load:
    """Return what a run puts on a card, from its plan, its parameters and its length."""
    training, batch = run.plan["training"], run.plan["evaluation"]["batch_size"]
    beams = BEAMS if length.generated else 1
    return Load(
        sizes=sizes,
        dtype=weights_dtype(document),
        form=document.get("quantisation"),
        precision=training["precision"],
        trainable=counts.trainable,
        head=counts.head,
        micro_batch=training["micro_batch_size"],
        score_batch=beams * batch if isinstance(batch, int) else 1,  # an automatic batch makes itself fit
        tokens=length.longest,
        checkpointing=bool(training.get("checkpointing")),
        generated=NEW_TOKENS if length.generated else 0,
    )


def weights_dtype(document: Mapping[str, Any]) -> str:
    """Return the dtype in which a model's weights are held: what its file asks for, else the checkpoint's."""
    return document.get("dtype") or (document.get("facts") or {}).get("stored", "fp32")


def _row(runs, document, sizes, facts, expansion, device, measured) -> dict[str, Any]:
    """Return what the runs of one variant on one model in one regime take together."""
    first = runs[0]
    variant, untrained = first.variant, is_untrained(first.variant, document)
    outputs = [len(task["labels"]) or 1 for task in first.plan["tasks"] if task["kind"] != "multiple_choice"]
    shapes = shapes_of(document, outputs)
    counts = count_variant(variant, shapes, len(expansion.model_tasks(first.model)))
    loads, seconds, tokens, steps, basis = [], 0.0, 0.0, 0, "operations"
    known = measured.get((first.model, variant.name))
    adapter = operations.adapter_operations(counts)
    extra = operations.extra_products(variant.method, variant.settings, sizes)
    seen = set()
    for run in runs:
        length = run_length(run.plan, facts, untrained)
        loads.append(load_of(run, document, sizes, counts, length))
        own = training_seconds(run, length, sizes, adapter, extra, device)
        if known and length.tokens:
            own, basis = length.tokens / known["tokens_per_second"], f"measured on {known['device']}"
        if "learning_rate" in run.plan["pending"] and run.task not in seen:
            tuned = tuning_length(run.plan, expansion.suite["regimes"][run.regime]["tune"], facts)
            own += own * tuned / length.tokens if length.tokens else 0.0
            seen.add(run.task)
        if variant.abilities.reads_input:
            seconds += scoring_seconds(length, sizes, adapter + extra, loads[-1], device)
        seconds, tokens, steps = seconds + own, tokens + length.tokens, steps + length.steps
    heaviest = max(loads, key=lambda load: load.scoring if untrained else max(load.training, load.scoring))
    trains, scores = (0 if untrained else heaviest.training), heaviest.scoring * variant.abilities.reads_input
    trainable = 0 if untrained else counts.trainable
    return {
        "kind": "runs",
        "model": first.model,
        "variant": variant.name,
        "regime": first.regime,
        "runs": len(runs),
        "trainable": trainable,
        "steps": steps,
        "tokens": tokens,
        "training_bytes": trains,
        "scoring_bytes": scores,
        "adapter_bytes": ADAPTER * trainable * len(runs),
        "state_bytes": STATE * trainable,
        "hours": seconds / 3600,
        "basis": basis,
        "refused": refuse(f"{variant.name} on {first.model} ({first.regime})", heaviest, trains, scores, device),
    }


def training_seconds(run: Run, length: Length, sizes: Sizes, adapter: float, extra: float, device: Device) -> float:
    """Return the seconds of a run's training at the stated share of the card's peak, launching at the least."""
    training = run.plan["training"]
    each = operations.training_operations(
        sizes,
        length.mean,
        adapter,
        extra,
        whole=run.variant.method == "full",
        checkpointing=bool(training.get("checkpointing")),
    )
    passes = length.steps * -(-training["batch_size"] // training["micro_batch_size"])
    computing = length.tokens * each / (UTILISATION * 1e12 * device.teraflops)
    return max(computing, passes * sizes.layers * operations.STEP_LAUNCH)


def scoring_seconds(length: Length, sizes: Sizes, more: float, load: Load, device: Device) -> float:
    """Return the seconds of a run's scoring.

    Reading takes its operations; generating moves all weights for each token, at half of the card's bandwidth.
    """
    launch = sizes.layers * operations.LAUNCH
    reading = length.scored * operations.forward_operations(sizes, length.mean, more)
    moving = 2 * weight_bytes(sizes, load.dtype, load.form) / device.bandwidth
    seconds = max(reading / (SCORING_UTILISATION * 1e12 * device.teraflops), length.batches * launch)
    return seconds + length.generated * max(moving, launch)


def refuse(words: str, load: Load, training: int, scoring: int, device: Device) -> "str | None":
    """Return why something cannot work on a card and which setting would, or nothing."""
    room = device.usable
    if room is None or max(training, scoring) <= room:
        return None
    short = f"of the {room / GIB:.1f} GiB that tensors may take on {device.name}"
    if training > room:
        setting = remedies(load, room)
        advice = f"{setting} would fit" if setting else "no setting makes it fit: take a larger card or a smaller model"
        return f"{words}: a training step takes about {training / GIB:.1f} GiB {short}; {advice}"
    smaller = next(
        (2**power for power in range(load.score_batch.bit_length() - 1, -1, -1)
         if dataclasses.replace(load, score_batch=2**power).scoring <= room), None,
    )  # fmt: skip
    advice = f"evaluation.batch_size: {smaller} would fit" if smaller else "take a quantised form or a larger card"
    return f"{words}: scoring takes about {scoring / GIB:.1f} GiB {short}; {advice}"


def sensitivity_load(expansion, document, sizes, facts, device) -> tuple[float, Load]:
    """Return the seconds that measuring the sensitivities of a model takes, and what it puts on a card."""
    model, settings = document["name"], expansion.suite["sensitivity"]
    stability = settings["stability"]
    passes = settings["examples"] * len(expansion.model_scores(model))
    passes += max(stability["examples"]) * len(stability["seeds"]) if stability else 0
    seconds, longest = 0.0, 0.0
    for task in expansion.model_tasks(model):
        run = expansion.sensitivity_run(model, task)
        one = next(member for member in run.plan["tasks"] if member["name"] == task)
        length = run_length({**run.plan, "tasks": [one]}, facts, untrained=True)
        each = operations.training_operations(
            sizes, length.mean, 0.0, whole=True, checkpointing=settings["checkpointing"]
        )
        seconds += passes * length.mean * each / (SCORING_UTILISATION * 1e12 * device.teraflops)
        longest = max(longest, length.longest)
    dtype = weights_dtype(document)
    load = Load(
        sizes, dtype, document.get("quantisation"), dtype, 0, 0, settings["batch_size"], 1, longest,
        settings["checkpointing"],
    )  # fmt: skip
    return seconds, load


def _sensitivity_rows(expansion, document, sizes, facts, device) -> list[dict[str, Any]]:
    """Return what measuring the sensitivities of a model takes, where experts are allocated on it."""
    model = document["name"]
    if model not in expansion.allocated_models:
        return []
    tasks = expansion.model_tasks(model)
    seconds, load = sensitivity_load(expansion, document, sizes, facts, device)
    refused = refuse(f"sensitivities of {model}", load, load.training, 0, device)
    if refused:  # its settings are those of the sensitivity, not of training
        refused = refused.replace("training.checkpointing", "sensitivity.checkpointing")
        refused = refused.replace("training.micro_batch_size", "sensitivity.batch_size").replace(
            "a training step", "it"
        )
    return [
        {
            "kind": "sensitivity", "model": model, "variant": "sensitivities", "regime": "", "runs": len(tasks),
            "trainable": 0, "steps": 0, "tokens": 0.0, "training_bytes": load.training, "scoring_bytes": 0,
            "adapter_bytes": 0, "state_bytes": 0, "hours": seconds / 3600, "basis": "operations", "refused": refused,
        }
    ]  # fmt: skip


def _cost_refusals(expansion: Expansion, rows: list[dict], device: Device) -> list[str]:
    """Return why the cost measurement cannot work: it holds all variants of a model at once."""
    room = device.usable
    if not expansion.suite["costs"] or room is None:
        return []
    found = []
    for model in expansion.used_models:
        sizes = known_sizes(expansion.models[model])
        names = {run.variant.name for run in expansion.costs_runs(model)}
        trained = {
            row["variant"]: row["trainable"] for row in rows if row["model"] == model and row["variant"] in names
        }
        if sizes is None or not trained:
            continue
        one = weight_bytes(sizes, weights_dtype(expansion.models[model]), expansion.models[model].get("quantisation"))
        total = len(trained) * one + sum(map(trained_bytes, trained.values()))
        if total > room:
            found.append(
                f"costs of {model}: {len(trained)} variants at once take about {total / GIB:.1f} GiB of the "
                f"{room / GIB:.1f} GiB that tensors may take on {device.name}; costs: null would fit"
            )
    return found
