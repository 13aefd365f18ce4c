"""Telling: what became of a trial, and the sweep that fails the trials whose workers died.

A trial ends once: whoever tells second is refused by the storage, so a worker that was taken for dead and comes back
cannot make a second result.
"""

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from moelora.errors import ConfigError
from moelora.search.ask import CALLED_OFF, DETAILS, FINAL, LEASE, REASON, trials_of
from moelora.search.outcome import Outcome
from moelora.search.study import StudyFile

DIED = "its worker ended without a word"


def tell(study: StudyFile, number: int, outcome: Outcome) -> bool:
    """Settle a trial; return whether it was still open.

    Raises:
        ConfigError: the values are not those of the study's objectives, or there is no trial of this number.
    """
    from optuna.trial import TrialState

    if outcome.values is not None and set(outcome.values) != set(study.objectives):
        raise ConfigError(
            f"trial {number} is told {sorted(outcome.values)}, but the study measures {sorted(study.objectives)}; "
            "tell a value for each of them"
        )
    odd = [f"{name} is {value}" for name, value in (outcome.values or {}).items() if _is_odd(value)]
    if odd:
        outcome = dataclasses.replace(outcome, values=None, reason=", ".join(odd))
    opened = study.open()
    frozen = next((trial for trial in trials_of(opened) if trial.number == number), None)
    if frozen is None:
        raise ConfigError(f"study '{study.name}' has no trial {number}; ask for one first")
    # JSON knows no infinite numbers, and the files that trials leave are JSON
    plain = {key: None if _is_odd(value) else value for key, value in outcome.details.items()}
    attributes: dict[str, Any] = {DETAILS: plain} if plain else {}
    if outcome.values is not None:
        state, values = TrialState.COMPLETE, [outcome.values[name] for name in study.objectives]
    else:
        state, values = (TrialState.PRUNED if outcome.pruned else TrialState.FAIL), None
        attributes |= {REASON: outcome.reason, **({CALLED_OFF: True} if outcome.called_off else {})}
        if state == TrialState.FAIL and not outcome.called_off:
            attributes[FINAL] = True
    return _settle(opened, frozen, state, values, attributes)


def sweep(study: StudyFile) -> list[int]:
    """Fail the trials that are in work by nobody; return their numbers.

    A trial is in work while its lease is alive. One that never came to name its lease is given the time in which a
    lease dies.
    """
    from optuna.trial import TrialState

    opened = study.open()
    # trials first: a lease is made before its trial, so a living worker's lease is there when we look for it
    running = [trial for trial in trials_of(opened) if trial.state == TrialState.RUNNING]
    leases = study.leases.tokens()
    failed = []
    for trial in running:
        token = trial.user_attrs.get(LEASE)
        if token is None:
            in_work = (datetime.now() - trial.datetime_start).total_seconds() <= study.search["lease_seconds"]
        else:
            in_work = leases.get(token, False)
        reason = trial.user_attrs.get(REASON, DIED)  # a worker may have died while it told why
        if not in_work and _settle(opened, trial, TrialState.FAIL, None, {REASON: reason}):
            failed.append(trial.number)
    for token, alive in leases.items():
        if not alive:
            study.leases.release(token)
    return failed


def _is_odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _settle(opened: Any, trial: Any, state: Any, values: "list[float] | None", attributes: Mapping[str, Any]) -> bool:
    """Write attributes and state of a trial unless it has ended; return whether it had not."""
    from optuna.exceptions import UpdateFinishedTrialError

    if trial.state.is_finished():
        return False
    try:
        for key, value in attributes.items():
            opened._storage.set_trial_user_attr(trial._trial_id, key, value)
        opened.tell(trial.number, values, state=state)
    except (UpdateFinishedTrialError, ValueError) as error:
        if isinstance(error, UpdateFinishedTrialError) or "Cannot tell a" in str(error):
            return False
        raise
    return True
