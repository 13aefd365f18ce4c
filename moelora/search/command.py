"""``moelora search``: make a study, work on it, look at it, and choose its winner."""

import argparse
import json
import os
import signal
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from moelora.errors import ConfigError
from moelora.files import atomic_write_json, read_json, sha256_file, write_sealed_json
from moelora.progress import logger, start_logging
from moelora.search.ask import SLOT, ask, open_slots, trials_of
from moelora.search.choose import choose, trials_document, winner_document
from moelora.search.outcome import Outcome
from moelora.search.show import progress_line, trials_text
from moelora.search.study import StudyFile, open_study_file, study_document
from moelora.search.tell import sweep, tell


def create(options: argparse.Namespace) -> int:
    """Make the study in its storage and write ``study.json``; trials that it has stay.

    Raises:
        ConfigError: the storage cannot be used.
        RecordError: a file that the study is made from is missing or damaged.
    """
    from moelora.plans.reading import read_plan
    from moelora.training.identity import source_digest

    start_logging()
    folder = options.out.parent.resolve()
    plan = read_plan(options.plan)
    document = study_document(
        read_json(options.search, "search"),
        plan,
        sensitivities=[
            {"path": os.path.relpath(path.resolve(), folder), "sha256": sha256_file(path)}
            for path in sorted(options.sensitivity)
        ],
        sources=source_digest(plan, options.data, options.base),
        fingerprint=options.fingerprint,
    )
    StudyFile(folder, document).create()
    atomic_write_json(options.out, document)
    logger.info("study %s of %d trials", document["name"], StudyFile(folder, document).slots)
    return 0


def run(options: argparse.Namespace) -> int:
    """Carry out trials; say on stdout how far the study is.

    Raises:
        ConfigError: there is no such slot, or the storage is for one worker and another is at work.
        MoeloraError: data, model or disk stand in the way.
    """
    from moelora.search.worker import work
    from moelora.training.launch import refuse_several

    start_logging()
    refuse_several("search")
    # a scheduler ends a job with this signal: the trial is to be told as called off, as for a person's Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    study = open_study_file(options.study)
    _check_slot(study, options.slot)
    if options.out is not None and options.slot is None:
        raise ConfigError("--out is the result of one slot; name it with --slot")

    @cache
    def objective() -> Callable[[Any], Outcome]:
        return _objective(study, options)

    results = work(study, lambda asked: objective()(asked), None if options.slot is None else [options.slot])
    document = trials_document(study, trials_of(study.open()))
    print(progress_line(document, busy=sum(study.leases.tokens().values())), flush=True)
    if options.out is not None:
        number = results[0].number
        atomic_write_json(options.out, next(t for t in document["trials"] if t["number"] == number))
    return 0


def _objective(study: StudyFile, options: argparse.Namespace) -> Any:
    """Return what carries out trials; torch is imported only when there is a trial to carry out."""
    import torch

    from moelora.search.trial import make_objective

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    return make_objective(study, options.data, options.base)


def _check_slot(study: StudyFile, slot: "int | None") -> None:
    if slot is not None and slot not in range(study.slots):
        raise ConfigError(f"study '{study.name}' has slots 0 to {study.slots - 1}, found {slot}; name one of them")


def ask_by_hand(options: argparse.Namespace) -> int:
    """Print a new trial: its number, its values, what they change in the plan, and its seed.

    Raises:
        ConfigError: the slot has its result, or every open slot is in work.
    """
    study = open_study_file(options.study)
    _check_slot(study, options.slot)
    sweep(study)
    left = open_slots(trials_of(study.open()), study)
    for slot in left if options.slot is None else [options.slot]:
        lease = study.leases.claim(slot, attended=False) if slot in left else None
        if lease is not None:
            asked = ask(study, slot, lease.token)
            changes = study.space.overrides(asked.values)
            answer = {"number": asked.number, "slot": slot, "seed": asked.seed, "values": asked.values, **changes}
            print(json.dumps(answer, sort_keys=True))
            return 0
    raise ConfigError(
        f"study '{study.name}' has {len(left)} open slots of {study.slots}, none of them free; "
        f"tell the trials that are in work, or wait {study.search['lease_seconds']:g} s until they count as dead"
    )


def tell_by_hand(options: argparse.Namespace) -> int:
    """Settle a trial that was asked for by hand.

    Raises:
        ConfigError: there is no such trial, it has ended already, or its values are not those of the objectives.
    """
    study = open_study_file(options.study)
    outcome = Outcome(values=options.values) if options.failed is None else Outcome(reason=options.failed)
    if not tell(study, options.number, outcome):
        raise ConfigError(
            f"trial {options.number} of study '{study.name}' has ended already; `moelora search show` says how"
        )
    trial = next(trial for trial in trials_of(study.open()) if trial.number == options.number)
    study.leases.release(trial.user_attrs.get("lease", ""))
    print(f"trial {options.number} for slot {trial.user_attrs.get(SLOT)}: {trial.state.name.lower()}")
    return 0


def sweep_by_hand(options: argparse.Namespace) -> int:
    """Fail the trials whose workers died, and say which."""
    failed = sweep(open_study_file(options.study))
    print(f"failed: {', '.join(map(str, failed))}" if failed else "every trial in work has a worker")
    return 0


def show(options: argparse.Namespace) -> int:
    """Print every trial in a table, and how far the study is."""
    study = open_study_file(options.study)
    document = trials_document(study, trials_of(study.open()))
    print(trials_text(document))
    print(progress_line(document, busy=sum(study.leases.tokens().values())))
    return 0


def choose_winner(options: argparse.Namespace) -> int:
    """Write every trial, the winner, and its allocation where experts are allocated.

    Raises:
        RecordError: the study is not finished, or no trial was completed.
    """
    start_logging()
    study = open_study_file(options.study)
    document = trials_document(study, trials_of(study.open()))
    winner = choose(document)
    if options.allocation is not None:
        from moelora.search.trial import make_trial_allocation

        write_sealed_json(options.allocation, make_trial_allocation(study, winner["params"]))
    write_sealed_json(options.trials, document)
    write_sealed_json(options.winner, winner_document(study, document, winner))
    logger.info("trial %d wins: %s", winner["number"], _values(document["objectives"], winner["values"]))
    return 0


def _values(names: Sequence[str], values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
