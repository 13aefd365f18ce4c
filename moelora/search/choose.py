"""What a finished study says: all its trials in one file, and the winner that is trained again on fresh seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from moelora.errors import RecordError
from moelora.search.ask import DETAILS, REASON, SEED, SLOT, result
from moelora.search.study import OBJECTIVES, StudyFile


def trials_document(study: StudyFile, trials: Sequence[Any]) -> dict[str, Any]:
    """Return what the report reads: every trial, failed ones included, and the trial that is each slot's result."""
    from optuna.distributions import distribution_to_json

    results = {slot: result(trials, slot, study.search["retries"]) for slot in range(study.slots)}
    counted = {trial.number for trial in results.values() if trial is not None}
    return {
        "schema": 1,
        "study": study.name,
        "suite": study.document["plan"]["suite"],
        "model": study.document["plan"]["model"]["name"],
        "task": study.document["plan"]["task"],
        "synthetic": any(task.get("synthetic") for task in study.document["plan"]["tasks"]),
        "variant": study.search["variant"],
        "searched": study.search["name"],
        "objectives": study.objectives,
        "directions": [OBJECTIVES[name] for name in study.objectives],
        "sampler": study.search["sampler"]["name"],
        "pruner": (study.search["pruner"] or {}).get("name"),
        "slots": study.slots,
        "trials": [
            {
                "number": trial.number,
                "slot": trial.user_attrs.get(SLOT),
                "result": trial.number in counted,
                "state": trial.state.name.lower(),
                "params": trial.params,
                "distributions": {name: distribution_to_json(d) for name, d in sorted(trial.distributions.items())},
                "values": trial.values,
                "reported": [[step, value] for step, value in sorted(trial.intermediate_values.items())],
                "seed": trial.user_attrs.get(SEED),
                "reason": trial.user_attrs.get(REASON),
                "details": trial.user_attrs.get(DETAILS, {}),
                "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
            }
            for trial in sorted(trials, key=lambda trial: trial.number)
        ],
    }


def front(points: Mapping[int, Sequence[float]], directions: Sequence[str]) -> list[int]:
    """Return the names of the points that no other is at least as good as everywhere and better somewhere.

    Args:
        points: values by name.
        directions: ``maximize`` or ``minimize``, one a value.
    """
    signs = [1 if direction == "maximize" else -1 for direction in directions]
    good = {name: [sign * value for sign, value in zip(signs, values, strict=True)] for name, values in points.items()}

    def beaten(name: int) -> bool:
        own = good[name]
        return any(
            other != own and all(theirs >= ours for theirs, ours in zip(other, own, strict=True))
            for other in good.values()
        )

    return [name for name in sorted(good) if not beaten(name)]


def choose(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trial that wins: the best score, and among equals the lower of the other objectives, then the earlier.

    With several objectives it is the end of the Pareto front where the score is best; the front itself is in the
    report.

    Args:
        document: as :func:`trials_document` returns it.

    Raises:
        RecordError: a slot has no result yet, or no trial was completed.
    """
    found = [trial for trial in document["trials"] if trial["result"]]
    if len(found) < document["slots"]:
        raise RecordError(
            f"study '{document['study']}' has {len(found)} of {document['slots']} results; let its trials finish "
            "(moelora search run) before a winner is chosen"
        )
    completed = [trial for trial in found if trial["state"] == "complete"]
    if not completed:
        reasons = sorted({trial["reason"] or "no reason" for trial in found})
        raise RecordError(
            f"none of the {len(found)} trials of study '{document['study']}' was completed, so none can win; "
            f"reasons: {'; '.join(reasons)[:400]}"
        )
    # the score is looked up by name: the objectives may stand in any order, and there may be none but the score
    signs = [-1 if direction == "maximize" else 1 for direction in document["directions"]]
    place = document["objectives"].index("score")

    def rank(trial: Mapping[str, Any]) -> tuple:
        costs = [sign * value for sign, value in zip(signs, trial["values"], strict=True)]
        return (costs[place], costs, trial["number"])

    return min(completed, key=rank)


def winner_document(study: StudyFile, document: Mapping[str, Any], winner: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``winner.json``: what the plans of the winner's runs take over."""
    changed = study.space.overrides(winner["params"])
    return {
        "schema": 1,
        "study": study.name,
        "trial": winner["number"],
        "trials": document["slots"],
        "params": winner["params"],
        "values": dict(zip(document["objectives"], winner["values"], strict=True)),
        "settings": changed["settings"],
        "training": changed["training"],
        "split": f"cut from train, {study.search['validation_fraction']:g} of it; one seed",
    }
