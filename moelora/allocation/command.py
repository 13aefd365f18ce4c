"""``moelora allocate``: from sensitivity files to experts per module."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moelora.allocation.documents import linears, read_sensitivities, scores_of
from moelora.allocation.prices import chosen_linears, parameter_price
from moelora.allocation.settings import fill_settings
from moelora.allocation.strategies import Problem, allocate
from moelora.errors import AllocationError
from moelora.files import sha256_file, write_sealed_json
from moelora.methods import Linear


def make_allocation(
    paths: Sequence["Path | str"],
    settings: Mapping[str, Any],
    method: str = "lora_smoe",
    method_settings: "Mapping[str, Any] | None" = None,
    given: "Path | str | None" = None,
) -> dict[str, Any]:
    """Return the allocation document that sensitivity files lead to.

    Args:
        paths: one file a task.
        settings: ``allocation`` as a suite has it; what is not said is the default.
        method: whose modules get experts, and whose parameters are counted.
        method_settings: settings of the method that differ from its defaults.
        given: LoRA-SMoE's file of module and count, whose experts are taken instead of a strategy's.

    Raises:
        AllocationError: the settings contradict each other, the files do not belong together, or the budget cannot be
            reached.
        ConfigError: the method or a setting is unknown.
        RecordError: a file is missing or damaged.
    """
    settings = fill_settings(settings)
    documents = read_sensitivities(paths)
    if documents[0]["score"] != settings["score"]:
        raise AllocationError(
            f"the allocation asks for sensitivities of score '{settings['score']}', found '{documents[0]['score']}' in "
            f"{documents[0]['path']}"
        )
    everything = linears(documents[0])
    chosen = chosen_linears(method, method_settings or {}, everything)
    price = parameter_price(method, method_settings or {}, everything)
    scores = {document["task"]: scores_of(document) for document in documents}
    if given is None:
        experts = allocate(Problem(chosen, scores, price), settings)
    else:
        experts = _take_counts(given, chosen)
        settings = {"score": settings["score"]}
    return {
        "schema": 2,
        "model": documents[0]["model"],
        "strategy": settings.get("strategy", "given"),
        "settings": settings,
        "method": method,
        "method_settings": dict(method_settings or {}),
        "experts": experts,
        "budget": sum(experts.values()),
        "parameters": sum(price(module, count) for module, count in experts.items()),
        "types": {linear.name: linear.kind for linear in chosen},
        "layers": {linear.name: linear.layer for linear in chosen},
        "shapes": {linear.name: [linear.outputs, linear.inputs] for linear in chosen},
        "sensitivity": {
            document["task"]: {row["module"]: row["score"] for row in document["modules"] if row["module"] in experts}
            for document in documents
        },
        "from": [{"task": document["task"], "sha256": sha256_file(document["path"])} for document in documents],
    }


def _take_counts(path: "Path | str", chosen: Sequence[Linear]) -> dict[str, int]:
    from moelora.interchange.expert_counts import read_counts

    counts = read_counts(path, [linear.name for linear in chosen])
    return {linear.name: counts.get(linear.name, 0) for linear in sorted(chosen, key=lambda linear: linear.name)}


def run(options: argparse.Namespace) -> int:
    """Read the sensitivities, allocate, and write ``allocation.json``.

    Raises:
        AllocationError: as :func:`make_allocation` says.
    """
    settings = dict(options.settings)
    for key in ("strategy", "percentile", "pool"):
        if getattr(options, key) is not None:
            settings[key] = getattr(options, key)
    for unit in ("experts", "parameters"):
        if getattr(options, unit) is not None:
            settings["budget"] = {unit: getattr(options, unit)}
    if options.given and set(settings) - {"score"}:
        raise AllocationError(
            f"--given takes the experts from {options.given} as they are, so it goes with no {sorted(settings)}; "
            "leave one of the two out"
        )
    document = make_allocation(options.sensitivity, settings, options.method, options.method_settings, options.given)
    if options.counts:
        from moelora.interchange import write_expert_counts

        write_expert_counts(options.counts, document["experts"])
    write_sealed_json(options.out, document)
    print(_summary(document))
    return 0


def _summary(document: Mapping[str, Any]) -> str:
    kinds: Counter = Counter()
    for module, count in document["experts"].items():
        kinds[document["types"][module]] += count
    used = sum(map(bool, document["experts"].values()))
    return (
        f"{document['budget']} experts ({document['parameters']} parameters) on {used} of {len(document['experts'])} "
        f"modules: {dict(sorted(kinds.items()))}"
    )
